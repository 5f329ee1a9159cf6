"""Exports a model: safetensors for further training, ONNX for inference anywhere."""

import json
import logging
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import torch
from torch import nn

from device_client.downlink.model_feed import ModelFeed
from device_client.learning.parameters import load_vector
from device_client.model_files import ModelFile, write_model, write_whole
from device_client.task import inputs_of
from device_client.task.batching import first_batch
from wire_contract.layout import digest

if TYPE_CHECKING:
    from device_client.downlink.outcome import NewModel
    from device_client.task import Task

Exported = Literal["model", "teacher"]
"""The name of the files: the global student, or a device's own teacher."""
TURN_SECONDS = 0.5
"""Longest single wait for an event of the link."""
_EXAMPLES = 2
"""Examples in the batch that the exporter traces. With one example it would take the batch size for fixed."""


class ExportError(Exception):
    """The model cannot be exported; the message is one line."""


def await_model(
    feed: ModelFeed, *, wait_seconds: float, monotonic: Callable[[], float] = time.monotonic
) -> ModelFile | None:
    """The broker's newest model; None: none arrived in time.

    Raises:
        UsageError: the broker refused the connection.
        LinkError: the link has died.
    """
    deadline = monotonic() + wait_seconds
    newest: NewModel | None = None
    while True:
        left_seconds = max(0.0, deadline - monotonic())
        newest = feed.newest(timeout_seconds=min(TURN_SECONDS, left_seconds)) or newest
        if left_seconds == 0.0 and newest is None:
            return None
        if newest is not None and (left_seconds == 0.0 or not feed.is_behind):
            model = newest.published
            return ModelFile(
                task=model.task,
                layout=model.layout,
                weights=model.weights,
                version=model.version,
                role="published-model",
            )


def export(task: "Task", model: ModelFile, out: Path, *, what: Exported = "model") -> tuple[Path, Path]:
    """Writes `model` to the folder `out` in both formats; returns both paths, safetensors first.

    Raises:
        LayoutError: the model does not fit the task's student (or teacher).
        ModelFileError: a file cannot be written.
        ExportError: the network cannot be expressed in ONNX, or the task has no teacher.
    """
    make = task.student if what == "model" else task.teacher
    if make is None:
        raise ExportError(f"task {task.name} has no teacher")
    network = make()
    load_vector(network, model.layout, model.weights)
    files = out / f"{what}.safetensors", out / f"{what}.onnx"
    write_model(files[0], model)
    write_whole(files[1], onnx_of(network, inputs_of(first_batch(task.held_out(), _EXAMPLES)), _metadata(task, model)))
    return files


def onnx_of(network: nn.Module, inputs: torch.Tensor, metadata: dict[str, str]) -> bytes:
    """An ONNX model with one input `inputs` (batch, …) and one output `logits` (batch, class), for any batch size.

    Args:
        network: is put into evaluation mode.
        inputs: one or more examples, (example, …).
        metadata: stored in the file.
    """
    # Repeated, in case there is only one: a batch of one would be taken for a fixed size.
    example = torch.cat([inputs, inputs])[:_EXAMPLES]
    noisy = logging.getLogger("torch.onnx")
    level = noisy.level
    noisy.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the exporter's warnings about its own internals
            program = torch.onnx.export(
                network.eval(),
                (example,),
                dynamo=True,
                dynamic_shapes=({0: torch.export.Dim("batch")},),
                input_names=["inputs"],
                output_names=["logits"],
                verbose=False,
            )
    except (RuntimeError, ValueError, TypeError) as error:
        raise ExportError(f"the network cannot be exported to ONNX: {str(error).strip().splitlines()[0]}") from error
    finally:
        noisy.setLevel(level)
    assert program is not None
    proto = program.model_proto
    for key, value in metadata.items():
        entry = proto.metadata_props.add()
        entry.key, entry.value = key, value
    return bytes(proto.SerializeToString())


def _metadata(task: "Task", model: ModelFile) -> dict[str, str]:
    known = {"task": task.name, "classes": json.dumps(task.labels), "digest": digest(model.weights).hex()}
    return known if model.version is None else {**known, "version": str(model.version)}
