"""Method FedKD: training a student and a local teacher together. The losses, with their source, are in `losses`.

A network that exposes its hidden state has two further methods, with `forward(x) == classify(features(x))`:

    features(inputs (batch, …)) -> (batch, hidden)
    classify(features (batch, hidden)) -> logits (batch, class)

If the student or the teacher does not have them, there is no hidden loss; the rest is the same.
"""

import time
from collections.abc import Callable
from typing import Protocol, cast, runtime_checkable

from torch import Tensor, nn, no_grad

from device_client.learning.losses import mutual_losses, task_loss_of
from device_client.learning.seeding import seed_of, seeded
from device_client.learning.training_loop import BatchLoss, TrainingResult, correct_count, loss_sum, optimise
from device_client.task import Examples, Recipe, TaskError


@runtime_checkable
class ShowsHidden(Protocol):
    """A network that exposes its hidden state."""

    def features(self, inputs: Tensor, /) -> Tensor:
        """Hidden states (batch, hidden) of inputs (batch, …)."""

    def classify(self, features: Tensor, /) -> Tensor:
        """Logits (batch, class) of hidden states (batch, hidden)."""


def projection_between(student: nn.Module, teacher: nn.Module, examples: Examples, *, seed: int) -> nn.Linear | None:
    """A fresh W_h, which maps the student's hidden states to the teacher's size; None if one of them exposes none.

    Args:
        student: of the task.
        teacher: of the task.
        examples: the first one is used to find the sizes of the hidden states.
        seed: for the initial weights.

    Raises:
        TaskError: a hidden state does not have the shape (batch, hidden).
    """
    if not (isinstance(student, ShowsHidden) and isinstance(teacher, ShowsHidden)):
        return None
    with seeded(seed):
        return nn.Linear(_hidden(student, examples), _hidden(teacher, examples), bias=False)


@no_grad()
def _hidden(network: nn.Module, examples: Examples) -> int:
    was_training = network.training
    network.eval()
    shape = cast("ShowsHidden", network).features(examples.inputs[:1]).shape
    network.train(was_training)
    if len(shape) != 2:  # noqa: PLR2004 — batch, hidden
        raise TaskError(
            f"{type(network).__name__}.features returns {tuple(shape)} for one example; it must be (batch, hidden)"
        )
    return int(shape[1])


def train_mutually(
    student: nn.Module,
    teacher: nn.Module,
    projection: nn.Linear | None,
    examples: Examples,
    recipe: Recipe,
    *,
    seed: int,
    version: int,
    clock: Callable[[], float] = time.monotonic,
    should_stop: Callable[[], bool] = lambda: False,
) -> TrainingResult:
    """One round on one device: `recipe.epochs` passes over its examples, with both networks on the same batches.

    The metrics are `loss` and `accuracy` of the student, and `teacher_loss` and `teacher_accuracy`. Both losses are the
    task losses alone: the total losses rise when the networks become confident, and are hard to interpret.

    Args:
        student: has the weights of model `version`, or of the last round on it; trained in place.
        teacher: the device's own, with the weights of its last round; trained in place. If all of it is frozen, as
            after pre-training, it is unfrozen; if only parts are frozen, they stay so.
        projection: W_h, trained in place; None: no hidden loss.
        examples: the device's private data.
        recipe: hyper-parameters; `alpha` and `temperature` do not apply to this method.
        seed: for shuffling, augmentation and dropout; together with `version` and the weights it determines the result.
        version: of the base; both learning rates fall with it.
        clock: seconds.
        should_stop: called before each batch.
    """
    if not any(parameter.requires_grad for parameter in teacher.parameters()):
        teacher.requires_grad_(True)
    task_loss = task_loss_of(recipe)

    def compute_loss(inputs: Tensor, labels: Tensor, _chosen: Tensor) -> BatchLoss:
        hidden = None
        if projection is None:
            student_logits, teacher_logits = student(inputs), teacher(inputs)  # (batch, class)
        else:
            student_hidden, student_logits = _in_two_stages(student, inputs)
            teacher_hidden, teacher_logits = _in_two_stages(teacher, inputs)
            hidden = projection(student_hidden), teacher_hidden  # (batch, teacher hidden)
        losses = mutual_losses(
            student_logits,
            teacher_logits,
            labels,
            temperature=recipe.mutual_temperature,
            task_loss=task_loss,
            hidden=hidden,
        )
        return BatchLoss(
            losses.student + losses.teacher,
            {
                "loss": loss_sum(losses.student_task, labels),
                "accuracy": correct_count(student_logits, labels),
                "teacher_loss": loss_sum(losses.teacher_task, labels),
                "teacher_accuracy": correct_count(teacher_logits, labels),
            },
        )

    def teacher_rate(_step: int, _steps: int) -> float:
        return recipe.local_teacher_learning_rate_at(version)

    networks = [(student, lambda _step, _steps: recipe.learning_rate_at(version)), (teacher, teacher_rate)]
    if projection is not None:
        networks.append((projection, teacher_rate))
    return optimise(
        networks,
        compute_loss,
        examples,
        recipe,
        epochs=recipe.epochs,
        batch_size=recipe.batch_size,
        seed=seed_of(seed, version),
        clock=clock,
        should_stop=should_stop,
    )


def _in_two_stages(network: nn.Module, inputs: Tensor) -> tuple[Tensor, Tensor]:
    """Hidden states and logits."""
    stages = cast("ShowsHidden", network)
    hidden = stages.features(inputs)
    return hidden, stages.classify(hidden)
