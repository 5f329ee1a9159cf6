"""The training loop that every method uses, with the loss passed in."""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from device_client.learning.adamw import AdamW
from device_client.task import Examples, Recipe

_AUGMENTED_VALUES_MAX = 1 << 18
"""Values (1 MiB) augmented at once, or one batch if that is larger: augmenting small batches alone is mostly
overhead."""

Rate = Callable[[int, int], float]
"""The learning rate, given the step and the total number of steps."""


@dataclass(frozen=True, kw_only=True)
class TrainingResult:
    """The result of one training run. The weights are in the modules that were passed in."""

    samples: int
    """Training examples; the aggregator may weight the update by it."""
    local_steps: int
    """Optimiser steps taken."""
    train_seconds: float
    """By the clock that was passed in; for telemetry only."""
    metrics: dict[str, float]
    """`loss` and `accuracy` of the student in training mode, means over the last epoch; with FedKD also those of the
    teacher."""
    finished: bool
    """False if `should_stop` ended it early; the weights are then of an unfinished run."""


@dataclass(frozen=True)
class BatchLoss:
    """The loss of one batch, and sums for the metrics."""

    loss: Tensor
    """A scalar, to be minimised."""
    sums: dict[str, float]
    """By name, summed over the batch; summed over an epoch and divided by its examples they become the metrics."""


ComputeLoss = Callable[[Tensor, Tensor, Tensor], BatchLoss]
"""Takes inputs (batch, …), labels (batch,) and the indices of the batch among the examples (batch,)."""


def loss_sum(mean_loss: Tensor, labels: Tensor) -> float:
    """The sum of a batch's losses, given their mean."""
    return float(mean_loss.detach()) * len(labels)


def correct_count(logits: Tensor, labels: Tensor) -> int:
    """Number of logits (batch, class) whose maximum is at the label (batch,)."""
    return int((logits.detach().argmax(dim=1) == labels).sum())


def optimise(
    networks: Sequence[tuple[nn.Module, Rate]],
    compute_loss: ComputeLoss,
    examples: Examples,
    recipe: Recipe,
    *,
    epochs: int,
    batch_size: int,
    seed: int,
    clock: Callable[[], float],
    should_stop: Callable[[], bool],
) -> TrainingResult:
    """Trains with AdamW. Its state starts fresh, because moments from another base would point in the wrong direction.

    Args:
        networks: each with its learning rate; changed in place, and left in evaluation mode.
        compute_loss: computes the loss of a batch.
        examples: shuffled each epoch and augmented by the recipe.
        recipe: augmentation and weight decay.
        epochs: passes over the examples.
        batch_size: examples.
        seed: of shuffling, augmentation and dropout.
        clock: seconds.
        should_stop: called before each batch.

    Raises:
        ValueError: networks share a parameter.
    """
    started = clock()
    generator = torch.Generator().manual_seed(seed)
    optimisers = _optimisers(networks, recipe.weight_decay)
    steps = epochs * math.ceil(len(examples) / batch_size)
    sums: dict[str, float] = {}
    step, seen, finished = 0, 0, True
    for network, _rate in networks:
        network.train()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)  # for dropout
        for _epoch in range(epochs):
            seen, sums = 0, {}
            for chosen, inputs in _batches(examples, recipe, batch_size, generator):
                if should_stop():
                    finished = False
                    break
                labels = examples.labels[chosen]
                batch_loss = compute_loss(inputs, labels, chosen)
                for optimiser, _rate in optimisers:
                    optimiser.zero_grad()
                batch_loss.loss.backward()  # type: ignore[no-untyped-call]
                for optimiser, rate in optimisers:
                    optimiser.step(rate(step, steps))
                step += 1
                seen += len(chosen)
                for name, value in batch_loss.sums.items():
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
    """One epoch: indices among the examples (batch,), and their inputs (batch, …) augmented by the recipe."""
    order = torch.randperm(len(examples), generator=generator)
    values = batch_size * examples.inputs[0].numel()
    for block in torch.split(order, batch_size * max(1, _AUGMENTED_VALUES_MAX // values)):
        inputs = examples.inputs[block]
        if recipe.augment is not None:
            inputs = recipe.augment(inputs, generator)
        yield from zip(torch.split(block, batch_size), torch.split(inputs, batch_size), strict=True)


def _optimisers(networks: Sequence[tuple[nn.Module, Rate]], weight_decay: float) -> list[tuple[AdamW, Rate]]:
    parameters = [parameter for network, _rate in networks for parameter in network.parameters()]
    if len({id(parameter) for parameter in parameters}) < len(parameters):
        raise ValueError("a parameter belongs to more than one of the networks, and would be trained twice")
    return [(AdamW(network.parameters(), weight_decay=weight_decay), rate) for network, rate in networks]
