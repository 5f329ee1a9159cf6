"""Local training of a student under a frozen teacher, pre-training of that teacher, and evaluation.

Training together with a teacher that learns is in `mutual.py`, by the same loop (`descent.py`).

Everything here is deterministic given its seed, and leaves torch's own random state as it was.
"""

import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import numpy as np
import torch
from torch import Tensor, nn

from device_client.learning.losses import LossOfLabels, distillation_loss, loss_of_labels
from device_client.learning.training_loop import Learned, Rate, TrainingResult, optimise, right_ones, summed
from device_client.task import Examples, Recipe

_EVALUATION_BATCH = 512
_WARM_UP_SHARE = 0.03


@torch.no_grad()
def logits_of(model: nn.Module, inputs: Tensor) -> Tensor:
    """Logits (example, class) in evaluation mode, in batches, so that memory stays small."""
    was_training = model.training
    model.eval()
    logits = torch.cat([model(batch) for batch in torch.split(inputs, _EVALUATION_BATCH)])
    model.train(was_training)
    return logits


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


def evaluate(model: nn.Module, examples: Examples, classes: tuple[str, ...]) -> dict[str, float]:
    """Metrics by name: `accuracy`, `macro_f1`, `loss` (nats) and `recall_<class>` for the classes that occur.

    Macro F1 is the mean over the classes that occur among labels or predictions.
    """
    logits = logits_of(model, examples.inputs)  # (example, class)
    predicted, labels = logits.argmax(dim=1), examples.labels
    flat = torch.bincount(labels * len(classes) + predicted, minlength=len(classes) ** 2)
    confusion = flat.reshape(len(classes), len(classes)).double()  # (true, predicted)
    right, true, claimed = confusion.diagonal(), confusion.sum(dim=1), confusion.sum(dim=0)
    occurs = (true + claimed) > 0
    metrics = {
        "accuracy": float(right.sum() / confusion.sum()),
        "macro_f1": float((2 * right / (true + claimed))[occurs].mean()),
        "loss": float(nn.functional.cross_entropy(logits, labels)),
    }
    for index, name in enumerate(classes):
        if true[index] > 0:
            metrics[f"recall_{name}"] = float(right[index] / true[index])
    return metrics


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Torch's global random numbers (initial weights, dropout) fixed inside, and untouched outside."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        yield


def seed_of(*parts: int) -> int:
    """One seed out of several numbers, so that neighbours (seed 1 version 2, seed 2 version 1) stay apart."""
    return int(np.random.SeedSequence(parts).generate_state(1, np.uint64)[0] >> np.uint64(1))


def _half_cosine(step: int, steps: int) -> float:
    warm_up = min(1.0, (step + 1) / max(1.0, _WARM_UP_SHARE * steps))
    return warm_up * 0.5 * (1.0 + math.cos(math.pi * step / steps))


def task_loss_of(recipe: Recipe) -> LossOfLabels:
    """What the labels say to the student."""
    return loss_of_labels(recipe.task_loss, focal_gamma=recipe.focal_gamma, label_smoothing=recipe.label_smoothing)


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

    def learn(inputs: Tensor, labels: Tensor, chosen: Tensor) -> Learned:
        logits = model(inputs)  # (batch, class)
        loss = distillation_loss(
            logits,
            None if teacher_logits is None else teacher_logits[chosen],
            labels,
            temperature=recipe.temperature,
            alpha=recipe.alpha,
            task_loss=task_loss,
        )
        return Learned(loss, {"loss": summed(loss, labels), "accuracy": right_ones(logits, labels)})

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
