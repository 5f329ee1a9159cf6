"""A mammogram is read to the values that were written, whatever its transfer syntax, bits and sense."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from device_client.data.dicom import geometry
from device_client.data.dicom.film import Film, FilmSettings
from device_client.data.dicom.reading import read_film
from tests.device_client.data.dicom.dicom_files import SYNTAXES, breast, content, dataset, pydicom
from tests.device_client.data.extras import extra

codes, snomed = extra("pydicom.sr.codedict").codes, extra("pydicom.sr._snomed_dict").mapping["SRT"]
SPECIMEN = "127457009"
"""Of tissue: no view of a breast."""
WHOLE = FilmSettings(spacing_mm=None, crop=False)


def read(folder: Path, made: Any, syntax: str = "explicit", settings: FilmSettings = WHOLE) -> Film:
    path = folder / "film.dcm"
    path.write_bytes(content(made, syntax))
    return read_film(path, settings)


@pytest.mark.parametrize("bits", [8, 10, 12, 16])
@pytest.mark.parametrize("signed", [False, True])
@pytest.mark.parametrize("syntax", sorted(SYNTAXES))
def test_values_are_exact(tmp_path: Path, syntax: str, bits: int, signed: bool) -> None:
    values = breast(bits=bits) - ((1 << (bits - 1)) if signed else 0)
    film = read(tmp_path, dataset(values, bits=bits, signed=signed), syntax)
    low = -(1 << (bits - 1)) if signed else 0
    assert np.array_equal(film.pixels, ((values - low) / ((1 << bits) - 1)).astype(np.float32))


def test_bits_outside_of_the_stored_ones_are_ignored(tmp_path: Path) -> None:
    values = breast(bits=10)
    noise = np.random.default_rng(1).integers(0, 4, values.shape)
    made = dataset((values << 4) | noise | (noise << 14), bits=16, BitsStored=10, HighBit=13)
    assert np.array_equal(read(tmp_path, made).pixels, (values / 1023).astype(np.float32))


def test_monochrome1_is_inverted(tmp_path: Path) -> None:
    values = breast()
    film = read(tmp_path, dataset(4095 - values, PhotometricInterpretation="MONOCHROME1"))
    assert np.allclose(film.pixels, values / 4095, atol=1e-6)


@pytest.mark.parametrize("kind", ["LINEAR", "LINEAR_EXACT", "SIGMOID"])
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_rescale_then_the_first_window_as_pydicom_computes_them(tmp_path: Path, kind: str) -> None:
    values = breast()
    tags = {"RescaleSlope": 2, "RescaleIntercept": -100, "WindowCenter": [3000, 1], "WindowWidth": [2500, 2]}
    made = dataset(values, VOILUTFunction=kind, **tags)
    modality = pydicom.pixels.apply_modality_lut(values.astype(np.uint16), made)
    expected = pydicom.pixels.apply_voi_lut(modality, made, index=0)
    low, span = (2 * 0 - 100, 2 * 4095)  # pydicom maps the window to the range of the modality step
    assert np.allclose(read(tmp_path, made).pixels, (expected - low) / span, atol=1e-5)


def test_tables_of_modality_and_of_values_of_interest(tmp_path: Path) -> None:
    values = breast(bits=8)
    tables = []
    for entries, bits in ((np.arange(256) * 3, 10), (np.sqrt(np.arange(766)) * 9, 8)):
        table = pydicom.Dataset()
        table.LUTDescriptor = [len(entries), 0, bits]
        table["LUTDescriptor"].VR = "US"
        table.LUTData = [int(one) for one in entries]
        table["LUTData"].VR = "US"
        tables.append(table)
    made = dataset(values, bits=8, ModalityLUTSequence=[tables[0]], VOILUTSequence=[tables[1]])
    expected = (np.sqrt(values * 3) * 9).astype(int) / 255
    assert np.allclose(read(tmp_path, made).pixels, expected, atol=1e-6)


def test_padding_is_background(tmp_path: Path) -> None:
    values = breast()
    values[:5] = 4095
    film = read(tmp_path, dataset(values, PixelPaddingValue=4095))
    assert film.pixels[:5].max() == 0


@pytest.mark.parametrize(
    ("tags", "expected"),
    [
        ({"ImageLaterality": "R"}, ("R", "MLO")),
        ({"ImageLaterality": None, "Laterality": "R", "ViewPosition": "CC"}, ("R", "CC")),
        ({"ImageLaterality": None, "Laterality": "L", "ViewPosition": None, "PatientOrientation": "CC"}, ("L", "CC")),
        ({"ImageLaterality": None, "ViewPosition": None}, ("", "")),
    ],
)
def test_laterality_and_view_and_the_chest_wall_at_the_left(tmp_path: Path, tags: Any, expected: Any) -> None:
    for left in (True, False):
        values = breast(left=left)
        film = read(tmp_path, dataset(values, **tags))
        assert (film.laterality, film.view) == expected
        assert np.allclose(film.pixels, (values if left else values[:, ::-1]) / 4095, atol=1e-6)


def test_the_view_by_its_code(tmp_path: Path) -> None:
    view = pydicom.Dataset()
    view.CodeValue, view.CodingSchemeDesignator, view.CodeMeaning = "R-10242", "SRT", "cranio-caudal"
    assert read(tmp_path, dataset(breast(), ViewPosition=None, ViewCodeSequence=[view])).view == "CC"


def test_codes_and_meanings_of_views_are_those_of_the_standard() -> None:
    """As pydicom has CID 4014; its old codes are those that the newer ones replaced."""
    views = [view for view in codes.cid4014.concepts.values() if view.value != SPECIMEN]
    newer = {view.value: geometry._VIEW_MEANINGS.get(view.meaning) for view in views}
    assert len(newer) == 10
    assert newer == {code: name for code, name in geometry._VIEW_CODES.items() if code.isdigit()}
    older = {code: name for code, name in geometry._VIEW_CODES.items() if not code.isdigit()}
    assert older == {old: newer[snomed[old]] for old in older}
    assert len(older) == len(newer)


@pytest.mark.parametrize(
    ("patient_id", "patient"),
    [
        ("Mass-Test_P_00173_LEFT_CC", "P_00173"),
        ("Calc-Training_P_00041_RIGHT_MLO_1", "P_00041"),
        ("62354PQGRRST", "62354PQGRRST"),
        ("Mass-Test_P_00173", "Mass-Test_P_00173"),
    ],
)
def test_whose_film_it_is(tmp_path: Path, patient_id: str, patient: str) -> None:
    identity = read(tmp_path, dataset(breast(), PatientID=patient_id)).identity
    assert (identity.patient, identity.patient_id) == (patient, patient_id)


def test_spacing_by_area_averaging(tmp_path: Path) -> None:
    values = breast()
    settings = FilmSettings(spacing_mm=0.2, crop=False)
    film = read(tmp_path, dataset(values, PixelSpacing=[0.1, 0.1]), settings=settings)
    assert film.spacing_mm == 0.2
    expected = values.reshape(48, 2, 32, 2).mean(axis=(1, 3)) / 4095
    assert np.allclose(film.pixels, expected, atol=1e-6)
    magnified = dataset(values, ImagerPixelSpacing=[0.2, 0.2], EstimatedRadiographicMagnificationFactor=2)
    assert np.allclose(read(tmp_path, magnified, settings=settings).pixels, expected, atol=1e-6)
    assert "spacing" in read(tmp_path, dataset(values), settings=settings).warnings[0]


def _mean_over_columns(image: geometry.Image, width: int) -> geometry.Image:
    """By the definition, in one piece: the integral at fractional edges."""
    count = image.shape[1]
    edges = np.linspace(0, count, width + 1)
    whole = np.minimum(edges.astype(np.int64), count - 1)
    integral = np.pad(np.cumsum(image, axis=1, dtype=np.float64), ((0, 0), (1, 0)))
    at_edges = integral[:, whole] * (1 - (edges - whole)) + integral[:, whole + 1] * (edges - whole)
    return (np.diff(at_edges, axis=1) * (width / count)).astype(np.float32)


@pytest.mark.parametrize("size", [(1, 1), (130, 1500), (65, 1025), (7, 2200), (200, 90)])
def test_averaging_in_blocks_changes_no_bit(size: tuple[int, int]) -> None:
    image = np.random.default_rng(0).random((130, 1500), dtype=np.float32)[::-1]
    wanted = image if size[1] == image.shape[1] else _mean_over_columns(image, size[1])
    wanted = wanted if size[0] == image.shape[0] else _mean_over_columns(wanted.T, size[0]).T
    assert np.array_equal(geometry.averaged(image, *size), wanted)


def test_crop_leaves_the_breast_without_marker_and_frame(tmp_path: Path) -> None:
    values = breast(192, 256)
    marked = values.copy()
    marked[10:40, 220:250] = 4095
    marked[:3] = 4095
    film = read(tmp_path, dataset(marked), settings=FilmSettings(spacing_mm=None, crop=True))
    rows, columns = np.nonzero(values)
    height, width = np.ptp(rows) + 1, np.ptp(columns) + 1
    assert height - 4 <= film.pixels.shape[0] <= height + 8
    assert width - 10 <= film.pixels.shape[1] <= width + 8
    assert film.pixels.max() < 0.95, "neither marker nor frame"


def test_a_jpeg_baseline_film(tmp_path: Path) -> None:
    import io  # noqa: PLC0415

    from PIL import Image  # noqa: PLC0415

    values = (np.add.outer(np.arange(96), np.arange(64)) % 160).astype(np.uint8)
    stream = io.BytesIO()
    Image.fromarray(values).save(stream, "JPEG", quality=100)
    made = dataset(values, bits=8)
    made.PixelData = pydicom.encaps.encapsulate([stream.getvalue()])
    made["PixelData"].is_undefined_length = True
    made.file_meta.TransferSyntaxUID = "1.2.840.10008.1.2.4.50"
    path = tmp_path / "film.dcm"
    pydicom.dcmwrite(path, made, enforce_file_format=True)
    assert np.abs(read_film(path, WHOLE).pixels * 255 - values).mean() < 8
