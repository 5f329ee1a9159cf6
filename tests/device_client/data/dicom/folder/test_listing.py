"""Which files are looked at, labels, progress, and the data set."""

import fcntl
import io
import os
import pty
import struct
import sys
import termios
from collections.abc import Callable
from pathlib import Path
from typing import TextIO

import numpy as np
import pyte
import pytest
import torch

from device_client.data.dicom.film import FilmSettings
from device_client.data.dicom.folder.dataset import FilmDataset, fitted
from device_client.data.dicom.folder.intake import take_in
from device_client.data.dicom.folder.labels import read_labels
from device_client.data.dicom.folder.listing import files_of
from device_client.data.dicom.folder.progress import FilmProgress, duration
from device_client.data.faults import DataError
from device_client.data.leakage import check_sides, side_of
from device_client.task import SplitError
from simulators.films.folder import LABELS, Plan, make_films
from tests.device_client.data.extras import extra

extra("pydicom")


def test_folders_are_searched_and_links_and_hidden_files_are_not(tmp_path: Path) -> None:
    for name in ("b/deep/x", "a", ".hidden", ".git/y", "DICOMDIR"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"")
    (tmp_path / "b" / "loop").symlink_to(tmp_path)
    assert [path.relative_to(tmp_path).as_posix() for path in files_of(tmp_path)] == ["a", "b/deep/x"]


def test_a_dicomdir_names_the_films(tmp_path: Path) -> None:
    make_films(tmp_path, Plan(patients=2, films=2, rows=200, dicomdir=True))
    listed = files_of(tmp_path / "DICOMDIR")
    assert sorted(listed) == sorted(path.resolve() for path in files_of(tmp_path) if path.name != LABELS)
    assert len(listed) == 4


def test_a_dicomdir_cannot_name_files_elsewhere(tmp_path: Path) -> None:
    make_films(tmp_path / "in", Plan(patients=1, films=1, rows=200, dicomdir=True))
    (tmp_path / "out").write_bytes(b"")
    directory = tmp_path / "in" / "DICOMDIR"
    named = "\\".join(files_of(directory)[0].relative_to((tmp_path / "in").resolve()).parts).encode()
    assert named in directory.read_bytes()
    directory.write_bytes(directory.read_bytes().replace(named, rb"..\out".ljust(len(named))))
    with pytest.raises(DataError, match="has no files"):
        files_of(tmp_path / "in" / "DICOMDIR")


@pytest.mark.parametrize("content", [b"", b"\0" * 128 + b"DICM", b"\0" * 128 + b"DICM\x02\x00\x00\x00UL\x04\x00"])
def test_another_file_is_no_dicomdir(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "doe").write_bytes(content)
    with pytest.raises(DataError, match="no readable DICOMDIR") as caught:
        files_of(tmp_path / "doe")
    assert "doe" not in str(caught.value)
    with pytest.raises(DataError, match="does not exist"):
        files_of(tmp_path / "nowhere")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("PatientID,finding\nDOE,x\n", "needs one column"),
        ("label\nx\n", "needs one column"),
        ("PatientID,label\nDOE,DOE\n", "row 2: the label is none of the known ones .no, yes."),
        ("PatientID,label\nDOE,\n", "row 2: the label is empty"),
        ("PatientID,label\nDOE,no\nDOE,yes\n", "row 3: the same film or patient had another label"),
        ("PatientID,label\n,yes\n", "row 2: neither"),
        ("PatientID,label\n", "no rows"),
        ("PatientID,label,label\nDOE,no,yes\n", "needs one column"),
        ("PatientID;PatientID;label\nDOE;DOE;yes\n", "needs one column"),
        ("SOPInstanceUID,label\n1.2E+45,yes\n", "row 2: a spreadsheet has rounded the SOPInstanceUID"),
        ("PatientID;label\n1,23457e+11;yes\n", "row 2: a spreadsheet has rounded the PatientID"),
        ("PatientID,label\n\nDOE,no\n doe ,yes\n", "row 4: the same film or patient had another label"),
    ],
)
def test_a_fault_of_the_labels_names_the_row_and_nobody(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "doe.csv").write_text(text)
    with pytest.raises(DataError, match=message) as caught:
        read_labels(tmp_path / "doe.csv", ("no", "yes"))
    assert "doe" not in str(caught.value).lower()


@pytest.mark.parametrize(
    "text",
    [
        "\ufeffPatientID,label\r\nDOE 1,yes\r\n2,no\r\n",
        "PatientID;label\nDOE 1;yes\n2;no\n",
        "sep=;\nPatientID;Label\nDOE 1;yes\n2;no\n",
        "label\tview\tpatientid\nyes\tL, CC\tDOE 1\nno\t\t2\n",
        '"PatientID", label \n"Doe  1",yes\n"2",no,"more"\n',
        "PatientID,label\nDOE 1,yes\n,\n\n2,no\nDOE 1,yes\n",
    ],
)
def test_labels_as_spreadsheets_write_them(tmp_path: Path, text: str) -> None:
    (tmp_path / "labels.csv").write_text(text)
    assert read_labels(tmp_path / "labels.csv", ("no", "yes")).by_patient == {"doe 1": "yes", "2": "no"}


def test_a_column_of_names_is_not_taken_for_labels(tmp_path: Path) -> None:
    rows = "".join(f"{number},name-{number}\n" for number in range(40))
    (tmp_path / "labels.csv").write_text(f"PatientID,label\n{rows}")
    with pytest.raises(DataError, match="right column"):
        read_labels(tmp_path / "labels.csv")


