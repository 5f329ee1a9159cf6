"""Inference over a whole data set, a frozen teacher's outputs, and the metrics of a model.

No pass keeps predictions: metrics are updated batch by batch, and an evaluation's memory does not grow with its data.
"""

import logging
import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from device_client.task import Batch, Data, Examples, Objective, Task, TaskError, logits_in, targets_of
from device_client.task.batches import detached, joined, leaves, mapped, placement, size_of
from device_client.task.batching import Drawn, evaluation_batches, evaluation_size, first_batch
from device_client.task.examples import example_count
from device_client.task.objective import LOSS, AnyMetric, Metric
from device_client.task_checks import check_text

log = logging.getLogger(__name__)

_FEW = 64
"""Up to so many examples are passed at once, without asking first how large one example's outputs are."""
TeacherOutputs = Callable[[Drawn], Any]
"""A frozen teacher's outputs for a batch."""


@contextmanager
def _evaluating(model: nn.Module) -> Iterator[None]:
    """Evaluation mode without gradients; restores the model's mode."""
    was_training = model.training
    model.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        model.train(was_training)


def _passes(model: nn.Module, data: Data, objective: Objective) -> Iterator[tuple[Batch, Any]]:
    """Each batch, where the model is, and the model's outputs."""
    # Not one `with` around the loop: a generator that is left half-way would leave the model and torch in that mode.
    place = placement(model)
    size = _FEW
    if not _is_loader(data) and (example_count(data) or math.inf) > _FEW:
        trial = place(first_batch(data, 1))
        with _evaluating(model):
            size = evaluation_size(trial, objective.forward(model, trial))
    for batch in evaluation_batches(data, size):
        objective.check_batch(data, batch)
        placed = place(batch)
        with _evaluating(model):
            outputs = objective.forward(model, placed)
        yield placed, outputs


def _is_loader(data: Data) -> bool:
    """Whether reading a first batch would use up an iterator, or is as slow as reading all its batches."""
    return not isinstance(data, Examples) and not hasattr(data, "__getitem__")


def teaching_outputs(teacher: nn.Module, examples: Examples, objective: Objective) -> Any:
    """What distillation needs of a frozen teacher's outputs for all examples, on the CPU, (example, …); None: one of
    them does not belong to a single example, such as a loss over the batch.
    """
    parts = []
    for batch, outputs in _passes(teacher, examples, objective):
        needed = objective.teaching(outputs)
        if any(tensor.ndim == 0 or len(tensor) != size_of(batch) for tensor in leaves(needed)):
            return None
        parts.append(mapped(needed, Tensor.cpu))
    return joined(parts)


def kept(outputs: Any) -> TeacherOutputs:
    """Looks up outputs (example, …) that were computed before."""
    return lambda drawn: mapped(outputs, lambda tensor: tensor[drawn.chosen])


def outputs_under(teacher: nn.Module, data: Data, objective: Objective) -> TeacherOutputs:
    """The teacher's outputs: computed once for examples in memory, and for each batch of other data or where an output
    does not belong to one example, such as a loss.

    The teacher is frozen and sees the examples without augmentation; a large teacher on every batch of every round
    would cost more than the training itself.
    """
    outputs = teaching_outputs(teacher, data, objective) if isinstance(data, Examples) else None
    if outputs is not None:
        return kept(outputs)
    place = placement(teacher)

    def compute(drawn: Drawn) -> Any:
        with _evaluating(teacher):
            return detached(objective.teaching(objective.forward(teacher, place(drawn.plain()))))

    return compute


class _MeanOverExamples:
    """A plain function as a metric: its mean over batches, weighted by their examples."""

    def __init__(self, name: str, function: Callable[[Any, Any], Any]) -> None:
        self._name, self._function = name, function
        self.reset()

    def reset(self) -> None:
        self._sum, self._count = 0.0, 0

    def update(self, predictions: Any, targets: Any) -> None:
        count = size_of(predictions)
        self._sum += _number(self._name, self._function(predictions, targets)) * count
        self._count += count

    def compute(self) -> float:
        return self._sum / self._count if self._count else math.nan


