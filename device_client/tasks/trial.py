"""The trial before the first round: a few examples through loss, metrics, distillation and optimiser.

Nothing is trained, and no random numbers are used up.
"""

import math
from typing import Any

import torch
from torch import Tensor, nn

from device_client.learning.evaluation import Metrics
from device_client.learning.losses import distillation_of, task_loss_of
from device_client.learning.parameters import layout_of
from device_client.learning.training_loop import normalises_batches, optimiser_of
from device_client.task import Data, Examples, Task, TaskError
from device_client.task.batches import Batch, detached, device_of, mapped, placement
from device_client.task.batching import first_batch
from device_client.task.examples import example_count, is_map_dataset
from device_client.tasks.checking import check_augment, check_network, check_trainable
from device_client.tasks.user_code import called_through_us, user_code
from wire_contract.layout import Layout

_EXAMPLES = 2
_NAMES_MAX = 3
"""Weights listed in one line."""


class _Few:
    """The first examples of a data set that is slow to start, such as a `DataLoader` with worker processes."""

    def __init__(self, batch: Batch) -> None:
        self._batch = batch

    def __iter__(self) -> Any:
        return iter([self._batch])


def few_of(data: Data) -> Data:
    """The data, or its first examples where each look at them would read a whole batch anew."""
    return data if isinstance(data, Examples) or is_map_dataset(data) else _Few(first_batch(data, _EXAMPLES))


def check_learning(task: Task, *, student: nn.Module, teacher: nn.Module | None, data: Data) -> None:
    """Checks that networks, augmentation, loss, metrics, distillation, optimiser and schedule work with the data.

    Args:
        task: its recipe may have been changed by flags.
        student: fresh.
        teacher: with its weights; None: there is none.
        data: of this device.

    Raises:
        TaskError: one does not; the message says which and what to do.
    """
    recipe, objective, name = task.recipe, task.objective, f"task {task.name}"
    with user_code(f"task {task.name}: the data"):
        few = few_of(data)
    check_augment(task, few)
    before = layout_of(student, recipe.statistics)
    check_network(task, student, few)
    _check_layout(task, before, layout_of(student, recipe.statistics))
    if teacher is not None:
        check_network(task, teacher, few, "teacher")
        if recipe.method == "fedkd":
            check_trainable(teacher, f"{name}: teacher")
    check_single(task, student, data, "student")
    if teacher is not None and recipe.method == "fedkd":
        check_single(task, teacher, data, "teacher")
    with called_through_us(f"{name}: recipe: schedule"):
        recipe.learning_rate_at(0)
    with called_through_us(f"{name}: recipe: optimiser"):
        optimiser_of(student, recipe, lambda _step, _steps: recipe.learning_rate)
    batch = placement(student)(first_batch(few, _EXAMPLES))
    with torch.random.fork_rng(devices=[]):
        outputs = _outputs(task, student, batch)
        with called_through_us(f"{name}: loss"):
            loss: object = task_loss_of(objective, recipe)(outputs, batch)
            if isinstance(loss, Tensor) and not loss.requires_grad:
                # Some networks compute with their trained weights only in training mode, such as with an average of
                # them in evaluation mode.
                outputs = objective.forward(task.student().to(device_of(student)).train(), batch)
                loss = task_loss_of(objective, recipe)(outputs, batch)
        _check_loss(loss, f"{name}: loss")
        assert isinstance(loss, Tensor)
        check_metrics(task, outputs, batch, loss)
        if teacher is not None and (recipe.method == "fedkd" or recipe.alpha > 0):
            with torch.no_grad():
                taught = detached(objective.teaching(_outputs(task, teacher, batch)))
            temperature = recipe.mutual_temperature if recipe.method == "fedkd" else recipe.temperature
            with called_through_us(f"{name}: distillation"):
                distilled: object = distillation_of(objective)(outputs, taught, batch, temperature)
            _check_loss(distilled, f"{name}: distillation")


def _check_layout(task: Task, before: Layout, now: Layout) -> None:
    if now != before:
        changed = sorted({spec.name for spec in now.tensors} ^ {spec.name for spec in before.tensors})
        raise TaskError(
            f"task {task.name}: student: its first pass adds or removes weights ({', '.join(changed[:_NAMES_MAX])}); "
            "make all of them in the constructor"
        )


def check_measuring(task: Task, network: nn.Module, data: Data) -> None:
    """Checks that a network, the loss and the metrics work with held-out data.

    Raises:
        TaskError: one does not.
    """
    with user_code(f"task {task.name}: the data"):
        few = few_of(data)
    check_network(task, network, few)
    batch = placement(network)(first_batch(few, _EXAMPLES))
    with torch.no_grad(), torch.random.fork_rng(devices=[]):
        outputs = _outputs(task, network, batch)
        with called_through_us(f"task {task.name}: loss"):
            loss: object = task.objective.loss(outputs, batch)
        _check_scalar(loss, f"task {task.name}: loss")
        assert isinstance(loss, Tensor)
        check_metrics(task, outputs, batch, loss)


def check_metrics(task: Task, outputs: Any, batch: Batch, loss: Tensor) -> None:
    """Updates the objective's metrics with one batch.

    Raises:
        TaskError: one fails or is no number, or the main one is missing.
    """
    with called_through_us(f"task {task.name}: metrics"):
        metrics = Metrics(task.objective)
        metrics.update(outputs, batch, loss)
        metrics.values()


def check_single(task: Task, network: nn.Module, data: Data, what: str) -> None:
    """Checks that no batch is a single example where the network computes statistics over a batch.

    Raises:
        TaskError: every batch is.
    """
    alone = 1 in {example_count(data), task.recipe.batch_size} and (isinstance(data, Examples) or is_map_dataset(data))
    if alone and normalises_batches(network):
        why = "this device has one example" if example_count(data) == 1 else "batch_size is 1"
        raise TaskError(
            f"task {task.name}: {what} has BatchNorm layers, which cannot be trained on one example at a time, "
            f"and {why}; give more, or use GroupNorm or LayerNorm"
        )


def _outputs(task: Task, network: nn.Module, batch: Batch) -> Any:
    """With gradients, in evaluation mode; leaves the network as it was."""
    training = network.training
    network.eval()
    try:
        return task.objective.forward(network, mapped(batch, Tensor.clone))
    finally:
        network.train(training)


def _check_scalar(loss: object, where: str) -> None:
    if not isinstance(loss, Tensor) or loss.numel() != 1:
        returned = f"a tensor {tuple(loss.shape)}" if isinstance(loss, Tensor) else type(loss).__name__
        raise TaskError(f"{where} returned {returned}; it must be a scalar tensor, the mean over the batch")
    if not math.isfinite(float(loss.detach())):
        raise TaskError(f"{where} is {float(loss.detach())} for the first examples; it must be finite")


def _check_loss(loss: object, where: str) -> None:
    _check_scalar(loss, where)
    if not getattr(loss, "requires_grad", False):
        raise TaskError(
            f"{where} has no gradient, so nothing can be learned; compute it from the network's outputs, without "
            "detach(), numpy() or no_grad()"
        )
