"""Method AsyncFedKD: training a student under a frozen teacher, and pre-training that teacher.

Method FedKD, where the teacher is trained as well, is in `fedkd`. The losses, with their source, are in `losses`.

Everything here is deterministic given its seed, and restores torch's global random state.
"""

import math
import time
from collections.abc import Callable

from torch import nn

from device_client.learning.evaluation import TeacherOutputs, outputs_under
from device_client.learning.losses import distillation_loss, distillation_of, task_loss_of, teacher_loss_of
from device_client.learning.seeding import seed_of
from device_client.learning.training_loop import BatchLoss, NetworkLoss, Rate, TrainingResult, optimise
from device_client.task import Batch, Data, Loss, Objective, Recipe
from device_client.task.batches import device_of, mapped
from device_client.task.batching import Drawn

_WARM_UP_SHARE = 0.03
"""Share of the steps over which the learning rate rises linearly from 0, so that AdamW can estimate its moments first.
3 % is chosen, not measured."""


def train_student(
    student: nn.Module,
    teacher: nn.Module | None,
    data: Data,
    recipe: Recipe,
    *,
    objective: Objective,
    seed: int,
    version: int,
    teacher_outputs: TeacherOutputs | None = None,
    clock: Callable[[], float] = time.monotonic,
    should_stop: Callable[[], bool] = lambda: False,
) -> TrainingResult:
    """One round on one device: `recipe.epochs` passes over its examples. Trains `student` in place.

    Args:
        student: has the weights of model `version`, or of the last round on it.
        teacher: frozen; None: train on the targets alone.
        data: the device's private data.
        recipe: hyper-parameters.
        objective: of the task.
        seed: for shuffling, augmentation and dropout; together with `version` it determines the result.
        version: of the base; the learning rate falls with it.
        teacher_outputs: the teacher's, if the caller has them already. The teacher sees the original example even when
            the student sees an augmented one, so that they are computed once for all rounds.
        clock: seconds.
        should_stop: called before each batch.
    """
    if teacher_outputs is None and teacher is not None and recipe.alpha > 0:
        teacher_outputs = outputs_under(teacher, data, objective)
    return _train(
        student,
        data,
        recipe,
        objective=objective,
        epochs=recipe.epochs,
        batch_size=recipe.batch_size,
        rate=lambda _step, _steps: recipe.learning_rate_at(version),
        task_loss=task_loss_of(objective, recipe),
        teacher_outputs=teacher_outputs,
        seed=seed_of(seed, version),
        clock=clock,
        should_stop=should_stop,
    )


def train_alone(
    student: nn.Module,
    teacher: nn.Module | None,
    data: Data,
    recipe: Recipe,
    *,
    objective: Objective,
    epochs: int,
    seed: int,
    teacher_outputs: TeacherOutputs | None = None,
    clock: Callable[[], float] = time.monotonic,
) -> TrainingResult:
    """One long training run without federation, for baselines: on pooled data (upper) or one person's data (lower).

    Loss, augmentation, optimiser and batch size are those of `train_student`. The learning rate falls to zero along a
    half cosine over the run, which is the best schedule for a single run.
    """
    if teacher_outputs is None and teacher is not None and recipe.alpha > 0:
        teacher_outputs = outputs_under(teacher, data, objective)
    return _train(
        student,
        data,
        recipe,
        objective=objective,
        epochs=epochs,
        batch_size=recipe.batch_size,
        rate=lambda step, steps: recipe.learning_rate * _half_cosine(step, steps),
        task_loss=task_loss_of(objective, recipe),
        teacher_outputs=teacher_outputs,
        seed=seed_of(seed),
        clock=clock,
        should_stop=lambda: False,
    )


def train_teacher(
    teacher: nn.Module,
    data: Data,
    recipe: Recipe,
    *,
    objective: Objective,
    seed: int,
    clock: Callable[[], float] = time.monotonic,
    should_stop: Callable[[], bool] = lambda: False,
) -> TrainingResult:
    """Pre-trains the teacher in place on the task's teacher data, and freezes it."""
    result = _train(
        teacher,
        data,
        recipe,
        objective=objective,
        epochs=recipe.teacher_epochs,
        batch_size=recipe.teacher_batch_size,
        rate=lambda step, steps: recipe.teacher_learning_rate * _half_cosine(step, steps),
        task_loss=teacher_loss_of(objective, recipe),
        teacher_outputs=None,
        seed=seed_of(seed),
        clock=clock,
        should_stop=should_stop,
    )
    teacher.eval().requires_grad_(False)
    return result


def _half_cosine(step: int, steps: int) -> float:
    warm_up = min(1.0, (step + 1) / max(1.0, _WARM_UP_SHARE * steps))
    return warm_up * 0.5 * (1.0 + math.cos(math.pi * step / steps))


def _train(
    model: nn.Module,
    data: Data,
    recipe: Recipe,
    *,
    objective: Objective,
    epochs: int,
    batch_size: int,
    rate: Rate,
    task_loss: Loss,
    teacher_outputs: TeacherOutputs | None,
    seed: int,
    clock: Callable[[], float],
    should_stop: Callable[[], bool],
) -> TrainingResult:
    """Trains one network, with or without the outputs of a teacher."""
    distillation = None if teacher_outputs is None else distillation_of(objective)
    device = device_of(model)

    def compute_loss(batch: Batch, drawn: Drawn) -> BatchLoss:
        outputs = objective.forward(model, batch)
        loss = distillation_loss(
            outputs,
            None if teacher_outputs is None else mapped(teacher_outputs(drawn), lambda tensor: tensor.to(device)),
            batch,
            temperature=recipe.temperature,
            alpha=recipe.alpha,
            task_loss=task_loss,
            distillation=distillation,
        )
        return BatchLoss(loss, {"": NetworkLoss(outputs, loss)})

    return optimise(
        [(model, rate)],
        compute_loss,
        data,
        recipe,
        objective=objective,
        epochs=epochs,
        batch_size=batch_size,
        seed=seed,
        clock=clock,
        should_stop=should_stop,
    )