class Metrics:
    """The metrics of an objective over one pass."""

    def __init__(self, objective: Objective, *, only_main: bool = False) -> None:
        """`only_main`: leave out what the main metric does not need.

        Raises:
            TaskError: the objective's metrics are not a mapping of metrics by name.
        """
        given: object = objective.metrics()
        if isinstance(given, Metric):  # a MetricCollection of torchmetrics, whose values have names of their own
            given = {objective.main: given}
        if not isinstance(given, Mapping):
            raise TaskError(f"objective: metrics() returned {type(given).__name__}, not metrics by name")
        chosen = {objective.main: given[objective.main]} if only_main and objective.main in given else given
        self._metrics = {name: _metric(name, metric) for name, metric in chosen.items()}
        self._labels, self._main = objective.labels, objective.main
        self._losses, self._count = 0.0, 0

    def update(self, outputs: Any, batch: Batch, loss: Tensor) -> None:
        """Takes one batch and its mean loss."""
        predictions, targets = (mapped(detached(tree), Tensor.cpu) for tree in (logits_in(outputs), targets_of(batch)))
        for metric in self._metrics.values():
            metric.update(predictions, targets)
        size = size_of(batch)
        self._losses += float(loss.detach()) * size
        self._count += size

    @property
    def count(self) -> int:
        """Examples seen."""
        return self._count

    def values(self) -> dict[str, float]:
        """All values by name: first the main metric, then `loss`, the mean over the examples.

        Raises:
            TaskError: the main metric is not among them, or one of them is no number.
        """
        found: dict[str, float] = {}
        for name, metric in self._metrics.items():
            found |= self._named(name, metric.compute())
        for name in found:
            check_text(name, "objective: metrics")
            if name == LOSS:
                raise TaskError(f"objective: a metric is called {LOSS!r}, the name of the mean loss; rename it")
        if self._main not in found:
            known = ", ".join(found) or "none"
            raise TaskError(f"objective: the main metric {self._main!r} is not among the metrics: {known}")
        return {
            self._main: found[self._main],
            LOSS: self._losses / self._count if self._count else math.nan,
        } | found

    def _named(self, name: str, value: Any) -> dict[str, float]:
        if isinstance(value, Mapping):
            return {key: item for part, each in value.items() for key, item in self._named(str(part), each).items()}
        if isinstance(value, Tensor) and value.numel() > 1:
            flat = value.flatten().tolist()
            labels = self._labels if len(self._labels) == len(flat) else [str(index) for index in range(len(flat))]
            return {f"{name}_{label}": float(item) for label, item in zip(labels, flat, strict=True)}
        return {name: _number(name, value)}


def _number(name: str, value: Any) -> float:
    try:
        return float(value)
    except (TypeError, ValueError, RuntimeError) as error:
        raise TaskError(f"objective: metric {name} returned {type(value).__name__}, not a number") from error


def _metric(name: str, metric: AnyMetric) -> Metric:
    if isinstance(metric, Metric):
        return metric
    if not callable(metric):
        raise TaskError(
            f"objective: metric {name} must be a function of predictions and targets, or have update and compute, as "
            f"those of torchmetrics; it is {metric!r}"
        )
    return _MeanOverExamples(name, metric)


def evaluate(
    model: nn.Module, data: Data, task: Task | Objective, *, warn: Callable[[str], object] = log.warning
) -> dict[str, float]:
    """Metrics by name: first the objective's main metric and `loss`, then the others.

    Args:
        model: a student or teacher of the task.
        data: held-out data.
        task: or its objective.
        warn: called with one line for each metric that is left out because its value is not finite.

    Raises:
        TaskError: the main metric is not finite, or the data is empty.
    """
    return measure(model, data, task, warn=warn)[1]


def measure(
    model: nn.Module, data: Data, task: Task | Objective, *, warn: Callable[[str], object] = log.warning
) -> tuple[int, dict[str, float]]:
    """The number of examples, and what `evaluate` returns.

    Raises:
        TaskError: as there.
    """
    objective = task if isinstance(task, Objective) else task.objective
    metrics = Metrics(objective)
    with torch.no_grad():
        for batch, outputs in _passes(model, data, objective):
            metrics.update(outputs, batch, objective.loss(outputs, batch))
    if metrics.count == 0:
        raise TaskError("the held-out data has no examples")
    values = metrics.values()
    if not math.isfinite(values[objective.main]):
        raise TaskError(f"the main metric {objective.main} is {values[objective.main]} on the held-out data")
    for name, value in values.items():
        if not math.isfinite(value):
            warn(f"metric {name} is left out, because its value is {value}")
    return metrics.count, {name: value for name, value in values.items() if math.isfinite(value)}
