"""Windows out of CSV files: columns, time stamps, gaps, labels, persons, folders, memory."""

from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from device_client.data.time_series import CsvForm, TimeSeries, Windows, read_time_series
from tests.device_client.data.files import HEADER, walk, write_csv

CLASSES = ("rest", "walk")


def form(**changes: object) -> TimeSeries:
    known: dict[str, object] = {
        "columns": ("x", "y"),
        "rate_hz": 10.0,
        "window_seconds": 1.0,
        "time": "t",
        "label": "label",
        "classes": CLASSES,
    }
    return TimeSeries(**(known | changes))  # type: ignore[arg-type]


def first_values(windows: Windows) -> list[float]:
    """The first sample of each window's first channel."""
    return windows.values[windows.starts, 0].tolist()


def test_windows_have_channels_samples_and_labels(tmp_path: Path) -> None:
    path = write_csv(tmp_path / "a.csv", HEADER, walk(3.0))
    windows = read_time_series(path, form(step_seconds=0.5), person="anna")
    examples = windows.examples()
    assert tuple(examples.inputs.shape) == (5, 2, 10)
    assert examples.inputs[1, 0].tolist() == [float(row) for row in range(5, 15)]
    assert examples.inputs[1, 1].tolist() == [-float(row) for row in range(5, 15)]
    assert examples.labels.tolist() == [1] * 5
    assert examples.persons is not None
    assert set(examples.persons.tolist()) == {"anna"}
    assert windows.summary == "5 windows from 1 file, 1 person"


def test_a_data_set_yields_the_same_as_examples(tmp_path: Path) -> None:
    path = write_csv(tmp_path / "a.csv", HEADER, walk(3.0))
    windows = read_time_series(path, form())
    examples = windows.examples()
    inputs, labels = next(iter(DataLoader(windows, batch_size=3)))
    assert torch.equal(inputs, examples.inputs)
    assert torch.equal(labels, examples.labels)


def test_a_gap_in_the_time_stamps_is_never_bridged(tmp_path: Path) -> None:
    rows = walk(1.5) + walk(2.5, start=1.6)  # the row at 1.5 s is lost
    path = write_csv(tmp_path / "a.csv", HEADER, rows)
    assert first_values(read_time_series(path, form(step_seconds=0.1))) == [*range(6), *range(16)]
    bridged = read_time_series(path, form(step_seconds=0.1, gap_seconds=0.25))
    assert len(bridged) == 31, "on demand a lost row is no gap"


def test_a_missing_number_is_a_gap_or_is_filled(tmp_path: Path) -> None:
    rows = walk(3.0)
    for row, text in ((11, ""), (12, "NaN"), (25, "inf")):
        rows[row][1] = text
    path = write_csv(tmp_path / "a.csv", HEADER, rows)
    assert first_values(read_time_series(path, form())) == [0.0, 13.0]
    filled = read_time_series(path, form(fill_seconds=0.3))
    assert filled.values[:, 0].tolist() == [float(row) for row in range(30)]


def test_without_time_stamps_a_missing_number_is_a_gap_too(tmp_path: Path) -> None:
    rows = [row[1:] for row in walk(3.0)]
    rows[14][0] = "null"
    path = write_csv(tmp_path / "a.csv", HEADER[1:], rows)
    assert first_values(read_time_series(path, form(time=None))) == [0.0, 15.0]


@pytest.mark.parametrize(
    ("unit", "write"),
    [
        ("s", lambda seconds: f"{1.7e9 + seconds:.1f}"),
        ("ms", lambda seconds: f"{(1.7e9 + seconds) * 1e3:.0f}"),
        ("ns", lambda seconds: f"{round((1.7e9 + seconds) * 10) * 10**8}"),
        ("iso", lambda seconds: (datetime(2026, 3, 1, tzinfo=UTC) + timedelta(seconds=seconds)).isoformat()),
        ("iso", lambda seconds: (datetime(2026, 3, 1, tzinfo=UTC) + timedelta(seconds=seconds)).isoformat()[:-6]),
    ],
)
def test_time_stamps_come_in_several_forms(tmp_path: Path, unit: str, write: object) -> None:
    assert callable(write)
    rows = [[write(row[0]), *row[1:]] for row in walk(1.0) + walk(2.0, start=1.5)]
    path = write_csv(tmp_path / "a.csv", HEADER, rows)
    assert first_values(read_time_series(path, form(time_unit=unit))) == [0.0, 0.0, 10.0]


def test_another_rate_is_resampled_on_demand(tmp_path: Path) -> None:
    rows = walk(2.0, rate=40.0) + walk(2.0, rate=40.0, start=3.0)
    path = write_csv(tmp_path / "a.csv", HEADER, rows)
    windows = read_time_series(path, form(resample=True))
    assert len(windows) == 4, "two pieces of 20 samples"
    inner = windows.values[1:9, 0]
    np.testing.assert_allclose(np.diff(inner), 4.0, atol=1e-4)


