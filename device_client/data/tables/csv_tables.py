"""Reads columns of a CSV file."""

import csv
from collections.abc import Iterator, Sequence
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from device_client.data.faults import DataError, place, read_errors
from device_client.data.tables.table import (
    MISSING,
    CsvForm,
    Names,
    Table,
    Vocabulary,
    check_columns,
    finite,
    number_fault,
)
from device_client.data.tables.time_stamps import TimeUnit, seconds_of

_BLOCK_ROWS = 10_000
"""Rows in memory as text at a time; chosen: some MB, and few blocks."""


def read_csv(
    path: Path, *, numbers: Sequence[str], names: Sequence[str], time: str | None, time_unit: TimeUnit, form: CsvForm
) -> Table:
    """The columns of a file.

    Raises:
        DataError: the file cannot be read, a column is missing, a row has more or fewer cells than the first one, or a
            cell is not a number or time stamp; the message names row and column.
    """
    blocks: list[tuple[npt.NDArray[np.int64], npt.NDArray[np.float32]]] = []
    times: list[npt.NDArray[np.float64]] = []
    vocabularies = {name: Vocabulary() for name in names}
    codes: dict[str, list[npt.NDArray[np.int32]]] = {name: [] for name in names}
    encoding = "utf-8-sig" if form.encoding.lower().replace("_", "-") in {"utf-8", "utf8"} else form.encoding
    try:
        with read_errors(path), path.open(newline="", encoding=encoding) as file:
            reader = csv.reader(file, delimiter=form.delimiter, skipinitialspace=True, strict=True)
            lines = _numbered(reader, path)
            header, lines = _header(path, lines, form)
            wanted = [*numbers, *names, *([time] if time is not None else [])]
            check_columns(path, header, wanted, form.delimiter)
            at = {name: header.index(name) for name in wanted}
            while block := list(islice(lines, _BLOCK_ROWS)):
                rows = [row for row, _cells in block]
                _check_lengths(path, block, len(header))
                columns = list(zip(*(cells for _row, cells in block), strict=True))
                values = [_floats(path, rows, name, columns[at[name]], form) for name in numbers]
                blocks.append((np.array(rows, dtype=np.int64), finite(np.stack(values, axis=1))))
                if time is not None:
                    times.append(
                        seconds_of(_with_points(columns[at[time]], form), time_unit, partial(_place, path, rows, time))
                    )
                for name in names:
                    code = vocabularies[name].code
                    codes[name].append(np.array([code(text.strip()) for text in columns[at[name]]], dtype=np.int32))
    except UnicodeDecodeError as error:
        raise DataError(
            f"{path} is not {form.encoding} text (byte 0x{error.object[error.start]:02x}); give its encoding, such as "
            "encoding='cp1252' or 'utf-16'"
        ) from None
    except LookupError:
        raise DataError(f"CSV: encoding={form.encoding!r} is not known to Python") from None
    if not blocks:
        raise DataError(f"{path} has no rows of data; delete it, or leave it out")
    columns_of: dict[str, Names] = {name: vocabularies[name].column(codes[name]) for name in names}
    return Table(
        path=path,
        rows=np.concatenate([rows for rows, _values in blocks]),
        numbers=np.concatenate([values for _rows, values in blocks]),
        names=columns_of,
        time=np.concatenate(times) if times else None,
    )


def _place(path: Path, rows: Sequence[int], column: str, number: int) -> str:
    return place(path, rows[number], column)


def _numbered(reader: Any, path: Path) -> Iterator[tuple[int, list[str]]]:
    """Line number and cells of each row that is not blank."""
    try:
        for cells in reader:
            if cells:
                yield reader.line_num, cells
    except csv.Error as error:
        raise DataError(f"{place(path, reader.line_num)}: {error}; is this a CSV file?") from None


def _header(
    path: Path, lines: Iterator[tuple[int, list[str]]], form: CsvForm
) -> tuple[list[str], Iterator[tuple[int, list[str]]]]:
    """The names of the columns, and the rows of data."""
    first = next(lines, None)
    if first is None:
        raise DataError(f"{path} is empty; delete it, or leave it out")
    if form.header:
        return [name.strip() for name in first[1]], lines

    def all_rows() -> Iterator[tuple[int, list[str]]]:
        yield first
        yield from lines

    return [str(number + 1) for number in range(len(first[1]))], all_rows()


def _check_lengths(path: Path, block: list[tuple[int, list[str]]], width: int) -> None:
    for row, cells in block:
        if len(cells) != width:
            raise DataError(
                f"{place(path, row)} has {len(cells)} cells, but the first row has {width}; correct the row, or put "
                "quotes around text that contains the delimiter"
            )


def _floats(path: Path, rows: list[int], column: str, cells: Sequence[str], form: CsvForm) -> npt.NDArray[np.float64]:
    plain = _with_points(cells, form)
    try:
        return np.fromiter(map(float, plain), dtype=np.float64, count=len(plain))
    except ValueError:
        return np.array([_float(path, row, column, text, form) for row, text in zip(rows, plain, strict=True)])


def _with_points(cells: Sequence[str], form: CsvForm) -> Sequence[str]:
    """Numbers with a point instead of the file's decimal mark."""
    return cells if form.decimal == "." else [text.replace(form.decimal, ".") for text in cells]


def _float(path: Path, row: int, column: str, text: str, form: CsvForm) -> float:
    try:
        return float(text)
    except ValueError:
        if text.strip().lower() in MISSING:
            return float("nan")
        raise number_fault(path, row, column, text, form) from None
