"""Names and order of a network's inputs and outputs, which may be nested: ONNX knows only a flat list of tensors.

A part of a tuple or dict is named `<whole>_<index>` or `<whole>_<key>`; at the top level a dict's keys are the names.
"""

import dataclasses
import inspect
from collections.abc import Iterator, Mapping
from typing import Any

from torch import Tensor, nn

INPUT = "inputs"
"""The name of a single input."""
_VARIADIC = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)


def named_inputs(inputs: Any, network: nn.Module | None = None) -> dict[str, Tensor]:
    """The tensors of `inputs` by name: a tensor, or a tuple, list or dict of tensors, nested as deeply as you like.

    Args:
        inputs: of one batch.
        network: if its `forward` takes the parts of a tuple one by one, they get the names of its parameters.
    """
    if isinstance(inputs, (tuple, list)):
        names = _parameter_names(network, len(inputs))
        return _unique(pair for name, part in zip(names, inputs, strict=True) for pair in _parts(part, name))
    return _unique(_parts(inputs, INPUT, top=isinstance(inputs, Mapping)))


def named_outputs(outputs: Any, main: str) -> dict[str, Tensor]:
    """The tensors in what a network returned, by name.

    Parts that are no tensors are left out.

    Args:
        outputs: a tensor, a tuple or dict of tensors, or an object that has them as its fields.
        main: name of a single tensor, or of the first one in a tuple.
    """
    if isinstance(outputs, (tuple, list)) and not hasattr(outputs, "_fields"):
        names = [main, *(f"outputs_{index}" for index in range(1, len(outputs)))]
        return _unique(pair for name, part in zip(names, outputs, strict=False) for pair in _parts(part, name))
    return _unique(_parts(outputs, main, top=True))


def rebuilt(like: Any, tensors: Iterator[Tensor]) -> Any:
    """`like` with its tensors replaced by `tensors`, in the order of `named_inputs`. What is no tensor stays."""
    if isinstance(like, Tensor):
        return next(tensors)
    if isinstance(like, Mapping):
        return {key: rebuilt(part, tensors) for key, part in like.items()}
    if isinstance(like, (tuple, list)):
        parts = [rebuilt(part, tensors) for part in like]
        return type(like)(*parts) if hasattr(like, "_fields") else type(like)(parts)
    return like


def first_examples(inputs: Any, count: int) -> Any:
    """The first `count` examples of a batch of inputs; the examples are repeated if there are fewer."""

    def chosen(tensor: Tensor) -> Tensor:
        if tensor.ndim == 0 or len(tensor) == 0:
            return tensor
        repeats = -(-count // len(tensor))
        return tensor.repeat(repeats, *[1] * (tensor.ndim - 1))[:count]

    return rebuilt(inputs, (chosen(tensor) for _name, tensor in _parts(inputs, INPUT)))


def _parts(value: Any, name: str, *, top: bool = False) -> Iterator[tuple[str, Tensor]]:
    if isinstance(value, Tensor):
        yield name, value
    elif (fields := _fields(value)) is not None:
        for key, part in fields.items():
            yield from _parts(part, str(key) if top else f"{name}_{key}")


def _fields(value: Any) -> Mapping[Any, Any] | None:
    """The parts of a dict, tuple or object by key, index or attribute."""
    if isinstance(value, Mapping):
        return value
    if isinstance(value, (tuple, list)):
        return dict(zip(getattr(value, "_fields", range(len(value))), value, strict=True))
    if dataclasses.is_dataclass(value):
        return {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
    return vars(value) if hasattr(value, "__dict__") and not isinstance(value, (type, nn.Module)) else None


def _parameter_names(network: nn.Module | None, count: int) -> list[str]:
    numbered = [f"{INPUT}_{index}" for index in range(count)]
    if network is None:
        return numbered
    parameters = list(inspect.signature(network.forward).parameters.values())
    if any(parameter.kind in _VARIADIC for parameter in parameters[:count]) or len(parameters) < count:
        return numbered
    return [parameter.name for parameter in parameters[:count]]


def _unique(pairs: Iterator[tuple[str, Tensor]]) -> dict[str, Tensor]:
    """By name; one that occurs twice gets a number."""
    named: dict[str, Tensor] = {}
    for name, tensor in pairs:
        number, free = 1, name
        while free in named:
            number += 1
            free = f"{name}_{number}"
        named[free] = tensor
    return named
