"""Reads columns of a Parquet file with pyarrow (extra `parquet`)."""

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from device_client.data.faults import DataError, needed, place, read_errors
from device_client.data.tables.table import Table, Vocabulary, check_columns, finite
from device_client.data.tables.time_stamps import SECONDS, TimeUnit, seconds_of
from device_client.task_checks import first_line

_BLOCK_ROWS = 65_536
"""Rows decoded at a time; pyarrow's own default."""


def read_parquet(
    path: Path, *, numbers: Sequence[str], names: Sequence[str], time: str | None, time_unit: TimeUnit
) -> Table:
    """The columns of a file; columns of time stamps have their own unit, and `time_unit` is that of numbers and text.

    Raises:
        DataError: pyarrow is not installed, the file cannot be read, a column is missing or of a wrong type, or a
            time stamp is missing.
    """
    parquet = needed("pyarrow.parquet", extra="parquet", purpose="reading Parquet files")
    arrow = needed("pyarrow", extra="parquet", purpose="reading Parquet files")
    wanted = list(dict.fromkeys([*numbers, *names, *([time] if time is not None else [])]))
    values, times = [], []
    vocabularies = {name: Vocabulary() for name in names}
    codes: dict[str, list[npt.NDArray[np.int32]]] = {name: [] for name in names}
    try:
        with read_errors(path), parquet.ParquetFile(path) as file:
            schema = file.schema_arrow
            check_columns(path, list(schema.names), wanted)
            _check_types(path, schema, numbers, arrow)
            first_row = 1
            for batch in file.iter_batches(batch_size=_BLOCK_ROWS, columns=wanted):
                columns = [batch.column(name).to_numpy(zero_copy_only=False) for name in numbers]
                values.append(finite(np.stack([np.asarray(column, dtype=np.float64) for column in columns], axis=1)))
                if time is not None:
                    times.append(_times(partial(_place, path, first_row, time), batch.column(time), time_unit, arrow))
                for name in names:
                    code = vocabularies[name].code
                    cells = batch.column(name).to_pylist()
                    codes[name].append(np.array([code(_name(cell)) for cell in cells], dtype=np.int32))
                first_row += batch.num_rows
    except arrow.ArrowException as error:
        raise DataError(f"{path} is not a readable Parquet file: {first_line(error)}") from None
    if not values:
        raise DataError(f"{path} has no rows of data; delete it, or leave it out")
    together = np.concatenate(values)
    return Table(
        path=path,
        rows=np.arange(1, len(together) + 1, dtype=np.int64),
        numbers=together,
        names={name: vocabularies[name].column(codes[name]) for name in names},
        time=np.concatenate(times) if times else None,
    )


def _check_types(path: Path, schema: Any, numbers: Sequence[str], arrow: Any) -> None:
    for name in numbers:
        kind = schema.field(name).type
        if not (arrow.types.is_integer(kind) or arrow.types.is_floating(kind) or arrow.types.is_boolean(kind)):
            raise DataError(f"{place(path, column=name)} holds {kind}, not numbers; convert it, or choose another")


def _name(cell: object) -> str:
    """A label or person as text; a whole number stored as a float has no decimals."""
    if cell is None:
        return ""
    if isinstance(cell, float):
        return "" if cell != cell else f"{cell:g}"  # noqa: PLR0124 — NaN
    return str(cell).strip()


def _place(path: Path, first_row: int, column: str, row: int) -> str:
    return place(path, first_row + row, column)


def _times(place_of: Callable[[int], str], column: Any, unit: TimeUnit, arrow: Any) -> npt.NDArray[np.float64]:
    """Seconds of a block of time stamps; `place_of` names one of its rows, counted from 0."""
    kind = column.type
    if column.null_count:
        row = int(np.argmax(column.is_null().to_numpy(zero_copy_only=False)))
        raise DataError(f"{place_of(row)} is empty; each row needs a time stamp")
    if arrow.types.is_timestamp(kind):
        return np.asarray(column.cast(arrow.timestamp("ns")).cast(arrow.int64()).to_numpy()) * SECONDS["ns"]
    if arrow.types.is_string(kind) or arrow.types.is_large_string(kind):
        return seconds_of(column.to_pylist(), unit, place_of)
    if not (arrow.types.is_integer(kind) or arrow.types.is_floating(kind)) or unit == "iso":
        raise DataError(f"{place_of(0)} holds {kind}, not time stamps of time_unit={unit!r}; give their unit")
    numbers = np.asarray(column.to_numpy(zero_copy_only=False), dtype=np.float64)
    wrong = ~np.isfinite(numbers)
    if wrong.any():
        raise DataError(f"{place_of(int(np.argmax(wrong)))} is not finite; each row needs a time stamp")
    return numbers * SECONDS[unit]
