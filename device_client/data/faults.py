"""What is wrong with a data file, in one line: file, row and column, the fault, and what to do."""

import importlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType

from device_client.task_checks import TaskError


class DataError(TaskError):
    """A data file is missing or not as described. The message is one line with file, row, column and remedy."""


def check_given(paths: object) -> None:
    """Checks that a reader was given a path.

    Raises:
        DataError: it was given None, as a task gets it where no data folder was named.
    """
    if paths is None:
        raise DataError("no file or folder to read was given (None); does the command lack --data FOLDER?")


def place(path: Path, row: int | None = None, column: str | None = None) -> str:
    """For example `walk.csv, row 17, column 'ax'`. Rows of a text file are its lines, counted from 1."""
    row_text = "" if row is None else f", row {row:,}"
    return f"{path}{row_text}" + ("" if column is None else f", column {column!r}")


def some(names: "list[str]", limit: int = 8) -> str:
    """The first names of a list, for a message."""
    more = f" and {len(names) - limit:,} more" if len(names) > limit else ""
    return ", ".join(repr(str(name)) for name in names[:limit]) + more


@contextmanager
def read_errors(path: Path) -> Iterator[None]:
    """Turns the errors of opening and reading a file into a `DataError`."""
    try:
        yield
    except FileNotFoundError:
        raise DataError(f"{path} does not exist; give the path of a file or folder with data") from None
    except IsADirectoryError:
        raise DataError(f"{path} is a folder, not a file") from None
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror or error}") from None


def needed(module: str, *, extra: str, purpose: str) -> ModuleType:
    """A module of an optional extra.

    Args:
        module: its name.
        extra: the extra of asyncfedkd that installs it.
        purpose: begins the message, such as "reading Parquet files".

    Raises:
        DataError: it is not installed; the message says how to install it.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        package = module.split(".", maxsplit=1)[0]
        raise DataError(f"{purpose} needs {package}: pip install 'asyncfedkd[{extra}]' ({error})") from None
