"""Method AsyncFedKD: training a student under a frozen teacher, and pre-training that teacher.

Method FedKD, where the teacher is trained as well, is in `fedkd`. The losses, with their source, are in `losses`.

Everything here is deterministic given its seed, and restores torch's global random state.
"""

import math
import time
from collections.abc import Callable

from torch import Tensor, nn

from device_client.learning.evaluation import logits_of
from device_client.learning.losses import LossOfLabels, distillation_loss, loss_of_labels, task_loss_of
from device_client.learning.seeding import seed_of
from device_client.learning.training_loop import BatchLoss, Rate, TrainingResult, correct_count, loss_sum, optimise
from device_client.task import Examples, Recipe

_WARM_UP_SHARE = 0.03
"""Share of the steps over which the learning rate rises linearly from 0, so that AdamW can estimate its moments first.
3 % is chosen, not measured."""


def train_student(
    student: nn.Module,
    teacher: nn.Module | None,
    examples: Examples,
    recipe: Recipe,
    *,
    seed: int,
    version: int,
    teacher_logits: Tensor | None = None,
    clock: Callable[[], float] = time.monotonic,
    should_stop: Callable[[], bool] = lambda: False,
) -> TrainingResult:
    """One round on one device: `recipe.epochs` passes over its examples. Trains `student` in place.

    Args:
        student: has the weights of model `version`, or of the last round on it.
        teacher: frozen; None: train on the labels alone.
        examples: the device's private data.
        recipe: hyper-parameters.
        seed: for shuffling, augmentation and dropout; together with `version` it determines the result.
        version: of the base; the learning rate falls with it.
        teacher_logits: (example, class) of `examples`, if the caller has them already. The teacher sees the original
            example even when the student sees an augmented one, so that its logits are computed once for all rounds:
            a large teacher on every augmented batch would cost more than the training itself.
        clock: seconds.
        should_stop: called before each batch.
    """
    if teacher_logits is None and teacher is not None and recipe.alpha > 0:
        teacher_logits = logits_of(teacher, examples.inputs)
    return _train(
        student,
        examples,
        recipe,
        epochs=recipe.epochs,
        batch_size=recipe.batch_size,
        rate=lambda _step, _steps: recipe.learning_rate_at(version),
        task_loss=task_loss_of(recipe),
        teacher_logits=teacher_logits,
        seed=seed_of(seed, version),
        clock=clock,
        should_stop=should_stop,
    )


def train_alone(
    student: nn.Module,
    teacher: nn.Module | None,
    examples: Examples,
    recipe: Recipe,
    *,
    epochs: int,
    seed: int,
    teacher_logits: Tensor | None = None,
    clock: Callable[[], float] = time.monotonic,
) -> TrainingResult:
    """One long training run without federation, for baselines: on pooled data (upper) or one person's data (lower).

    Loss, augmentation, optimiser and batch size are those of `train_student`. The learning rate falls to zero along a
    half cosine over the run, which is the best schedule for a single run.
    """
    if teacher_logits is None and teacher is not None and recipe.alpha > 0:
        teacher_logits = logits_of(teacher, examples.inputs)
    return _train(
        student,
        examples,
        recipe,
        epochs=epochs,
        batch_size=recipe.batch_size,
        rate=lambda step, steps: recipe.learning_rate * _half_cosine(step, steps),
        task_loss=task_loss_of(recipe),
        teacher_logits=teacher_logits,
        seed=seed_of(seed),
        clock=clock,
        should_stop=lambda: False,
    )


def train_teacher(
    teacher: nn.Module,
    examples: Examples,
    recipe: Recipe,
    *,
    seed: int,
    clock: Callable[[], float] = time.monotonic,
    should_stop: Callable[[], bool] = lambda: False,
) -> TrainingResult:
    """Pre-trains the teacher in place on the task's teacher data, and freezes it."""
    result = _train(
        teacher,
        examples,
        recipe,
        epochs=recipe.teacher_epochs,
        batch_size=recipe.teacher_batch_size,
        rate=lambda step, steps: recipe.teacher_learning_rate * _half_cosine(step, steps),
        task_loss=loss_of_labels(
            "cross_entropy", focal_gamma=recipe.focal_gamma, label_smoothing=recipe.teacher_label_smoothing
        ),
        teacher_logits=None,
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
    examples: Examples,
    recipe: Recipe,
    *,
    epochs: int,
    batch_size: int,
    rate: Rate,
    task_loss: LossOfLabels,
    teacher_logits: Tensor | None,
    seed: int,
    clock: Callable[[], float],
    should_stop: Callable[[], bool],
) -> TrainingResult:
    """Trains one network, with or without the logits of a teacher."""

    def compute_loss(inputs: Tensor, labels: Tensor, chosen: Tensor) -> BatchLoss:
        logits = model(inputs)  # (batch, class)
        loss = distillation_loss(
            logits,
            None if teacher_logits is None else teacher_logits[chosen],
            labels,
            temperature=recipe.temperature,
            alpha=recipe.alpha,
            task_loss=task_loss,
        )
        return BatchLoss(loss, {"loss": loss_sum(loss, labels), "accuracy": correct_count(logits, labels)})

    return optimise(
        [(model, rate)],
        compute_loss,
        examples,
        recipe,
        epochs=epochs,
        batch_size=batch_size,
        seed=seed,
        clock=clock,
        should_stop=should_stop,
    )