def test_label_texts_are_translated_and_ignored(tmp_path: Path) -> None:
    rows = walk(1.0, label="W") + walk(1.0, start=1.0, label="") + walk(1.0, start=2.0, label="rest")
    path = write_csv(tmp_path / "a.csv", HEADER, rows)
    windows = read_time_series(path, form(label_names={"W": "walk"}))
    assert windows.labels is not None
    assert windows.labels.tolist() == [1, 0]
    assert windows.summary.endswith("left out: 1 window without a clear label")


def test_one_file_with_a_column_of_persons(tmp_path: Path) -> None:
    rows = [[*row, who] for who in ("anna", "bert") for row in walk(2.5)]
    mixed = [row for pair in zip(rows[:25], rows[25:], strict=True) for row in pair]
    for name, order in (("one.csv", rows), ("mixed.csv", mixed)):
        path = write_csv(tmp_path / name, (*HEADER, "who"), order)
        windows = read_time_series(path, form(person="who"))
        assert windows.persons is not None
        assert windows.persons.tolist() == ["anna", "anna", "bert", "bert"], "25 rows each, 5 of them are left"
        assert first_values(windows) == [0.0, 10.0, 0.0, 10.0]
        assert len(windows.of("bert")) == 2


def test_without_time_stamps_a_window_ends_where_the_person_or_recording_changes(tmp_path: Path) -> None:
    rows = [[*row[1:], who, trial] for who, trial in (("a", 1), ("a", 2), ("b", 2)) for row in walk(1.5)]
    path = write_csv(tmp_path / "a.csv", (*HEADER[1:], "who", "trial"), rows)
    windows = read_time_series(path, form(time=None, person="who", recording="trial"))
    assert first_values(windows) == [0.0, 0.0, 0.0]


def test_a_folder_of_files_with_the_person_in_the_path(tmp_path: Path) -> None:
    for name in ("s2/one.csv", "s1/two.csv", "s1/one.csv"):
        write_csv(tmp_path / name, HEADER, walk(1.0))
    (tmp_path / "s1" / "notes.md").write_text("no data")
    windows = read_time_series(tmp_path, form(person_pattern=r"s(\d)/"))
    assert windows.persons is not None
    assert windows.persons.tolist() == ["1", "1", "2"]
    listed = read_time_series([tmp_path / "s2", tmp_path / "s1" / "one.csv"], form())
    assert len(listed) == 2
    assert listed.persons is None
    assert "persons not known" in listed.summary


def test_large_data_goes_to_a_temporary_file_that_has_no_name(tmp_path: Path) -> None:
    for number in range(4):
        write_csv(tmp_path / f"{number}.csv", HEADER, walk(2.0, label=CLASSES[number % 2]))
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    small = read_time_series(tmp_path, form(), memory_bytes_max=100, temporary_folder=scratch)
    assert isinstance(small.values, np.memmap)
    assert list(scratch.iterdir()) == []
    whole = read_time_series(tmp_path, form())
    assert torch.equal(small.examples().inputs, whole.examples().inputs)
    assert torch.equal(small.examples().labels, whole.examples().labels)


def test_other_dialects_of_csv(tmp_path: Path) -> None:
    rows = [";".join([str(row[0]).replace(".", ","), "1,5", "2", '"wa;lk"']) for row in walk(1.0)]
    path = tmp_path / "a.txt"
    path.write_bytes(b"\xef\xbb\xbf" + "\r\n".join(["t; x ;y;label", *rows, "", ""]).encode())
    dialect = CsvForm(delimiter=";", decimal=",")
    named = form(label_names={"wa;lk": "walk"}, csv=dialect)
    windows = read_time_series(path, named)
    assert windows.values[0].tolist() == [1.5, 2.0]
    path.write_bytes("\n".join(rows).encode("utf-16"))
    numbered = form(
        columns=("2", "3"),
        time="1",
        label="4",
        label_names={"wa;lk": "walk"},
        csv=CsvForm(delimiter=";", decimal=",", encoding="utf-16", header=False),
    )
    assert read_time_series(path, numbered).values.tolist() == windows.values.tolist()


def test_time_stamps_with_a_decimal_comma(tmp_path: Path) -> None:
    path = write_csv(tmp_path / "a.csv", HEADER, [["1,0", 1, 1, "walk"], ["1,1", 1, 1, "walk"]], delimiter=";")
    short = form(window_seconds=0.2, csv=CsvForm(delimiter=";", decimal=","))
    assert len(read_time_series(path, short)) == 1
