"""Synthetic films are valid DICOM, the same for one seed, and read as what they claim to show."""

import csv
import warnings
from pathlib import Path

import numpy as np
import pytest

from device_client.data.dicom.film import FilmRefused, FilmSettings
from device_client.data.dicom.header import read_header
from device_client.data.dicom.reading import read_film
from simulators.__main__ import main
from simulators.films.drawing import draw
from simulators.films.faults import FAULTS
from simulators.films.folder import LABELS, Plan, films_of, make_films
from simulators.films.writing import SYNTAXES, available_syntaxes
from tests.device_client.data.extras import extra

pydicom = extra("pydicom")
REQUIRED = {
    1: """SOPClassUID SOPInstanceUID StudyInstanceUID SeriesInstanceUID Modality PresentationIntentType ImageType
    ImageLaterality AnatomicRegionSequence SamplesPerPixel PhotometricInterpretation Rows Columns BitsAllocated
    BitsStored HighBit PixelRepresentation PixelIntensityRelationship PixelIntensityRelationshipSign RescaleIntercept
    RescaleSlope RescaleType PresentationLUTShape LossyImageCompression BurnedInAnnotation ImagerPixelSpacing
    PositionerType OrganExposed ViewCodeSequence WindowCenter WindowWidth PixelData""",
    2: """PatientName PatientID PatientBirthDate PatientSex StudyDate StudyTime ReferringPhysicianName StudyID
    AccessionNumber SeriesNumber Manufacturer InstanceNumber PatientOrientation DetectorType
    AcquisitionContextSequence""",
}
"""By type: tags that PS3.3 A.27 and its modules require; those of type 1 may not be empty."""


def test_films_have_the_tags_of_their_kind_and_are_read_without_a_warning(tmp_path: Path) -> None:
    assert make_films(tmp_path, Plan(patients=4, rows=200)) == 16
    seen = set()
    for path in sorted(tmp_path.glob("film-*")):
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            film = pydicom.dcmread(path)
            assert film.pixel_array.shape == (film.Rows, film.Columns)
        assert [name for name in REQUIRED[1].split() if film.get(name) in (None, "")] == []
        assert [name for name in REQUIRED[2].split() if name not in film] == []
        assert "ViewModifierCodeSequence" in film.ViewCodeSequence[0]
        assert film.SeriesDescription == "SYNTHETIC"
        seen.add((film.PhotometricInterpretation, film.BitsStored, film.PixelSpacing[0], film.WindowCenter))
        read = read_film(path, FilmSettings(spacing_mm=None, crop=True))
        assert (read.laterality, read.view, read.warnings) == (film.ImageLaterality, film.ViewPosition, ())
    assert len(seen) == 2
    assert {one[0] for one in seen} == {"MONOCHROME1", "MONOCHROME2"}


def test_both_scanners_show_the_same_breast_alike(tmp_path: Path) -> None:
    make_films(tmp_path, Plan(patients=2, films=1, rows=200, syntaxes=("explicit",)))
    means = [read_film(path, FilmSettings(spacing_mm=None, crop=True)).pixels for path in tmp_path.glob("film-*")]
    one, other = (float(np.median(pixels[pixels > 0.1])) for pixels in means)
    assert abs(one - other) < 0.1


def test_each_transfer_syntax_is_used(tmp_path: Path) -> None:
    make_films(tmp_path, Plan(patients=2, rows=200))
    used = {read_header(path).transfer_syntax for path in tmp_path.glob("film-*")}
    assert used == {SYNTAXES[name] for name in available_syntaxes()}
    assert len(used) == len(SYNTAXES)


def test_a_seed_gives_the_same_films() -> None:
    plan = Plan(patients=2, films=1, rows=200, seed=3)
    once, again = ([(film.PixelData, film.SOPInstanceUID, row) for film, row in films_of(plan)] for _ in range(2))
    assert once == again
    other = [film.PixelData for film, _row in films_of(Plan(patients=2, films=1, rows=200, seed=4))]
    assert other != [one[0] for one in once]


def test_a_finding_is_where_its_row_says(tmp_path: Path) -> None:
    make_films(tmp_path, Plan(patients=6, rows=240, syntaxes=("explicit",)))
    with (tmp_path / LABELS).open(newline="") as file:
        rows = {row["SOPInstanceUID"]: row for row in csv.DictReader(file)}
    assert {row["label"] for row in rows.values()} == {"normal", "mass", "calcification"}
    for path in tmp_path.glob("film-*"):
        film = pydicom.dcmread(path)
        row = rows[film.SOPInstanceUID]
        if row["label"] != "mass":
            assert (row["label"] == "normal") == (row["row"] == "-1")
            continue
        values = film.pixel_array.astype(float)
        bright = values.max() - values if film.PhotometricInterpretation == "MONOCHROME1" else values
        y, x, radius = (int(row[name]) for name in ("row", "column", "radius"))
        inside, around = bright[y - 1 : y + 2, x - 1 : x + 2], bright[y - 2 * radius : y + 2 * radius + 1, x]
        assert inside.mean() > 1.2 * around[[0, 1, -1, -2]].mean()


@pytest.mark.parametrize("view", ["CC", "MLO"])
def test_calcifications_are_specks(view: str) -> None:
    drawings = [
        draw(400, 300, "CC" if view == "CC" else "MLO", finding, np.random.default_rng(1))
        for finding in ("normal", "calcification")
    ]
    changed = np.abs(drawings[1].pixels - drawings[0].pixels) > 0.3
    assert 12 < changed.sum() < 600


def test_faults_are_refused_or_films(tmp_path: Path) -> None:
    make_films(tmp_path, Plan(patients=1, films=1, rows=320, faults=True))
    outcomes = {}
    for fault in FAULTS:
        try:
            read_film(tmp_path / f"fault-{fault}", FilmSettings(spacing_mm=None, crop=True))
        except FilmRefused as refused:
            outcomes[fault] = refused.code
    assert outcomes == {
        "damaged": "length",
        "not-dicom": "not_dicom",
        "modality": "modality",
        "colour": "colour",
        "multi-frame": "multi_frame",
        "missing-tag": "missing_tag",
    }


def test_the_command_makes_a_new_folder_only(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["films", "--out", str(tmp_path / "made"), "--patients", "1", "--rows", "200", "--dicomdir"]
    assert main(arguments) == 0
    assert "4 synthetic films of 1 patients" in capsys.readouterr().out
    assert (tmp_path / "made" / "DICOMDIR").is_file()
    assert main(arguments) == 2
    assert "has files already" in capsys.readouterr().err
