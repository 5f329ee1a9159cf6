"""Runs an ONNX model, with onnxruntime where it is installed, and compares it with torch's results."""

from collections.abc import Callable, Mapping, Sequence
from importlib.util import find_spec
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from device_client.task_checks import first_line
from device_client.to_onnx.errors import ExportError
from device_client.to_onnx.tracing import Flat, Traced, quiet

ABSOLUTE_MAX, RELATIVE_MAX = 1e-4, 1e-3
"""Largest difference of a number: 1e-4 times the largest of its output (at least 1), plus 1e-3 of itself. Runtimes add
in another order than torch; in the networks of the tests this makes a difference of up to about 1e-5."""

Arrays = Sequence[npt.NDArray[Any]]
Run = Callable[[Mapping[str, npt.NDArray[Any]]], Arrays]


def runner_of(traced: Traced) -> tuple[str, Run]:
    """The name of what runs ONNX models here, and a function from inputs by name to the outputs.

    Raises:
        ExportError: it does not accept the model.
    """
    content = traced.proto.SerializeToString()
    name = "onnxruntime" if find_spec("onnxruntime") else "onnx.reference"
    try:
        if name == "onnxruntime":
            import onnxruntime  # noqa: PLC0415 — not on every device

            options = onnxruntime.SessionOptions()
            options.log_severity_level, options.intra_op_num_threads = 3, 1
            session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
            used = {value.name for value in session.get_inputs()}
        else:
            from onnx.reference import ReferenceEvaluator  # noqa: PLC0415 — slow to import

            session = ReferenceEvaluator(traced.proto)
            used = set(session.input_names)
    except Exception as error:
        raise ExportError(f"{name} does not accept the ONNX model: {first_line(error)}") from error
    outputs = list(traced.outputs)
    return name, lambda inputs: session.run(outputs, {key: inputs[key] for key in inputs if key in used})


def compare(flat: Flat, run: Run, inputs: Mapping[str, Tensor], outputs: Sequence[str]) -> float:
    """The largest difference between the numbers of both.

    Args:
        flat: the network in torch.
        run: the ONNX model.
        inputs: of one batch, by name.
        outputs: names, for the message.

    Raises:
        ExportError: the results differ in shape or by more than rounding explains, or the model cannot be run.
    """
    with quiet(), torch.no_grad(), torch.random.fork_rng(devices=[]):
        expected = [tensor.numpy() for tensor in flat(*(tensor.clone() for tensor in inputs.values()))]
    try:
        found = run({name: tensor.numpy() for name, tensor in inputs.items()})
    except Exception as error:
        raise ExportError(f"the ONNX model cannot be run: {first_line(error)}") from error
    return max(
        (_difference(name, one, other) for name, one, other in zip(outputs, expected, found, strict=True)), default=0.0
    )


def _difference(name: str, expected: npt.NDArray[Any], found: npt.NDArray[Any]) -> float:
    if expected.shape != found.shape:
        raise ExportError(f"the ONNX model's output {name} has shape {found.shape}, torch's {expected.shape}")
    if expected.size == 0:
        return 0.0
    if expected.dtype.kind not in "fc":
        different = int((expected != found).sum())
        if different:
            raise ExportError(f"the ONNX model's output {name} differs from torch's in {different} of {found.size}")
        return 0.0
    one, other = expected.astype(np.float64), found.astype(np.float64)
    same = (one == other) | (np.isnan(one) & np.isnan(other))  # infinite values as well
    difference = np.where(same, 0.0, np.abs(one - other))
    largest = float(np.abs(one[np.isfinite(one)]).max(initial=0.0))
    wrong = ~(difference <= ABSOLUTE_MAX * max(1.0, largest) + RELATIVE_MAX * np.abs(one)) & ~same
    if wrong.any():
        raise ExportError(
            f"the ONNX model's output {name} differs from torch's by up to {np.nanmax(difference):.3g} in "
            f"{int(wrong.sum())} of {wrong.size} numbers, whose largest is {largest:.3g}"
        )
    return float(difference.max())
