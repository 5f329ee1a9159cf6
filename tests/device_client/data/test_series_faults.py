"""Each fault of a table is one line with file, row and column, and what to do."""

import re
from pathlib import Path

import pytest

from device_client.data.faults import DataError
from device_client.data.time_series import CsvForm, read_time_series
from tests.device_client.data.files import HEADER, walk, write_csv
from tests.device_client.data.test_time_series import form

Rows = list[list[object]]


def changed(row: int, column: int, value: object) -> Rows:
    rows = walk(3.0)
    rows[row][column] = value
    return rows


def one_cell_less(row: int) -> Rows:
    rows = walk(3.0)
    del rows[row][-1]
    return rows


def backwards() -> Rows:
    rows = walk(3.0)
    return [*rows[:20], rows[21], rows[20], *rows[22:]]


@pytest.mark.parametrize(
    ("rows", "changes", "message"),
    [
        (changed(5, 1, "fast"), {}, "row 7, column 'x': 'fast' is not a number; a missing number is"),
        (changed(5, 1, "1,5"), {}, "row 7, column 'x': '1,5' is not a number; decimal=',' may be right"),
        (one_cell_less(5), {}, "row 7 has 3 cells, but the first row has 4; correct the row"),
        (walk(3.0), {"columns": ("x", "z")}, "no column 'z'; its columns are 't', 'x', 'y', 'label'"),
        (walk(3.0), {"csv": CsvForm(delimiter=";")}, "its columns are 't,x,y,label'; delimiter=',' may be right"),
        (changed(5, 0, ""), {}, "row 7, column 't': '' is not a number of s; each row needs a time stamp"),
        (changed(5, 0, "2026-03-01T12:00:00Z"), {}, "column 't': .* time_unit='iso' may be right"),
        (walk(3.0), {"time_unit": "iso"}, "row 2, column 't': '0.0' is not an ISO 8601 time, .* time_unit='s'"),
        (backwards(), {}, "row 23, column 't': the time stamp is 0.1 s before that of row 22; sort the rows"),
        (changed(5, 0, 0.4), {}, "row 7, column 't': the time stamp is the same as that of row 6; sort the rows"),
        (walk(3.0, rate=20.0), {}, "its rows come at 20 Hz, but the windows at 10 Hz; set resample=True"),
        ([[row[0] * 1000, *row[1:]] for row in walk(3.0)], {}, "come at 0.01 Hz, .* time_unit='ms' may be right"),  # type: ignore[operator]
        (changed(5, 3, "wlak"), {}, "row 7, column 'label': label 'wlak' is none of the classes 'rest', 'walk'; tra"),
        (walk(0.8), {}, "there is not one window of 1 s; the longest piece .* takes 0.8 s .*row 2.*; give shorter"),
        (walk(3.0, label=""), {}, "none of 3 windows has a label by the rule"),
        ([], {}, "has no rows of data; delete it, or leave it out"),
    ],
)
def test_a_fault_names_its_place_and_a_remedy(
    tmp_path: Path, rows: Rows, changes: dict[str, object], message: str
) -> None:
    path = write_csv(tmp_path / "walk.csv", HEADER, rows)
    with pytest.raises(DataError) as raised:
        read_time_series(path, form(**changes))
    said = str(raised.value)
    assert re.search(message.replace("('", "\\('"), said), said
    assert str(path) in said
    assert "\n" not in said


def test_an_empty_person_is_named(tmp_path: Path) -> None:
    rows = [[*row, "" if at == 12 else "anna"] for at, row in enumerate(walk(3.0))]
    path = write_csv(tmp_path / "a.csv", (*HEADER, "who"), rows)
    with pytest.raises(DataError, match="row 14, column 'who' is empty; each row needs one"):
        read_time_series(path, form(person="who"))


@pytest.mark.parametrize(
    ("content", "encoding", "message"),
    [
        (b"", "utf-8", "a.csv is empty; delete it, or leave it out"),
        ("größe;t\n1;2\n".encode("cp1252"), "utf-8", "a.csv is not utf-8 text .byte 0xf6.; give its encoding"),
        (b"a,b\n1,2\n", "utf-99", "encoding='utf-99' is not known to Python"),
        (b't,x,y,label\n0,"1,2,walk\n', "utf-8", "a.csv, row 2: .*; is this a CSV file?"),
        (b"x,x,t,y,label\n1,2,3,4,walk\n", "utf-8", "row 1: column 'x' occurs more than once"),
    ],
)
def test_an_unreadable_file_is_named(tmp_path: Path, content: bytes, encoding: str, message: str) -> None:
    path = tmp_path / "a.csv"
    path.write_bytes(content)
    with pytest.raises(DataError, match=message):
        read_time_series(path, form(csv=CsvForm(encoding=encoding)))


def test_missing_files_and_folders_without_data(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no.csv does not exist; give the path"):
        read_time_series(tmp_path / "no.csv", form())
    with pytest.raises(DataError, match=r"has no file that ends in .csv"):
        read_time_series(tmp_path, form())
    write_csv(tmp_path / "a.csv", HEADER, walk(3.0))
    with pytest.raises(DataError, match=r"finds no person in 'a.csv'"):
        read_time_series(tmp_path, form(person_pattern=r"s(\d+)"))
    with pytest.raises(DataError, match="given twice"):
        read_time_series(tmp_path, form(person_pattern=r"(\w)"), person="anna")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"columns": "x"}, "columns='x' must be a tuple"),
        ({"columns": ("x", "x")}, "must be a tuple of different names"),
        ({"rate_hz": 0.0}, "rate_hz=0.0 must be a number above 0"),
        ({"step_seconds": 0.0}, "step_seconds=0.0 must be a number above 0"),
        ({"window_seconds": 0.01}, "must each have at least one sample"),
        ({"time_unit": "min"}, "time_unit='min' must be one of 's', 'ms'"),
        ({"label_rule": "most"}, "label_rule='most' must be one of"),
        ({"classes": ()}, "belong together"),
        ({"label_names": {"w": "run"}}, "label_names leads to 'run'"),
        ({"person": "p", "person_pattern": "(.)"}, "not both"),
        ({"person_pattern": "s1"}, "needs one group"),
        ({"person_pattern": "s(1"}, "is not a regular expression"),
        ({"time": None, "resample": True}, "need time stamps"),
        ({"fill_seconds": -1.0}, "fill_seconds=-1.0 must be"),
    ],
)
def test_a_contradictory_form_is_refused(changes: dict[str, object], message: str) -> None:
    with pytest.raises(DataError, match=message):
        form(**changes)


def test_persons_who_are_not_there(tmp_path: Path) -> None:
    path = write_csv(tmp_path / "a.csv", HEADER, walk(3.0))
    with pytest.raises(DataError, match="there are no examples of person 'bert'; known: 'anna'"):
        read_time_series(path, form(), person="anna").of("anna", "bert")
    with pytest.raises(DataError, match="the persons of this data are not known"):
        read_time_series(path, form()).of("anna")
