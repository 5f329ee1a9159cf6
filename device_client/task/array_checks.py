"""Checks of the arrays and tensors that become examples. Each raises an error of one line that says what to do."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from device_client.task_checks import ExamplesError, first_line


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


_TOKEN_DTYPES = ("int32", "int64", "uint32", "uint64")


def input_array(inputs: Any) -> npt.NDArray[Any]:
    """Inputs (example, …): arrays of 32 or 64 bit whole numbers (tokens) as int64, everything else as float32.

    Lists become float32, and so do arrays of 8 or 16 bit whole numbers, which are measurements or pixels.

    Raises:
        ExamplesError: they are complex, of different lengths, or not numbers.
    """
    dtype = str(getattr(inputs, "dtype", "")).removeprefix("torch.")
    return np.asarray(inputs).astype(np.int64) if dtype in _TOKEN_DTYPES else float32_array(inputs)


def target_array(targets: Any) -> npt.NDArray[Any]:
    """Targets (example, …): floating-point numbers as float32, whole numbers and booleans as int64.

    Raises:
        ExamplesError: they are complex, of different lengths, or not numbers.
    """
    try:
        array = np.asarray(targets)
    except (TypeError, ValueError, RuntimeError) as error:
        raise ExamplesError(f"targets cannot be converted to one array: {first_line(error)}") from error
    if array.dtype.kind in "iub":
        return array.astype(np.int64)
    if array.dtype.kind != "f":
        raise ExamplesError(f"targets are {array.dtype}; they must be real numbers")
    with np.errstate(over="ignore"):  # a number beyond float32 becomes infinite, which is refused later
        return array.astype(np.float32)


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


def check_tensors(inputs: Any, labels: Tensor) -> None:
    """Checks the tensors of `Examples` with labels.

    Raises:
        ExamplesError: a wrong type or shape, values that are not finite, or negative labels.
    """
    several = not isinstance(inputs, Tensor)
    if several:
        check_targets(inputs, None)
    for name, tensor in (("labels", labels),) if several else (("inputs", inputs), ("labels", labels)):
        _check_tensor(name, tensor)
    whole = not several and inputs.dtype == torch.int64
    if (
        (not several and ((not whole and inputs.dtype != torch.float32) or inputs.ndim == 0))
        or labels.dtype != torch.int64
        or labels.ndim != 1
    ):
        hint = "; for one-hot labels give labels.argmax(axis=1)" if labels.ndim > 1 else ""
        given = "several" if several else inputs.dtype
        raise ExamplesError(
            f"examples: inputs must be float32 and labels one-dimensional int64, not {given} and "
            f"{labels.dtype} {tuple(labels.shape)}{hint}; inputs may also be int64 (tokens), and other targets than "
            "class indices are given as targets="
        )
    if not several and len(inputs) == len(labels) > 0:
        _check_finite("inputs", inputs)
    if len(labels) and labels.min() < 0:
        wrong = labels < 0
        first = int(wrong.int().argmax())
        raise ExamplesError(
            f"{int(wrong.sum())} of {len(labels)} labels are negative, the first is {int(labels[first])} at index "
            f"{first}; labels start at 0; leave out examples without a class"
        )


def check_targets(inputs: Any, targets: Any) -> None:
    """Checks the tensors of `Examples` without labels: inputs, and targets of any kind or none.

    Raises:
        ExamplesError: a wrong type, or values that are not finite.
    """
    for name, tree in (("inputs", inputs), ("targets", targets)):
        parts = _parts(name, tree)
        if name == "inputs" and not parts:
            raise ExamplesError("examples: there are no inputs")
        for part, tensor in parts.items():
            _check_tensor(part, tensor)
            if tensor.dtype not in {torch.float32, torch.int64} or tensor.ndim == 0:
                raise ExamplesError(
                    f"examples: {part} must be float32 or int64 (example, …), not {tensor.dtype} "
                    f"{tuple(tensor.shape)}; Examples.of converts arrays"
                )
            if tensor.is_floating_point():
                _check_finite(part, tensor)


def _parts(name: str, tree: Any) -> dict[str, Any]:
    """The tensors of a structure, by name."""
    if tree is None:
        return {}
    if isinstance(tree, Mapping):
        items = [(f"{name}[{key!r}]", item) for key, item in tree.items()]
    elif isinstance(tree, tuple):
        items = [(f"{name}[{number}]", item) for number, item in enumerate(tree)]
    else:
        return {name: tree}
    return {path: tensor for part, item in items for path, tensor in _parts(part, item).items()}


def _check_tensor(name: str, tensor: object) -> None:
    if not isinstance(tensor, Tensor):
        raise ExamplesError(
            f"examples: {name} must be a tensor, not {type(tensor).__name__}; Examples.of converts arrays and lists"
        )


def _check_finite(name: str, tensor: Tensor) -> None:
    finite = torch.isfinite(tensor)
    if not finite.all():
        wrong = ~finite.flatten(start_dim=1).all(dim=1) if tensor.ndim > 1 else ~finite
        raise ExamplesError(
            f"{int(wrong.sum())} of {len(tensor)} {name} hold NaN or infinite values, the first at index "
            f"{int(wrong.int().argmax())}; fill them or leave these examples out"
        )


def check_labels(labels: Any, classes: Sequence[str]) -> None:
    """Checks labels (example,) against the task's classes.

    Raises:
        ExamplesError: a label has no class, or they are no whole numbers (example,).
    """
    if not isinstance(labels, Tensor) or labels.is_floating_point() or labels.ndim != 1:
        given = f"{labels.dtype} {tuple(labels.shape)}" if isinstance(labels, Tensor) else type(labels).__name__
        raise ExamplesError(f"labels must be one-dimensional whole numbers, the index of each class, not {given}")
    count, largest = len(classes), int(labels.max())
    if largest < count and labels.min() >= 0:
        return
    wrong = (labels >= count) | (labels < 0)
    first = int(wrong.int().argmax())
    hint = "add the missing classes, or leave these examples out"
    if largest == count and labels.min() >= 1:
        hint = "labels start at 0, and these start at 1: subtract 1"
    raise ExamplesError(
        f"{int(wrong.sum())} of {len(labels)} labels have no class, the first is {int(labels[first])} at index "
        f"{first}; the task has {count} classes, which are labels 0 to {count - 1}; {hint}"
    )


def check_same_shapes(parts: Mapping[str, tuple[Any, ...]]) -> None:
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


def check_range(
    targets: Any, least: int | None, most: int | None, *, width: int | None = None, ignore: int | None = None
) -> None:
    """Checks targets (example, …) of a built-in objective.

    Args:
        targets: must be one tensor.
        least: the lowest value, and the highest likewise; None: any.
        most: the highest value.
        width: of the last dimension, 1 for targets (example,); None: any.
        ignore: a further value that is valid.

    Raises:
        ExamplesError: a value is outside, or the shape is wrong.
    """
    if not isinstance(targets, Tensor):
        raise ExamplesError(f"targets must be one tensor, not {type(targets).__name__}")
    columns = targets.shape[-1] if targets.ndim > 1 else 1
    if width is not None and columns != width:
        raise ExamplesError(
            f"targets have shape {tuple(targets.shape)}; the last dimension must be {width}, as the names"
        )
    if least is None or most is None:
        return
    wrong = (targets < least) | (targets > most)
    if ignore is not None:
        wrong &= targets != ignore
    if wrong.any():
        value = targets[wrong][0].item()
        besides = "" if ignore is None else f" (or {ignore}, which is ignored)"
        raise ExamplesError(
            f"{int(wrong.sum())} of {targets.numel()} targets are outside {least} to {most}, the first is {value:g}; "
            f"they must be {least} to {most}{besides}"
        )