def test_a_binary_file_is_no_labels_file(tmp_path: Path) -> None:
    (tmp_path / "labels.csv").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(DataError, match="UTF-8") as raised:
        read_labels(tmp_path / "labels.csv")
    assert raised.value.__context__ is None, "what it came from quotes the file"
    with pytest.raises(DataError, match="cannot be read"):
        read_labels(tmp_path / "none.csv")


class Screen(io.StringIO):
    def isatty(self) -> bool:
        return True


class Ticking:
    """A clock that a test turns."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


def shown(stream: io.StringIO, *, films: int, seconds: float) -> str:
    return shown_in(stream, films=films, seconds=seconds, read=lambda: "") + stream.getvalue()


def shown_in(stream: TextIO, *, films: int, seconds: float, read: Callable[[], str]) -> str:
    """What `read` gives after each film and at the end."""
    clock, found = Ticking(), ""
    progress = FilmProgress(films, stream=stream, clock=clock)
    for done in range(1, films + 1):
        clock.now += seconds
        progress.count(done, read_seconds=seconds)
        found += read()
    progress.end()
    return found + read()


def test_what_stands_in_for_standard_error_gets_whole_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    """As under the demo's live view, which prints each line above itself."""
    view, clock = Screen(), Ticking()
    monkeypatch.setattr(sys, "stderr", view)
    progress = FilmProgress(100, clock=clock)
    for done in range(1, 101):
        clock.now += 1.0
        progress.count(done, read_seconds=1.0)
    progress.end()
    assert "\r" not in view.getvalue()
    assert len(view.getvalue().splitlines()) == 4


def test_a_terminal_shows_one_line_with_the_time_left() -> None:
    drawn = shown(Screen(), films=4000, seconds=1.0)
    lines = drawn.split("\r")[1:]
    assert lines[99].strip() == "films: 100 of 4,000 files after 2 min, at most 65 min left"
    assert lines[-1].strip() == "films: 4,000 of 4,000 files after 67 min"
    assert max(map(len, lines)) < 79, "or Ctrl-C would be shown across two lines"
    assert drawn.count("\n") == 1
    screen = pyte.Screen(80, 24)
    pyte.Stream(screen).feed(drawn)
    assert [line.strip() for line in screen.display if line.strip()] == ["films: 4,000 of 4,000 files after 67 min"]


@pytest.mark.parametrize("columns", [30, 80, 200])
def test_the_line_keeps_to_the_terminal(columns: int) -> None:
    terminal, slave = pty.openpty()
    fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
    with os.fdopen(slave, "w") as stream:
        drawn = shown_in(stream, films=400, seconds=1.0, read=lambda: os.read(terminal, 1 << 16).decode())
    os.close(terminal)
    screen = pyte.Screen(columns, 24)
    pyte.Stream(screen).feed(drawn)
    assert [line.rstrip() for line in screen.display if line.strip()] == [
        "films: 400 of 400 files after 7 min"[: columns - 1]
    ]


def test_a_log_gets_a_line_now_and_then_and_short_work_none() -> None:
    assert shown(io.StringIO(), films=20, seconds=1.0) == ""
    lines = shown(io.StringIO(), films=95, seconds=1.0).splitlines()
    assert len(lines) == 4
    assert lines[-1] == "films: 95 of 95 files after 2 min"
    assert shown(Screen(), films=4, seconds=0.01) == ""
    assert [duration(seconds) for seconds in (5, 300, 7200)] == ["5 s", "5 min", "2.0 h"]


def test_a_data_set_reads_films_from_the_cache(tmp_path: Path) -> None:
    make_films(tmp_path / "films", Plan(patients=6, rows=200))
    labels = read_labels(tmp_path / "films" / LABELS)
    taken = take_in(tmp_path / "films", tmp_path / "cache", FilmSettings(spacing_mm=3.0, crop=True), labels=labels)
    classes = ("normal", "mass", "calcification")
    films = FilmDataset(taken, classes, (48, 40))
    image, label = films[0]
    assert (image.shape, image.dtype, label.dtype) == ((1, 48, 40), torch.float32, torch.int64)
    assert 0 <= float(image.min()) < float(image.max()) <= 1
    assert float(image[0, :, :8].mean()) > float(image[0, :, -8:].mean()), "chest wall at the left"
    assert len(films) == 24
    assert set(films.labels.tolist()) == {0, 1, 2}
    assert set(films.attributes["scanner"].tolist()) == {"SYNTHETIC Alpha", "SYNTHETIC Beta"}
    one = FilmDataset(taken, classes, (48, 40), patients={str(films.persons[0])})
    assert len(one) == 4
    with pytest.raises(SplitError, match="person"):
        check_sides({"one": side_of(one), "all": side_of(films)})
    with pytest.raises(DataError, match="none of the classes"):
        FilmDataset(taken, ("normal", "mass"), (48, 40))
    with pytest.raises(DataError, match="dicom-check"):
        FilmDataset(taken, classes, (48, 40), patients=())


def test_a_film_is_fitted_to_the_left_edge() -> None:
    image = fitted(np.ones((10, 20), dtype=np.float32), (30, 30))
    assert image.shape == (30, 30)
    assert image[8:22].min() > 0.99
    assert image[:7].max() == 0
    tall = fitted(np.ones((40, 10), dtype=np.float32), (20, 20))
    assert tall[:, :5].min() > 0.99
    assert tall[:, 5:].max() == 0
