"""Checks of what a user writes in a task: examples, hyper-parameters, names and functions.

Each raises an error whose message is one line that names the field and says what to do:

TaskError          a task, its data or a device is not available or not valid
├── ExamplesError  … because examples are not; `tasks/checking.py` adds which ones
└── SplitError     … because one person is on both sides of a split

`tasks/checking.py` calls the user's functions and looks at what they return.
"""

import math
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from difflib import get_close_matches
from numbers import Integral, Real

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from wire_contract.errors import TopicError
from wire_contract.topics import check_name

CLASSES_MIN = 2


class TaskError(Exception):
    """A task, its data or a device is not available or not valid. The message is one line that says what to do."""


class ExamplesError(TaskError):
    """Inputs or labels are not valid."""


class SplitError(TaskError):
    """One person is on both sides of a split, so that a measured accuracy would be too high."""


# Arrays that become examples


def float32_array(inputs: npt.ArrayLike) -> npt.NDArray[np.float32]:
    """Inputs (example, …) as float32.

    Raises:
        ExamplesError: they are complex, of different lengths, or not numbers.
    """
    try:
        array = np.asarray(inputs)
        if array.dtype.kind != "c":
            with np.errstate(over="ignore"):  # a number beyond float32 becomes infinite, which is refused later
                return np.asarray(array if array.dtype.kind == "f" else inputs, dtype=np.float32)
    except (TypeError, ValueError, RuntimeError) as error:
        raise ExamplesError(f"inputs cannot be converted to one float32 array: {first_line(error)}") from error
    raise ExamplesError(
        f"inputs are {array.dtype}, and the imaginary part would be lost; give np.abs(x), or real and imaginary part "
        "as two channels"
    )


def int64_array(labels: npt.ArrayLike) -> npt.NDArray[np.int64]:
    """Labels (example,) as int64.

    Raises:
        ExamplesError: they are text, not finite, or not whole numbers.
    """
    try:
        array = np.asarray(labels)
    except (TypeError, ValueError, RuntimeError) as error:
        raise ExamplesError(f"labels cannot be converted to one int64 array: {first_line(error)}") from error
    if array.dtype.kind == "f":
        _check_whole(array)
    try:
        if array.dtype.kind != "c":
            return np.asarray(labels, dtype=np.int64)
    except (TypeError, ValueError, OverflowError) as error:
        if array.dtype.kind in "US" or array.dtype == object:
            raise ExamplesError(
                f"labels must be numbers, the index of each example's class, such as classes.index(name), not "
                f"{array.ravel()[:1].tolist()[0]!r} ({first_line(error)})"
            ) from error
        raise ExamplesError(f"labels cannot be converted to one int64 array: {first_line(error)}") from error
    raise ExamplesError(f"labels are {array.dtype}; give the index of each example's class")


def _check_whole(labels: npt.NDArray[np.floating]) -> None:
    for wrong, what in (
        (~np.isfinite(labels), "NaN or infinite"),
        (labels != np.trunc(labels), "no whole numbers"),
    ):
        if wrong.any():
            first = int(np.argmax(wrong.ravel()))
            raise ExamplesError(
                f"{int(wrong.sum())} of {wrong.size} labels are {what}, the first is {labels.ravel()[first]:g} at "
                f"index {first}; give the index of each example's class, or leave these examples out"
            )


def check_tensors(inputs: Tensor, labels: Tensor) -> None:
    """Checks the tensors of `Examples`.

    Raises:
        ExamplesError: a wrong type or shape, no examples, values that are not finite, or negative labels.
    """
    for name, tensor in (("inputs", inputs), ("labels", labels)):
        if not isinstance(tensor, Tensor):
            raise ExamplesError(
                f"examples: {name} must be a tensor, not {type(tensor).__name__}; Examples.of converts arrays and lists"
            )
    if inputs.dtype != torch.float32 or labels.dtype != torch.int64 or labels.ndim != 1 or inputs.ndim == 0:
        hint = "; for one-hot labels give labels.argmax(axis=1)" if labels.ndim > 1 else ""
        raise ExamplesError(
            f"examples: inputs must be float32 and labels one-dimensional int64, not {inputs.dtype} and "
            f"{labels.dtype} {tuple(labels.shape)}{hint}"
        )
    if len(inputs) == len(labels) > 0:
        finite = torch.isfinite(inputs)
        if not finite.all():
            wrong = ~finite.flatten(start_dim=1).all(dim=1) if inputs.ndim > 1 else ~finite
            raise ExamplesError(
                f"{int(wrong.sum())} of {len(inputs)} inputs hold NaN or infinite values, the first at index "
                f"{int(wrong.int().argmax())}; fill them or leave these examples out"
            )
        if labels.min() < 0:
            wrong = labels < 0
            first = int(wrong.int().argmax())
            raise ExamplesError(
                f"{int(wrong.sum())} of {len(labels)} labels are negative, the first is {int(labels[first])} at index "
                f"{first}; labels start at 0; leave out examples without a class"
            )


