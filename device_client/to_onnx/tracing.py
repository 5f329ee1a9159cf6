"""Traces a network with torch.export and translates it to ONNX; what fails is named by its cause.

Weights in half precision are exported as float32, in which they travel, because runtimes rarely compute in less on a
CPU.
"""

import io
import logging
import re
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass
from traceback import walk_tb
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from device_client.task_checks import first_line
from device_client.tasks.user_code import place_in_user_code
from device_client.to_onnx.errors import ExportError
from device_client.to_onnx.signature import named_outputs, rebuilt

Forward = Callable[[nn.Module, Any], Any]
"""Calls a network with the inputs of one batch."""

_HALF = {torch.bfloat16, torch.float16}
_TO_HALF = {torch.Tensor.bfloat16, torch.Tensor.half}
_WITHOUT_HEADS = 3
"""Dimensions of an attention's query (batch, position, feature) without heads."""
NOT_TRACED = "torch cannot trace the network: "
_KNOWN_CAUSES: tuple[tuple[str, str], ...] = (
    (
        "GuardOnDataDependentSymNode",
        "a decision (if, while, bool(), item()) depends on the values in a tensor; torch.where chooses without one",
    ),
    (
        "Constraints violated",
        "the network's code fixes the batch size, by a loop over the batch or a size that is written as a number",
    ),
    ("DynamicOutputShapeException", "the shape of this operator's result depends on the values in a tensor"),
)
"""A word in torch's error, and what it means for the network's author."""

_NO_FUNCTION = re.compile(r"No ONNX function found for <OpOverload\(op='([^']+)'")


@dataclass(frozen=True)
class Traced:
    """An ONNX model."""

    proto: Any
    """`onnx.ModelProto`."""
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]


def in_float32(network: nn.Module) -> nn.Module:
    """The network itself, with all weights in float32 if some are in half precision."""
    is_half = any(getattr(tensor, "dtype", None) in _HALF for tensor in network.state_dict().values())
    return network.float() if is_half else network


class Flat(nn.Module):
    """A network with a flat list of tensors as inputs and outputs."""

    def __init__(self, network: nn.Module, forward: Forward, like: Any, *, main: str, taken: Sequence[str]) -> None:
        """Computes nothing yet.

        Args:
            network: is put into evaluation mode; weights in half precision become float32.
            forward: calls it.
            like: the inputs of a batch, whose structure is rebuilt.
            main: name of a single output.
            taken: names of the inputs, which no output may have.
        """
        super().__init__()
        self.network = in_float32(network).eval()
        self._forward, self._like, self._main, self._taken = forward, like, main, frozenset(taken)
        self.outputs: tuple[str, ...] = ()
        """Names of the outputs, known after the first call."""

    def forward(self, *tensors: Tensor) -> tuple[Tensor, ...]:
        """The outputs, in the order of `outputs`."""
        inputs = rebuilt(self._like, iter(tensors))
        with _Portable():
            returned = self._forward(self.network, inputs)
        named = named_outputs(returned, self._main)
        self.outputs = tuple(f"{name}_out" if name in self._taken else name for name in named)
        return tuple(named.values())


class _Portable(TorchFunctionMode):
    """Replaces calls in a network's own code by others that ONNX can express.

    Attention without heads becomes attention with one head, and a cast to half precision a cast to float32.
    """

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        del types
        named = {name: _full(value) for name, value in (kwargs or {}).items()}
        if func is functional.scaled_dot_product_attention:
            return _attention(func, *args, **named)
        return args[0].float() if func in _TO_HALF else func(*map(_full, args), **named)


def _full(value: Any) -> Any:
    return torch.float32 if isinstance(value, torch.dtype) and value in _HALF else value


def _attention(attend: Any, query: Tensor, key: Tensor, value: Tensor, *args: Any, **named: Any) -> Any:
    """The exporter translates only attention with heads."""
    if query.ndim != _WITHOUT_HEADS:
        return attend(query, key, value, *args, **named)
    one_head = [part.unsqueeze(1) if _has_batch(part) else part for part in args]
    more = {name: part.unsqueeze(1) if _has_batch(part) else part for name, part in named.items()}
    return attend(query.unsqueeze(1), key.unsqueeze(1), value.unsqueeze(1), *one_head, **more).squeeze(1)


def _has_batch(part: Any) -> bool:
    return isinstance(part, Tensor) and part.ndim == _WITHOUT_HEADS


def trace(flat: Flat, inputs: Mapping[str, Tensor], *, any_batch_size: bool) -> Traced:
    """The ONNX model of a network.

    Args:
        flat: the network.
        inputs: by name; at least two examples for `any_batch_size`, as torch takes a batch of one for a fixed size.
        any_batch_size: the first dimension of every input may change; otherwise it stays as in `inputs`.

    Raises:
        ExportError: torch cannot trace the network, or ONNX has no operator for one of its parts.
    """
    assert flat.outputs, "torch.export restores attributes, so the names must be known: call the network once before"
    tensors = tuple(inputs.values())
    batch = torch.export.Dim("batch")
    shapes = (tuple({0: batch} if tensor.ndim else {} for tensor in tensors),) if any_batch_size else None
    with quiet():
        try:
            program = torch.export.export(
                flat, tensors, dynamic_shapes=shapes, strict=False, prefer_deferred_runtime_asserts_over_guards=True
            )
        except Exception as error:
            raise ExportError(f"{NOT_TRACED}{_cause(error)}{place_in_user_code(error)}") from error
        try:
            onnx = torch.onnx.export(
                program, dynamo=True, input_names=list(inputs), output_names=list(flat.outputs), verbose=False
            )
        except Exception as error:
            cause = _deepest(error)
            raise ExportError(f"ONNX cannot express the network: {_cause(cause)}{_place_of_node(error)}") from error
    assert onnx is not None
    return Traced(proto=onnx.model_proto, inputs=tuple(inputs), outputs=flat.outputs)


@contextmanager
def quiet() -> Iterator[None]:
    """Silences torch and its exporter, which print graphs and warn about their own internals."""
    disabled = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with warnings.catch_warnings(), redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(disabled)


def _deepest(error: BaseException) -> BaseException:
    while error.__cause__ is not None:
        error = error.__cause__
    return error


def _cause(error: BaseException) -> str:
    """One line: what it means where that is known, and the first line of torch's message."""
    line = first_line(error)
    meaning = next((meaning for word, meaning in _KNOWN_CAUSES if word in line), None)
    if (operator := _NO_FUNCTION.search(line)) is not None:
        return f"ONNX has no operator for {operator[1]}"
    return line if meaning is None else f"{meaning} ({line.partition('! For more')[0]})"


def _place_of_node(error: BaseException) -> str:
    """File and line of the user's code that made the operator which could not be translated; empty if not known."""
    below: BaseException | None = error
    while below is not None:
        for frame, _line in walk_tb(below.__traceback__):
            node = frame.f_locals.get("node")
            if isinstance(node, fx.Node) and (place := _last_place(str(node.meta.get("stack_trace") or ""))):
                return place
        below = below.__cause__
    return ""


def _last_place(stack: str) -> str:
    lines = [line.strip() for line in stack.splitlines() if line.strip().startswith("File ")]
    for line in reversed(lines):
        name, _comma, rest = line.removeprefix('File "').partition('", line ')
        if "site-packages" not in name and __file__ != name:
            return f" ({name}:{rest.split(',')[0]})"
    return ""
