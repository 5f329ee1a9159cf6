"""Checks of what a user writes in a task: hyper-parameters, names and functions.

Each raises an error whose message is one line that names the field and says what to do:

TaskError          a task, its data or a device is not available or not valid
├── ExamplesError  … because examples are not; `tasks/checking.py` adds which ones
└── SplitError     … because one person is on both sides of a split

`task/array_checks.py` checks arrays; `tasks/checking.py` calls the user's functions and looks at what they return.
"""

import math
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from difflib import get_close_matches
from numbers import Integral, Real

from torch import nn

from wire_contract.errors import TopicError
from wire_contract.limits import TEXT_CHARACTERS_MAX
from wire_contract.topics import check_name

CLASSES_MIN = 2
_CONTROL = frozenset({"Cc", "Zl", "Zp"})
"""Unicode categories of control characters, line and paragraph separators."""


class TaskError(Exception):
    """A task, its data or a device is not available or not valid. The message is one line that says what to do."""


class ExamplesError(TaskError):
    """Inputs or labels are not valid."""


class SplitError(TaskError):
    """One person is on both sides of a split, so that a measured accuracy would be too high."""


# Hyper-parameters


def check_choice(field: str, value: object, known: Sequence[str], *, of: str = "recipe") -> None:
    """Checks that `value` is one of `known`; `of`: what has the field.

    Raises:
        TaskError: it is not; the message suggests the nearest.
    """
    if value not in known:
        near = get_close_matches(str(value), known, n=1)
        hint = f"did you mean {near[0]!r}?" if near else f"choose {', '.join(known)}"
        raise TaskError(f"{of}: {field}={value!r} does not exist; {hint}")


def check_counts(values: Mapping[str, object]) -> None:
    """Checks whole numbers of at least 1.

    Raises:
        TaskError: one of them is not.
    """
    for field, value in values.items():
        if not isinstance(value, Integral) or value < 1:
            raise TaskError(f"recipe: {field}={value!r} must be a whole number of at least 1")


def check_numbers(
    values: Mapping[str, object],
    *,
    least: float = 0.0,
    most: float = math.inf,
    above: bool = False,
    of: str = "recipe",
) -> None:
    """Checks finite numbers from `least` to `most`.

    Args:
        values: by field.
        least: the lowest value.
        most: the highest value.
        above: they must be greater than `least`.
        of: what has the fields.

    Raises:
        TaskError: one of them is not.
    """
    for field, value in values.items():
        if isinstance(value, Real):
            number = float(value)
            if math.isfinite(number) and (number > least if above else number >= least) and number <= most:
                continue
        limits = f"greater than {least:g}" if above else f"at least {least:g}"
        limits += f" and at most {most:g}" if math.isfinite(most) else ""
        raise TaskError(f"{of}: {field}={value!r} must be a number, {limits}")


# Names and functions


def check_task_names(name: object, devices: object) -> None:
    """Checks the name of a task and its devices.

    Raises:
        TaskError: a name cannot be part of a topic, or one occurs twice.
    """
    _check_topic_level(name, "task")
    for device in check_label_names(devices, f"task {name}: devices"):
        _check_topic_level(device, "device")


def check_classes(task: object, classes: object) -> None:
    """Checks the classes of a task.

    Raises:
        TaskError: one occurs twice, or there are fewer than two.
    """
    if len(check_label_names(classes, f"task {task}: classes")) < CLASSES_MIN:
        raise TaskError(
            f"task {task}: classes={classes!r}: a classifier needs at least {CLASSES_MIN} classes; a task that is no "
            "classification needs an objective"
        )


def _check_topic_level(name: object, what: str) -> None:
    if not isinstance(name, str):
        raise TaskError(f"{what} name {name!r} must be text")
    try:
        check_name(name, what)
    except TopicError as error:
        raise TaskError(str(error)) from None


def check_label_names(names: object, what: str) -> Sequence[str]:
    """Checks a tuple of names, which may be empty, and returns it.

    Raises:
        TaskError: it is something else, has a name twice, or one that cannot be sent.
    """
    if not isinstance(names, (tuple, list)) or not all(isinstance(name, str) and name for name in names):
        raise TaskError(f'{what} must be a tuple of names, such as ("a", "b"), not {names!r}')
    broken = [name for name in names if any("\ud800" <= character <= "\udfff" for character in name)]
    if broken:
        raise TaskError(
            f"{what} has {broken[0]!a}, which holds half a character (a surrogate) and cannot be sent; was it "
            "read with the wrong encoding?"
        )
    for name in names:
        check_text(name, what)
    twice = [name for name, count in Counter(names).items() if count > 1]
    if twice:
        raise TaskError(f"{what} has {', '.join(twice)} more than once; each name must be unique")
    return names


def check_text(name: str, what: str) -> None:
    """Checks that a name of a class or metric can be sent and shown on one line.

    Raises:
        TaskError: it is empty, too long, or holds a line break or another control character.
    """
    if not name:
        raise TaskError(f"{what} has an empty name")
    if len(name) > TEXT_CHARACTERS_MAX:
        raise TaskError(
            f"{what} has {name[:40]!r}… with {len(name):,} characters; up to {TEXT_CHARACTERS_MAX:,} can be sent"
        )
    if any(unicodedata.category(character) in _CONTROL for character in name):
        raise TaskError(
            f"{what} has {name[:40]!r}, which holds a line break or another control character; use printable text"
        )


def check_functions(task: str, functions: Iterable[tuple[str, Callable[..., object] | None, str]]) -> None:
    """Checks the fields of a task that must be functions.

    Args:
        task: its name.
        functions: field, value and an example of what to write; a value of None is not given.

    Raises:
        TaskError: one is not a function, or is a network instead of a function that makes one.
    """
    for field, value, example in functions:
        if value is not None and (isinstance(value, nn.Module) or not callable(value)):
            raise TaskError(
                f"task {task}: {field} must be a function, such as {field}={example}, not an instance of "
                f"{type(value).__name__}"
            )


def first_line(error: BaseException) -> str:
    """The type of an exception and the first line of its message; of a `DataLoader`'s worker, what it raised."""
    lines = str(error).strip().splitlines()
    if lines and "in DataLoader worker process" in lines[0]:
        return lines[-1].strip()
    return f"{type(error).__name__}: {lines[0].strip()}" if lines else type(error).__name__
