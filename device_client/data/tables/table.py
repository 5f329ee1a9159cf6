"""Columns out of CSV and Parquet files: numbers, names and time stamps.

CSV is read with Python's own `csv` in blocks of rows, so a gateway needs no further package, and the memory that
reading takes is that of the chosen columns. Parquet needs pyarrow (extra `parquet`).
"""

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt

from device_client.data.faults import DataError, place, some

MISSING = frozenset({"", "na", "n/a", "nan", "null", "none", "-nan", "<na>"})
"""Texts of a number that is missing, in lower case."""


@dataclass(frozen=True, kw_only=True)
class CsvForm:
    """How a CSV file is written."""

    delimiter: str = ","
    decimal: str = "."
    encoding: str = "utf-8"
    """Any name that Python knows; a byte order mark is skipped."""
    header: bool = True
    """False: the first row is data, and columns are named "1", "2", … from left to right."""

    def __post_init__(self) -> None:
        if len(self.delimiter) != 1 or len(self.decimal) != 1 or self.delimiter == self.decimal:
            raise DataError(
                f"CSV: delimiter={self.delimiter!r} and decimal={self.decimal!r} must be two different characters"
            )


@dataclass(frozen=True)
class Names:
    """A column of names (labels, persons), each distinct name stored once."""

    codes: npt.NDArray[np.int32]
    """(row,), index into `names`."""
    names: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Table:
    """The chosen columns of one file."""

    path: Path
    rows: npt.NDArray[np.int64]
    """The number of each row as a person counts: the line of a CSV file, the row of a Parquet file, from 1."""
    numbers: npt.NDArray[np.float32]
    """(row, column); NaN where a number is missing or infinite."""
    names: dict[str, Names]
    time: npt.NDArray[np.float64] | None
    """Seconds (row,), or None if no time column was asked for."""


@dataclass
class Vocabulary:
    """Gives each distinct name a number, in order of appearance."""

    codes: dict[str, int] = field(default_factory=dict)

    def code(self, name: str) -> int:
        """The number of a name."""
        return self.codes.setdefault(name, len(self.codes))

    def column(self, parts: list[npt.NDArray[np.int32]]) -> Names:
        """The column whose parts were encoded."""
        return Names(np.concatenate(parts) if parts else np.empty(0, dtype=np.int32), tuple(self.codes))


def check_columns(path: Path, header: list[str], wanted: list[str], delimiter: str | None = None) -> None:
    """Checks that a file has the wanted columns, each once.

    Raises:
        DataError: one is missing or occurs twice.
    """
    missing = [name for name in wanted if name not in header]
    if missing:
        hint = f"its columns are {some(header, limit=20)}"
        if delimiter is not None and len(header) == 1:
            other = next((mark for mark in ";\t|," if mark in header[0] and mark != delimiter), None)
            hint += f"; delimiter={other!r} may be right" if other else ""
        raise DataError(f"{path} has no column {some(missing)}; {hint}")
    twice = [name for name in wanted if header.count(name) > 1]
    if twice:
        raise DataError(f"{place(path, 1)}: column {some(twice)} occurs more than once; give each its own name")


def number_fault(path: Path, row: int, column: str, text: str, form: CsvForm) -> DataError:
    """The error for a cell that is not a number."""
    hint = f"a missing number is an empty cell or one of {some(sorted(MISSING - {''}))}"
    if form.decimal == "." and text.count(",") == 1 and text.replace(",", "").lstrip("+-").isdigit():
        hint = "decimal=',' may be right"
    return DataError(f"{place(path, row, column)}: {text[:40]!r} is not a number; {hint}")


def finite(numbers: npt.NDArray[np.float64]) -> npt.NDArray[np.float32]:
    """As float32, with NaN for what is not finite there."""
    with np.errstate(over="ignore"):
        small = numbers.astype(np.float32)
    small[~np.isfinite(small)] = np.nan
    return small