def check_labels(labels: Tensor, classes: Sequence[str]) -> None:
    """Checks labels (example,) against the task's classes.

    Raises:
        ExamplesError: a label has no class.
    """
    count, largest = len(classes), int(labels.max())
    if largest < count:
        return
    wrong = labels >= count
    first = int(wrong.int().argmax())
    hint = "add the missing classes, or leave these examples out"
    if largest == count and labels.min() >= 1:
        hint = "labels start at 0, and these start at 1: subtract 1"
    raise ExamplesError(
        f"{int(wrong.sum())} of {len(labels)} labels have no class, the first is {int(labels[first])} at index "
        f"{first}; the task has {count} classes, which are labels 0 to {count - 1}; {hint}"
    )


def check_same_shapes(parts: Mapping[str, tuple[int, ...]]) -> None:
    """Checks that all inputs have one shape (…), without the first dimension.

    Raises:
        ExamplesError: two differ; the message names both.
    """
    for name, shape in parts.items():
        first = next(iter(parts))
        if shape != parts[first]:
            raise ExamplesError(
                f"inputs have shape {shape} for each example in {name}, but {parts[first]} in {first}; "
                "all must have the same"
            )


# Hyper-parameters


def check_choice(field: str, value: object, known: Sequence[str]) -> None:
    """Checks that `value` is one of `known`.

    Raises:
        TaskError: it is not; the message suggests the nearest.
    """
    if value not in known:
        near = get_close_matches(str(value), known, n=1)
        hint = f"did you mean {near[0]!r}?" if near else f"choose {', '.join(known)}"
        raise TaskError(f"recipe: {field}={value!r} does not exist; {hint}")


def check_counts(values: Mapping[str, object]) -> None:
    """Checks whole numbers of at least 1.

    Raises:
        TaskError: one of them is not.
    """
    for field, value in values.items():
        if not isinstance(value, Integral) or value < 1:
            raise TaskError(f"recipe: {field}={value!r} must be a whole number of at least 1")


def check_numbers(
    values: Mapping[str, object], *, least: float = 0.0, most: float = math.inf, above: bool = False
) -> None:
    """Checks finite numbers from `least` to `most`.

    Args:
        values: by field.
        least: the lowest value.
        most: the highest value.
        above: they must be greater than `least`.

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
        raise TaskError(f"recipe: {field}={value!r} must be a number, {limits}")


# Names and functions


def check_task_names(name: object, classes: object, devices: object) -> None:
    """Checks the name of a task, its classes and its devices.

    Raises:
        TaskError: a name cannot be part of a topic, one occurs twice, or there are fewer than two classes.
    """
    _check_topic_level(name, "task")
    listed = _listed(classes, f"task {name}: classes")
    if len(listed) < CLASSES_MIN:
        raise TaskError(f"task {name}: classes={classes!r}: a classifier needs at least {CLASSES_MIN} classes")
    for device in _listed(devices, f"task {name}: devices"):
        _check_topic_level(device, "device")


def _check_topic_level(name: object, what: str) -> None:
    if not isinstance(name, str):
        raise TaskError(f"{what} name {name!r} must be text")
    try:
        check_name(name, what)
    except TopicError as error:
        raise TaskError(str(error)) from None


def _listed(names: object, what: str) -> Sequence[str]:
    if not isinstance(names, (tuple, list)) or not all(isinstance(name, str) and name for name in names):
        raise TaskError(f'{what} must be a tuple of names, such as ("a", "b"), not {names!r}')
    twice = [name for name, count in Counter(names).items() if count > 1]
    if twice:
        raise TaskError(f"{what} has {', '.join(twice)} more than once; each name must be unique")
    return names


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
    """The type of an exception and the first line of its message."""
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0].strip()}" if lines else type(error).__name__
