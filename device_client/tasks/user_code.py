"""Turns exceptions of the user's code into one line that says where it is."""

import sysconfig
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from traceback import walk_tb

from device_client.task_checks import ExamplesError, TaskError, first_line
from wire_contract.errors import ContractError

_OWN_FOLDER = str(Path(__file__).parents[1]) + "/"
_CALLERS = {
    str(Path(__file__).with_name(name))
    for name in ("user_code.py", "checking.py", "first_batch.py", "guards.py", "loading.py", "trial.py")
}
"""The modules that call the user's functions."""
_LIBRARY_FOLDERS = tuple({sysconfig.get_paths()[name] + "/" for name in ("stdlib", "platstdlib", "purelib", "platlib")})


@contextmanager
def user_code(where: str, verb: str = "failed") -> Iterator[None]:
    """Turns an exception of the user's code into a `TaskError` of one line, with the file and line in that code.

    One that arises in this package, in a built-in task or a command, is a defect and keeps its traceback.

    Args:
        where: what was called; it begins the line.
        verb: what it did.
    """
    try:
        yield
    except ExamplesError as error:
        raise TaskError(f"{where}: {error}{place_in_user_code(error)}") from error
    except (TaskError, ContractError, MemoryError):
        raise
    except Exception as error:
        if _is_own(error):
            raise
        raise TaskError(f"{where} {verb}: {first_line(error)}{place_in_user_code(error)}") from error


def _is_own(error: BaseException) -> bool:
    """Whether the function that was called is one of this package."""
    files = [frame.f_code.co_filename for frame, _line in walk_tb(error.__traceback__)]
    return next((name.startswith(_OWN_FOLDER) for name in files if name not in _CALLERS), False)


def place_in_user_code(error: BaseException) -> str:
    """The last line of the user's own code in an exception's traceback; empty if there is none."""
    for frame, line in reversed(list(walk_tb(error.__traceback__))):
        name = frame.f_code.co_filename
        if not name.startswith((_OWN_FOLDER, "<", *_LIBRARY_FOLDERS)):
            return f" ({name}:{line})"
    return ""


@contextmanager
def called_through_us(where: str) -> Iterator[None]:
    """Like `user_code`, for calls that reach the user's code through this package, such as a round of training.

    An exception without a line of the user's on its way is a defect of this package, and keeps its traceback.
    """
    try:
        yield
    except (TaskError, ContractError, MemoryError):
        raise
    except Exception as error:
        place = place_in_user_code(error)
        if not place:
            raise
        raise TaskError(f"{where} failed: {first_line(error)}{place}") from error
