"""Exports a model: safetensors for further training, ONNX for inference anywhere."""

import json
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
from torch import nn

from device_client.downlink.model_feed import ModelFeed
from device_client.learning.parameters import load_vector
from device_client.learning.statistics.estimation import load_model
from device_client.learning.statistics.home import load_statistics
from device_client.model_files import ModelFile, write_model, write_whole
from device_client.slow_work import slow_work
from device_client.task.batches import inputs_of, outputs_of, placement, with_inputs
from device_client.task.batching import first_batch
from device_client.to_onnx.conversion import OnnxModel, onnx_of
from device_client.to_onnx.errors import ExportError
from device_client.to_onnx.tracing import in_float32
from wire_contract.layout import digest

if TYPE_CHECKING:
    from device_client.downlink.outcome import NewModel
    from device_client.task import Task

Exported = Literal["model", "teacher"]
"""The name of the files: the global student, or a device's own teacher."""
TURN_SECONDS = 0.5
"""Longest single wait for an event of the link."""
_OF_LOGITS = {"classification", "multi_label", "per_pixel", "per_token"}
"""Objectives whose single output is named `logits`, with one number for each label; that of others is `outputs`."""
_EXAMPLES = 3
"""Held-out examples on which the ONNX model is compared with torch's."""


@dataclass(frozen=True, kw_only=True)
class ExportedFiles:
    """What was written."""

    safetensors: Path
    onnx: Path
    notes: tuple[str, ...]
    """What the user of the ONNX model should know, one line each."""


def await_model(
    feed: ModelFeed, *, wait_seconds: float, monotonic: Callable[[], float] = time.monotonic
) -> ModelFile | None:
    """The broker's newest model; None: none arrived in time, or there is another line to go on to.

    Raises:
        UsageError: the broker refused the connection.
        LinkError: the link has died.
    """
    deadline = monotonic() + wait_seconds
    newest: NewModel | None = None
    while True:
        left_seconds = max(0.0, deadline - monotonic())
        newest = feed.newest(timeout_seconds=min(TURN_SECONDS, left_seconds)) or newest
        if feed.next_line is not None or (left_seconds == 0.0 and newest is None):
            return None
        if newest is not None and (left_seconds == 0.0 or not feed.is_behind):
            model = newest.published
            return ModelFile(
                task=model.task,
                layout=model.layout,
                weights=model.weights,
                version=model.version,
                role="published-model",
                line=newest.manifest.line,
            )


def export(
    task: "Task", model: ModelFile, out: Path, *, what: Exported = "model", statistics: Path | None = None
) -> ExportedFiles:
    """Writes `model` to the folder `out` in both formats.

    `statistics` is the file of a device's running statistics, for a model whose statistics stay at home. Without it
    they are estimated from the inputs of the held-out data.

    Raises:
        LayoutError: the model does not fit the task's student (or teacher).
        ModelFileError: a file cannot be written.
        ExportError: the task has no teacher, the weights are not finite, or ONNX cannot hold the network, in which case
            the safetensors file is written all the same.
    """
    make = task.student if what == "model" else task.teacher
    if make is None:
        raise ExportError(f"task {task.name} has no teacher")
    _check_finite(model)
    network = make()
    # Before the weights are loaded, so that half precision does not round them.
    notes = _load(task, in_float32(network), model, statistics)
    path = out / f"{what}.safetensors"
    write_model(path, model)
    # The exporter's own output is silenced, this line is not.
    say = partial(print, file=sys.stderr, flush=True)
    try:
        with slow_work("exporting to ONNX", say=say):
            onnx = _onnx_of(task, network, _metadata(task, model))
    except ExportError as error:
        raise ExportError(f"{error}; {path} was written, {what}.onnx was not") from error
    write_whole(out / f"{what}.onnx", onnx.content)
    return ExportedFiles(safetensors=path, onnx=out / f"{what}.onnx", notes=(*notes, *onnx.notes))


def _load(task: "Task", network: nn.Module, model: ModelFile, statistics: Path | None) -> tuple[str, ...]:
    """Loads the model into `network`; returns notes on its running statistics."""
    if statistics is not None:
        load_vector(network, model.layout, model.weights)
        load_statistics(network, statistics, task=task.name)
        return ()
    if load_model(network, model.layout, model.weights, task.held_out(), task.objective):
        return ("the running statistics stay at home; those in the ONNX model are estimated from held-out inputs",)
    return ()


def _onnx_of(task: "Task", network: nn.Module, metadata: dict[str, str]) -> OnnxModel:
    batch, forward = placement(network)(first_batch(task.held_out(), _EXAMPLES)), task.objective.forward
    return onnx_of(
        network,
        inputs_of(batch),
        metadata,
        forward=None if forward is outputs_of else lambda module, inputs: forward(module, with_inputs(batch, inputs)),
        main_output="logits" if task.objective.kind in _OF_LOGITS else "outputs",
    )


def _check_finite(model: ModelFile) -> None:
    for name, values in model.layout.views(model.weights).items():
        wrong = int((~np.isfinite(values)).sum())
        if wrong:
            raise ExportError(f"the model is not exported: {wrong} of {values.size} numbers of {name} are not finite")


def _metadata(task: "Task", model: ModelFile) -> dict[str, str]:
    objective, labels = task.objective, json.dumps(task.labels)
    known = {
        "task": task.name,
        "objective": objective.kind,
        "main_metric": objective.main,
        "labels": labels,
        "digest": digest(model.weights).hex(),
    }
    if objective.kind == "classification":
        known["classes"] = labels
    if objective.ranking is not None:
        known["ranking"] = json.dumps(objective.ranking.as_json())
    return known if model.version is None else {**known, "version": str(model.version)}
