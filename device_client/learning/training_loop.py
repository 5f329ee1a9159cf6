"""The one training loop, whatever is trained by whatever loss."""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from device_client.task import Examples, Recipe

_AUGMENTED_VALUES_MAX = 1 << 18
"""Values (1 MiB of them) that are augmented at once, if a batch is not larger; a small one alone is mostly overhead."""

Rate = Callable[[int, int], float]
"""Learning rate at a step of so many."""


@dataclass(frozen=True, kw_only=True)
class TrainingResult:
    """What one round of training did. The weights are in the module that was given."""

    samples: int
    """Examples of the device; a weight in merging."""
    local_steps: int
    """Optimiser steps taken."""
    train_seconds: float
    """By the given clock; telemetry only."""
    metrics: dict[str, float]
    """`loss` (mean over the last epoch) and `accuracy` (of the student in training mode, last epoch); of mutual
    training also those of the teacher."""
    finished: bool
    """False when `should_stop` ended it early: the weights are then halfway."""


@dataclass(frozen=True)
class BatchLoss:
    """What one batch said."""

    loss: Tensor
    """A scalar, to be made smaller."""
    sums: dict[str, float]
    """By name, over the batch; over an epoch and divided by its examples they become the metrics."""


ComputeLoss = Callable[[Tensor, Tensor, Tensor], BatchLoss]
"""Of inputs (batch, …), labels (batch,) and their places among the examples (batch,)."""


def loss_sum(mean_loss: Tensor, labels: Tensor) -> float:
    """A batch's mean loss as a sum."""
    return float(mean_loss.detach()) * len(labels)


def correct_count(logits: Tensor, labels: Tensor) -> int:
    """How many of logits (batch, class) say what labels (batch,) say."""
    return int((logits.detach().argmax(dim=1) == labels).sum())


def optimise(
    networks: Sequence[tuple[nn.Module, Rate]],
    learn: ComputeLoss,
    examples: Examples,
    recipe: Recipe,
    *,
    epochs: int,
    batch_size: int,
    seed: int,
    clock: Callable[[], float],
    should_stop: Callable[[], bool],
) -> TrainingResult:
    """The one training loop: AdamW, started afresh, since moments of another base would pull the wrong way.

    Args:
        networks: each with its learning rate; changed in place, and left in evaluation mode.
        learn: the loss of a batch.
        examples: augmented by the recipe, shuffled each epoch.
        recipe: augmentation and weight decay.
        epochs: passes over the examples.
        batch_size: examples.
        seed: of shuffling, augmentation and dropout.
        clock: seconds.
        should_stop: looked at before each batch.
    """
    started = clock()
    generator = torch.Generator().manual_seed(seed)
    groups = [{"params": list(network.parameters())} for network, _rate in networks]
    optimiser = torch.optim.AdamW(groups, lr=0.0, weight_decay=recipe.weight_decay, fused=True)
    steps = epochs * math.ceil(len(examples) / batch_size)
    sums: dict[str, float] = {}
    step, seen, finished = 0, 0, True
    for network, _rate in networks:
        network.train()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)  # of dropout
        for _epoch in range(epochs):
            seen, sums = 0, {}
            for chosen, inputs in _batches(examples, recipe, batch_size, generator):
                if should_stop():
                    finished = False
                    break
                labels = examples.labels[chosen]
                learned = learn(inputs, labels, chosen)
                for group, (_network, rate) in zip(optimiser.param_groups, networks, strict=True):
                    group["lr"] = rate(step, steps)
                optimiser.zero_grad()
                learned.loss.backward()  # type: ignore[no-untyped-call]
                optimiser.step()
                step += 1
                seen += len(chosen)
                for name, value in learned.sums.items():
                    sums[name] = sums.get(name, 0.0) + value
            if not finished:
                break
    for network, _rate in networks:
        network.eval()
    return TrainingResult(
        samples=len(examples),
        local_steps=step,
        train_seconds=clock() - started,
        metrics={name: value / seen for name, value in sums.items()},
        finished=finished,
    )


def _batches(
    examples: Examples, recipe: Recipe, batch_size: int, generator: torch.Generator
) -> Iterator[tuple[Tensor, Tensor]]:
    """One epoch: places among the examples (batch,), and their inputs (batch, …) as the recipe changes them."""
    order = torch.randperm(len(examples), generator=generator)
    values = batch_size * examples.inputs[0].numel()
    for block in torch.split(order, batch_size * max(1, _AUGMENTED_VALUES_MAX // values)):
        inputs = examples.inputs[block]
        if recipe.augment is not None:
            inputs = recipe.augment(inputs, generator)
        yield from zip(torch.split(block, batch_size), torch.split(inputs, batch_size), strict=True)
