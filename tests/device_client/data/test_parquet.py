"""The same windows out of Parquet files as out of CSV files."""

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import torch

from device_client.data.faults import DataError, needed
from device_client.data.time_series import read_time_series
from tests.device_client.data.extras import extra
from tests.device_client.data.files import HEADER, walk, write_csv
from tests.device_client.data.test_time_series import form

arrow = extra("pyarrow")
parquet = extra("pyarrow.parquet")
START = datetime(2026, 3, 1, tzinfo=UTC)


def write_parquet(path: Path, **columns: Any) -> Path:
    parquet.write_table(arrow.table(columns), path, row_group_size=7)
    return path


def columns_of(rows: list[list[Any]]) -> dict[str, list[Any]]:
    return {name: [row[at] for row in rows] for at, name in enumerate(HEADER)}


@pytest.mark.parametrize("stamps", ["seconds", "timestamps", "text"])
def test_windows_are_those_of_the_same_csv(tmp_path: Path, stamps: str) -> None:
    rows = walk(2.5) + walk(2.5, start=3.0, label="rest")
    rows[14][1] = None  # a missing number
    expected = read_time_series(write_csv(tmp_path / "a.csv", HEADER, rows), form())
    columns = columns_of(rows)
    if stamps != "seconds":
        moments = [START + timedelta(seconds=row[0]) for row in rows]  # type: ignore[arg-type]
        columns["t"] = [moment.isoformat() for moment in moments] if stamps == "text" else moments
    path = write_parquet(tmp_path / "a.parquet", **columns)
    got = read_time_series(path, form(time_unit="iso" if stamps == "text" else "s"))
    assert torch.equal(got.examples().inputs, expected.examples().inputs)
    assert torch.equal(got.examples().labels, expected.examples().labels)


def test_labels_and_persons_may_be_numbers(tmp_path: Path) -> None:
    columns = columns_of(walk(2.0))
    path = write_parquet(tmp_path / "a.parquet", **(columns | {"label": [1.0] * 20, "who": [7] * 20}))
    windows = read_time_series(path, form(label_names={"1": "walk"}, person="who"))
    assert windows.persons is not None
    assert windows.persons.tolist() == ["7", "7"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"x": ["fast"] * 20}, "column 'x' holds string, not numbers"),
        ({"t": [0.1, None] * 10}, "row 2, column 't' is empty; each row needs a time stamp"),
        ({"t": [True] * 20}, "column 't' holds bool, not time stamps"),
        ({"t": [float("inf")] * 20}, "row 1, column 't' is not finite"),
        ({"label": ["run"] * 20}, "row 1, column 'label': label 'run' is none of the classes"),
    ],
)
def test_faults_name_row_and_column(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    path = write_parquet(tmp_path / "a.parquet", **(columns_of(walk(2.0)) | changes))
    with pytest.raises(DataError, match=message):
        read_time_series(path, form())


def test_a_missing_column_or_another_file_is_one_line(tmp_path: Path) -> None:
    path = write_parquet(tmp_path / "a.parquet", t=[0.0], x=[1.0])
    with pytest.raises(DataError, match="has no column 'y', 'label'; its columns are 't', 'x'"):
        read_time_series(path, form())
    path.write_bytes(b"no parquet file")
    with pytest.raises(DataError, match="is not a readable Parquet file") as raised:
        read_time_series(path, form())
    assert "\n" not in str(raised.value)


def test_without_the_extra_it_says_what_to_install() -> None:
    with pytest.raises(DataError, match=r"reading Parquet files needs no_such: pip install 'asyncfedkd\[parquet\]'"):
        needed("no_such.module", extra="parquet", purpose="reading Parquet files")
