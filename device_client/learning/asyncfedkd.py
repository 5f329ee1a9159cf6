"""Local training of a student under a frozen teacher, pre-training of that teacher, and evaluation.

Training together with a teacher that learns is in `mutual.py`, by the same loop (`descent.py`).

Everything here is deterministic given its seed, and leaves torch's own random state as it was.
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
    """One round on one device: `recipe.epochs` passes over its examples, changing `student` in place.

    Args:
        student: holds the weights of model `version`, or what was learned on it so far; afterwards what was learned.
        teacher: frozen; None trains on the labels alone.
        examples: the device's own.
        recipe: hyper-parameters.
        seed: of shuffling, augmentation and dropout; together with `version` it fixes the outcome.
        version: of the model started from; the learning rate falls with it.
        teacher_logits: (example, class) of `examples`, when the caller has asked the teacher before. The teacher is
            asked about the unchanged example even where the student sees an augmented one, so that one answer serves
            all rounds: a large teacher on every augmented batch would cost more than the training itself.
        clock: seconds.
        should_stop: looked at before each batch.
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
    """One long training without any federation: the ceiling (pooled data) and the floor (one person's data).

    The same loss, augmentation, optimiser and batch size as `train_student`, with the learning rate falling to zero
    along a half cosine over its own steps, which is what a lone run can do best.
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
    """Pre-trains the teacher on its own persons, in place, and freezes it."""
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
    """One network, under a teacher's answers or none."""

    def learn(inputs: Tensor, labels: Tensor, chosen: Tensor) -> BatchLoss:
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
        learn,
        examples,
        recipe,
        epochs=epochs,
        batch_size=batch_size,
        seed=seed,
        clock=clock,
        should_stop=should_stop,
    )
