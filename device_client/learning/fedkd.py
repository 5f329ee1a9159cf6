"""Method FedKD: training a student and a local teacher together. The losses, with their source, are in `losses`.

A network that exposes its hidden state has two further methods, with `forward(x) == classify(features(x))`:

    features(inputs (batch, …)) -> (batch, hidden)
    classify(features (batch, hidden)) -> outputs, such as logits (batch, class)

If the student or the teacher does not have them, or a batch has several inputs, or the task has a `forward` of its own,
there is no hidden loss; the rest is the same.
"""

import time
from collections.abc import Callable
from typing import Any, Protocol, cast, runtime_checkable

from torch import Tensor, nn, no_grad

from device_client.learning.losses import distillation_of, mutual_losses, task_loss_of
from device_client.learning.seeding import seed_of, seeded
from device_client.learning.training_loop import BatchLoss, NetworkLoss, TrainingResult, optimise
from device_client.task import Batch, Data, Objective, Recipe, TaskError, inputs_of, outputs_of
from device_client.task.batches import placement
from device_client.task.batching import Drawn, first_batch


@runtime_checkable
class ShowsHidden(Protocol):
    """A network that exposes its hidden state."""

    def features(self, inputs: Any, /) -> Tensor:
        """Hidden states (batch, hidden) of inputs (batch, …)."""

    def classify(self, features: Tensor, /) -> Any:
        """The outputs of hidden states (batch, hidden)."""


def projection_between(
    student: nn.Module, teacher: nn.Module, data: Data, *, objective: Objective, seed: int
) -> nn.Linear | None:
    """A fresh W_h, which maps the student's hidden states to the teacher's size; None if one of them exposes none.

    Args:
        student: of the task.
        teacher: of the task.
        data: the first example is used to find the sizes of the hidden states.
        objective: of the task.
        seed: for the initial weights.

    Raises:
        TaskError: a hidden state does not have the shape (batch, hidden).
    """
    if not (isinstance(student, ShowsHidden) and isinstance(teacher, ShowsHidden)):
        return None
    batch = first_batch(data, 1)
    if objective.forward is not outputs_of or not isinstance(inputs_of(batch), Tensor):
        return None
    with seeded(seed):
        projection = nn.Linear(_hidden(student, batch), _hidden(teacher, batch), bias=False)
    return projection.to(next(student.parameters()).device)


@no_grad()
def _hidden(network: nn.Module, batch: Batch) -> int:
    was_training = network.training
    network.eval()
    shape = cast("ShowsHidden", network).features(inputs_of(placement(network)(batch))).shape
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
    data: Data,
    recipe: Recipe,
    *,
    objective: Objective,
    seed: int,
    version: int,
    clock: Callable[[], float] = time.monotonic,
    should_stop: Callable[[], bool] = lambda: False,
) -> TrainingResult:
    """One round on one device: `recipe.epochs` passes over its examples, with both networks on the same batches.

    The metrics are `loss` and the main metric of the student, and those of the teacher, such as `teacher_loss` and
    `teacher_accuracy`. Both losses are the task losses alone: the total losses rise when the networks become confident,
    and are hard to interpret.

    Args:
        student: has the weights of model `version`, or of the last round on it; trained in place.
        teacher: the device's own, with the weights of its last round; trained in place. If all of it is frozen, as
            after pre-training, it is unfrozen; if only parts are frozen, they stay so.
        projection: W_h, trained in place; None: no hidden loss.
        data: the device's private data.
        recipe: hyper-parameters; `alpha` and `temperature` do not apply to this method.
        objective: of the task.
        seed: for shuffling, augmentation and dropout; together with `version` and the weights it determines the result.
        version: of the base; both learning rates fall with it.
        clock: seconds.
        should_stop: called before each batch.
    """
    if not any(parameter.requires_grad for parameter in teacher.parameters()):
        teacher.requires_grad_(True)
    task_loss, distillation = task_loss_of(objective, recipe), distillation_of(objective)

    def compute_loss(batch: Batch, _drawn: Drawn) -> BatchLoss:
        hidden = None
        if projection is None:
            student_outputs, teacher_outputs = objective.forward(student, batch), objective.forward(teacher, batch)
        else:
            student_hidden, student_outputs = _in_two_stages(student, inputs_of(batch))
            teacher_hidden, teacher_outputs = _in_two_stages(teacher, inputs_of(batch))
            hidden = projection(student_hidden), teacher_hidden  # (batch, teacher hidden)
        losses = mutual_losses(
            student_outputs,
            teacher_outputs,
            batch,
            temperature=recipe.mutual_temperature,
            task_loss=task_loss,
            distillation=distillation,
            hidden=hidden,
        )
        return BatchLoss(
            losses.student + losses.teacher,
            {
                "": NetworkLoss(student_outputs, losses.student_task),
                "teacher_": NetworkLoss(teacher_outputs, losses.teacher_task),
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
        data,
        recipe,
        objective=objective,
        epochs=recipe.epochs,
        batch_size=recipe.batch_size,
        seed=seed_of(seed, version),
        clock=clock,
        should_stop=should_stop,
    )


def _in_two_stages(network: nn.Module, inputs: Any) -> tuple[Tensor, Any]:
    """Hidden states and outputs."""
    stages = cast("ShowsHidden", network)
    hidden = stages.features(inputs)
    return hidden, stages.classify(hidden)
