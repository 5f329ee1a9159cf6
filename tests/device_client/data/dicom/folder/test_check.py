"""`dicom-check` counts what can be used, and warns of what should have been removed."""

import json
from pathlib import Path

import pytest

from device_client.__main__ import main
from simulators.films.folder import LABELS, Plan, films_of, make_films
from simulators.films.writing import write
from tests.device_client.data.dicom.dicom_files import CANARY
from tests.device_client.data.extras import extra

extra("pydicom")
extra("PIL")


def test_counts_and_warnings(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make_films(tmp_path, Plan(patients=6, rows=320, faults=True))
    arguments = ["dicom-check", str(tmp_path), "--labels", str(tmp_path / LABELS)]
    assert main([*arguments, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["files"], found["usable"], len(found["patients"])) == (35, 27, 9)
    assert found["classes"]["mass"] == {"films": 4, "patients": 2}
    assert {one["code"] for one in found["refused"]} == {
        *("not_dicom", "length", "modality", "colour", "multi_frame", "missing_tag")
    }
    assert found["views"] == {"L CC": 9, "L MLO": 6, "R CC": 6, "R MLO": 6}
    assert found["scanners"] == {"SYNTHETIC Beta": 14, "SYNTHETIC Alpha": 13}
    assert found["identifying_tags"].keys() == {
        *("PatientName", "PatientBirthDate", "AccessionNumber", "InstitutionName")
    }
    assert (found["burnt_in_by_tag"], found["burnt_in_by_look"]) == (1, 2)
    assert main(arguments) == 0
    out = capsys.readouterr().out
    assert max(map(len, out.splitlines())) < 80
    assert len(out.splitlines()) <= 24
    assert "27 of 35 files can be used; 9 patients" in out


def test_labels_that_fit_no_film_are_counted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for number, (film, _row) in enumerate(films_of(Plan(patients=3, films=1, rows=200))):
        film.PatientID = f"00{number + 1}"
        write(film, tmp_path / str(number), "explicit")
    labels = tmp_path / LABELS
    labels.write_text("PatientID,label\n1,yes\n2,no\n003,no\nelse,yes\n")
    arguments = ["dicom-check", str(tmp_path), "--labels", str(labels)]
    assert main(arguments) == 0
    shown = " ".join(capsys.readouterr().out.split())
    assert "note 3 labels are of patients or films that are not there" in shown
    assert "WARNING 2 labels lack the leading zeros" in shown
    assert "class no: 1 films" in shown
    labels.write_text("PatientID,label\n001,yes\n002,no\n003,no\n")
    assert main(arguments) == 0
    shown = capsys.readouterr().out
    assert "labels" not in shown
    assert "3 patients, each with 1 films" in shown


def test_clean_films_give_no_warning(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make_films(tmp_path, Plan(patients=6, rows=320, seed=2))
    assert main(["dicom-check", str(tmp_path)]) == 0
    assert "WARNING" not in capsys.readouterr().out


def test_a_side_marker_is_no_text(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from simulators.films.faults import burn_text  # noqa: PLC0415 — needs Pillow

    for number, (film, _row) in enumerate(films_of(Plan(patients=2, rows=320))):
        burn_text(film, "R CC" if number % 2 else "L MLO")
        write(film, tmp_path / str(number), "explicit")
    assert main(["dicom-check", str(tmp_path), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["burnt_in_by_look"] == 0


@pytest.mark.parametrize("labelled", [True, False])
def test_nothing_usable_is_a_fault(tmp_path: Path, capsys: pytest.CaptureFixture[str], *, labelled: bool) -> None:
    (tmp_path / "doe").write_text("x")
    labels = ["--labels", str(tmp_path / "no-such-doe.csv")] if labelled else []
    assert main(["dicom-check", str(tmp_path), *labels]) == 2
    printed = capsys.readouterr()
    assert "doe" not in printed.out + printed.err
    assert "Traceback" not in printed.err


def test_nothing_printed_identifies(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "Canary^Zoe CANARY-4711"
    folder.mkdir()
    for number, (film, _row) in enumerate(films_of(Plan(patients=1, rows=200))):
        for name, value in CANARY.items():
            if not name.endswith("UID"):
                setattr(film, name, value)
        write(film, folder / f"CANARY-4711-{number}", "explicit")
    (folder / "CANARY.txt").write_text("CANARY")
    labels = tmp_path / "CANARY.csv"
    labels.write_text("PatientID,label\nCANARY-4711,yes\n")
    for arguments in ([], ["--json"], ["--labels", str(labels)]):
        assert main(["dicom-check", str(folder), *arguments]) == 0
    labels.write_text("PatientID,label\nCANARY-4711,\n")
    assert main(["dicom-check", str(folder), "--labels", str(labels)]) == 2
    printed = capfd.readouterr()
    for value in ("canary", "4711", "19470811"):
        assert value not in (printed.out + printed.err).lower()
    assert "PatientBirthDate (4)" in printed.out
