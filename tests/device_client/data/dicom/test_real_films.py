"""Real DICOM mammograms that lie beside the repository: each gives what is expected of it."""

from pathlib import Path

import pytest

from device_client.data.dicom.film import FilmRefused, FilmSettings
from device_client.data.dicom.header import read_header
from device_client.data.dicom.reading import read_film
from tests.device_client.data.extras import extra

extra("pydicom")
FOLDER = Path(__file__).parents[5] / "shared" / "data" / "mg_dicom"
pytestmark = pytest.mark.skipif(not FOLDER.is_dir(), reason=f"needs {FOLDER}")
CROPPED = FilmSettings(spacing_mm=None, crop=True)


@pytest.mark.parametrize(
    ("name", "laterality", "view", "shape"),
    [
        ("Mass-Test_P_00173_LEFT_CC", "L", "CC", (1108, 716)),
        ("Mass-Test_P_00173_LEFT_MLO", "L", "MLO", (1116, 712)),
        ("Mass-Test_P_00173_RIGHT_CC", "R", "CC", (1140, 716)),
        ("Mass-Test_P_00173_RIGHT_MLO", "R", "MLO", (1134, 730)),
        ("MG1_J2KI", "L", "MLO", (4664, 3064)),
    ],
)
def test_a_film(name: str, laterality: str, view: str, shape: tuple[int, int]) -> None:
    film = read_film(FOLDER / f"{name}.dcm", CROPPED)
    assert (film.laterality, film.view) == (laterality, view)
    assert film.identity.patient == ("3MG1" if name == "MG1_J2KI" else "P_00173"), "one woman, whatever PatientID says"
    height, width = film.pixels.shape
    assert 0.9 * shape[0] < height <= shape[0]
    assert 0.3 * shape[1] < width < 0.75 * shape[1]
    assert film.pixels[:, : width // 3].mean() > 1.5 * film.pixels[:, -width // 3 :].mean(), "chest wall at the left"
    assert (film.warnings != ()) == (name == "MG1_J2KI"), "of modality RG"


def test_twelve_bit_jpeg_has_a_header_and_no_decoder() -> None:
    assert read_header(FOLDER / "MG1_JPLY.dcm").transfer_syntax == "1.2.840.10008.1.2.4.51"
    with pytest.raises(FilmRefused) as caught:
        read_film(FOLDER / "MG1_JPLY.dcm", CROPPED)
    assert caught.value.code == "cannot_decode"


def test_the_calibration_image_shows_no_breast() -> None:
    with pytest.raises(FilmRefused) as caught:
        read_film(FOLDER / "MG_Explicit_Little.dcm", CROPPED)
    assert caught.value.code == "not_a_breast"
    film = read_film(FOLDER / "MG_Explicit_Little.dcm", FilmSettings(spacing_mm=None, crop=False))
    assert (film.spacing_mm, film.view, film.laterality) == (0.25, "CC", "R")
    assert "no breast" in film.warnings[-1]
