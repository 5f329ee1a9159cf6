"""A network as an ONNX model that was compared with torch's results on a few examples."""

import json
from collections.abc import Mapping
from copy import deepcopy
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrize import is_parametrized, remove_parametrizations

from device_client.task.batches import outputs_of
from device_client.task_checks import first_line
from device_client.tasks.user_code import place_in_user_code
from device_client.to_onnx.errors import ExportError
from device_client.to_onnx.parity import compare, runner_of
from device_client.to_onnx.signature import first_examples, named_inputs
from device_client.to_onnx.tracing import NOT_TRACED, Flat, Forward, Traced, quiet, trace

_TRACED_EXAMPLES = 2
"""Examples in the batch that torch traces. With one example it would take the batch size for fixed."""
_COMPARED_EXAMPLES = 3
"""Another number than was traced, so that a batch size that the graph took for fixed is found."""


@dataclass(frozen=True, kw_only=True)
class OnnxModel:
    """An ONNX model, and what is known of it."""

    content: bytes
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    batch_size: int | None
    """The only one that it accepts; None: any."""
    runtime: str
    """What ran the model for the comparison with torch."""
    difference: float | None
    """The largest difference between the outputs and torch's; None: not compared, because the outputs are random."""
    notes: tuple[str, ...]
    """What its user should know, one line each."""


def onnx_of(
    network: nn.Module,
    inputs: Any,
    metadata: Mapping[str, str],
    *,
    forward: Forward | None = None,
    main_output: str = "logits",
) -> OnnxModel:
    """The ONNX model of a network, for any batch size if the network allows it, otherwise for one example at a time.

    A single input is named `inputs`, several have the names of a dict's keys or of the parameters of `forward`. Outputs
    have the names of a dict's keys or an object's fields; a single one is named `main_output`.

    Args:
        network: is put into evaluation mode; weights in half precision become float32.
        inputs: of one batch of at least one example: a tensor, tuple or dict of tensors.
        metadata: stored in the file, beside `inputs`, `outputs` and `batch_size`.
        forward: calls the network with such inputs; None: the usual way.
        main_output: name of a single output.

    Raises:
        ExportError: the network cannot be expressed in ONNX, or the ONNX model computes something else than torch.
    """
    try:
        return _onnx_of(network, inputs, metadata, forward=forward, main_output=main_output)
    except ExportError:
        if not any(is_parametrized(module) for module in network.modules()):
            raise
        return _onnx_of(_computed(network), inputs, metadata, forward=forward, main_output=main_output)


def _computed(network: nn.Module) -> nn.Module:
    """A copy whose parametrised weights are computed once. ONNX lacks what some are computed by, such as the matrix
    exponential of `orthogonal`.
    """
    copied = deepcopy(network).eval()
    for module in copied.modules():
        if is_parametrized(module):
            for name in list(module.parametrizations):  # type: ignore[arg-type]
                remove_parametrizations(module, name, leave_parametrized=True)
    return copied


def _onnx_of(
    network: nn.Module, inputs: Any, metadata: Mapping[str, str], *, forward: Forward | None, main_output: str
) -> OnnxModel:
    example = first_examples(inputs, _TRACED_EXAMPLES)
    named = named_inputs(example, None if forward is not None else network)
    if not named:
        raise ExportError(f"the network's inputs are {type(inputs).__name__}, which holds no tensor")
    flat = Flat(network, forward or _call, example, main=main_output, taken=tuple(named))
    notes: list[str] = []
    is_random = _is_random(flat, named)
    if is_random:
        notes.append("not compared with torch's results: the network draws random numbers in evaluation mode")
    several = dict(zip(named, named_inputs(first_examples(inputs, _COMPARED_EXAMPLES)).values(), strict=True))
    singles = [_one(several, index) for index in range(_COMPARED_EXAMPLES)]
    batch_size: int | None = None
    try:
        traced = trace(flat, named, any_batch_size=True)
        runtime, difference = _compared(flat, traced, [] if is_random else [several, singles[0]])
    except ExportError as error:
        try:
            traced = trace(flat, singles[0], any_batch_size=False)
            runtime, difference = _compared(flat, traced, [] if is_random else singles)
        except ExportError as cause:
            raise cause from None
        batch_size = 1
        reason = str(error).removeprefix(NOT_TRACED)
        notes.append(f"the ONNX model accepts one example at a time only: {reason}")
    known = {
        **metadata,
        "inputs": json.dumps(traced.inputs),
        "outputs": json.dumps(traced.outputs),
        "batch_size": "any" if batch_size is None else str(batch_size),
    }
    for number, note in enumerate(notes):
        known["note" if number == 0 else f"note_{number + 1}"] = note
    for key, value in known.items():
        entry = traced.proto.metadata_props.add()
        entry.key, entry.value = key, value
    return OnnxModel(
        content=bytes(traced.proto.SerializeToString()),
        inputs=traced.inputs,
        outputs=traced.outputs,
        batch_size=batch_size,
        runtime=runtime,
        difference=None if is_random else difference,
        notes=tuple(notes),
    )


def _call(network: nn.Module, inputs: Any) -> Any:
    # As the inputs of a batch, because a tuple or dict of inputs alone would be taken for a batch.
    return outputs_of(network, (inputs,))


def _one(several: Mapping[str, Tensor], index: int) -> dict[str, Tensor]:
    return {name: tensor[index : index + 1] if tensor.ndim else tensor for name, tensor in several.items()}


def _is_random(flat: Flat, inputs: Mapping[str, Tensor]) -> bool:
    """Whether two passes of the same batch give different results."""
    try:
        with quiet(), torch.no_grad(), torch.random.fork_rng(devices=[]):
            one, other = (flat(*(tensor.clone() for tensor in inputs.values())) for _ in range(2))
    except Exception as error:
        shapes = ", ".join(f"{name} {tuple(tensor.shape)}" for name, tensor in inputs.items())
        raise ExportError(
            f"the network does not accept the inputs {shapes}: {first_line(error)}{place_in_user_code(error)}"
        ) from error
    if not one:
        raise ExportError("the network returns no tensor")
    return not all(torch.equal(*pair) or bool(pair[0].isnan().any()) for pair in zip(one, other, strict=True))


def _compared(flat: Flat, traced: Traced, batches: list[dict[str, Tensor]]) -> tuple[str, float]:
    runtime, run = runner_of(traced)
    return runtime, max((compare(flat, run, batch, traced.outputs) for batch in batches), default=0.0)
