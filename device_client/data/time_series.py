"""Windows of time series in CSV and Parquet files: one file, many, or folders.

Windows never reach across a gap in the time stamps, from one file, person or recording into another, or over a row
with a missing number.
"""

import re
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from device_client.data.faults import DataError, check_given
from device_client.data.recordings import Left, cut_table
from device_client.data.series_form import TimeSeries
from device_client.data.stored import MEMORY_BYTES_MAX, Store, as_persons
from device_client.data.tables.csv_tables import read_csv
from device_client.data.tables.parquet_tables import read_parquet
from device_client.data.tables.table import CsvForm, Table
from device_client.data.windowing import Cut
from device_client.data.windows import Windows
from device_client.slow_work import slow_work

__all__ = ["TABLES", "CsvForm", "TimeSeries", "Windows", "read_time_series"]

TABLES = (".csv", ".tsv", ".txt", ".parquet", ".pq")
"""Suffixes of the files that are read from a folder and its subfolders."""


def read_time_series(
    paths: Path | str | Iterable[Path | str],
    form: TimeSeries,
    *,
    person: str | None = None,
    memory_bytes_max: int = MEMORY_BYTES_MAX,
    temporary_folder: Path | None = None,
) -> Windows:
    """The windows of a file, a folder with its subfolders, or several of them, in the order of their names.

    One file at a time is in memory. If reading takes more than two seconds, a line on standard error says so.

    Args:
        paths: what to read.
        form: where the files have what.
        person: the person of all of it, if no column and no file name says so.
        memory_bytes_max: samples beyond this size go to a temporary file, which is deleted by itself.
        temporary_folder: where that file is; None: the system's place for temporary files.

    Raises:
        DataError: a file is not as `form` says, or there is not a single window; one line that says where and what
            to do. The first fault ends the reading: a smaller data set than the user thinks is worse.
    """
    if person is not None and (form.person is not None or form.person_pattern is not None):
        raise DataError("the person is given twice: by name, and by person or person_pattern")
    check_given(paths)
    listed = [paths] if isinstance(paths, (str, Path)) else list(paths)
    files = [found for path in listed for found in _files_in(Path(path))]
    store = Store(len(form.columns), memory_bytes_max, temporary_folder)
    cut = Cut(samples=form.samples, step=form.step_samples, rule=form.label_rule)
    left = Left()
    starts: list[npt.NDArray[np.int64]] = []
    labels: list[npt.NDArray[np.int32]] = []
    persons: list[npt.NDArray[np.int32]] = []
    whose: dict[str, int] = {}
    with slow_work(f"reading {listed[0] if len(listed) == 1 else f'{len(listed)} files and folders'}") as progress:
        for number, (file, name) in enumerate(files):
            if len(files) > 1:
                progress.count(number, len(files), "files")
            known = person if form.person_pattern is None else _person_in(name, file, form.person_pattern)
            for one in cut_table(_table(file, form), form, cut, left):
                first = store.add(one.piece.values)
                starts.append(first + one.starts)
                if one.labels is not None:
                    labels.append(one.labels)
                code = whose.setdefault(one.person if known is None else known, len(whose))
                persons.append(np.full(len(one.starts), code, dtype=np.int32))
    if not starts:
        raise DataError(left.none_message(listed, form.window_seconds))
    are_known = person is not None or form.person is not None or form.person_pattern is not None
    together = np.concatenate(starts)
    return Windows(
        values=store.values(),
        starts=together,
        samples=form.samples,
        labels=np.concatenate(labels).astype(np.int64) if labels else None,
        persons=as_persons(list(whose), np.concatenate(persons).tolist()) if are_known else None,
        classes=form.classes,
        summary=left.summary(files=len(files), windows=len(together), persons=len(whose) if are_known else None),
    )


def _table(file: Path, form: TimeSeries) -> Table:
    names = [name for name in (form.label, form.person, form.recording) if name is not None]
    if file.suffix.lower() in {".parquet", ".pq"}:
        return read_parquet(file, numbers=form.columns, names=names, time=form.time, time_unit=form.time_unit)
    return read_csv(file, numbers=form.columns, names=names, time=form.time, time_unit=form.time_unit, form=form.csv)


def _files_in(path: Path) -> Sequence[tuple[Path, str]]:
    """Each file, and its path within the folder."""
    if not path.is_dir():
        return [(path, path.name)]
    files = sorted(
        file
        for file in path.rglob("*")
        if file.is_file() and file.suffix.lower() in TABLES and not file.name.startswith(".")
    )
    if not files:
        raise DataError(f"folder {path} has no file that ends in {', '.join(TABLES)}")
    return [(file, file.relative_to(path).as_posix()) for file in files]


def _person_in(name: str, file: Path, pattern: str) -> str:
    found = re.search(pattern, name)
    if found is None or not found.group(1):
        raise DataError(f"{file}: person_pattern={pattern!r} finds no person in {name!r}; correct one of the two")
    return found.group(1)
