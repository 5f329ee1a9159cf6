"""The training loop that every method uses, with the loss passed in."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from device_client.learning.adamw import AdamW
from device_client.learning.evaluation import Metrics
from device_client.task import Batch, Data, MakeOptimiser, Objective, Recipe, TaskError
from device_client.task.batches import placement
from device_client.task.batching import Drawn, batch_count, training_batches
from device_client.task.examples import example_count

Rate = Callable[[int, int], float]
"""The learning rate, given the step and the total number of steps."""


@dataclass(frozen=True, kw_only=True)
class TrainingResult:
    """The result of one training run. The weights are in the modules that were passed in."""

    samples: int
    """Training examples, for data of unknown length those seen in the last epoch; the aggregator may weight the update
    by it."""
    local_steps: int
    """Optimiser steps taken."""
    train_seconds: float
    """By the clock that was passed in; for telemetry only."""
    metrics: dict[str, float]
    """`loss` and the main metric of the student in training mode, over the last epoch; with FedKD also those of the
    teacher. A main metric that is not finite is left out."""
    finished: bool
    """False if `should_stop` ended it early; the weights are then of an unfinished run."""


@dataclass(frozen=True)
class NetworkLoss:
    """What one network made of a batch, for its metrics."""

    outputs: Any
    loss: Tensor
    """The mean over the batch, a scalar."""


@dataclass(frozen=True)
class BatchLoss:
    """The loss of one batch."""

    loss: Tensor
    """A scalar, to be minimised."""
    networks: Mapping[str, NetworkLoss]
    """By the prefix of the metrics' names: "" for the student, "teacher_" for its teacher."""


ComputeLoss = Callable[[Batch, Drawn], BatchLoss]
"""Takes a batch, where the networks are, and how it was drawn."""


def optimise(
    networks: Sequence[tuple[nn.Module, Rate]],
    compute_loss: ComputeLoss,
    data: Data,
    recipe: Recipe,
    *,
    objective: Objective,
    epochs: int,
    batch_size: int,
    seed: int,
    clock: Callable[[], float],
    should_stop: Callable[[], bool],
) -> TrainingResult:
    """Trains with AdamW, or the recipe's own optimiser. Its state starts fresh, because moments from another base would
    point in the wrong direction.

    Args:
        networks: each with its learning rate; changed in place, and left in evaluation mode.
        compute_loss: computes the loss of a batch.
        data: examples are shuffled each epoch and augmented by the recipe.
        recipe: augmentation, weight decay and optimiser.
        objective: its main metric is measured.
        epochs: passes over the data.
        batch_size: examples.
        seed: of shuffling, augmentation and dropout.
        clock: seconds.
        should_stop: called before each batch.

    Raises:
        ValueError: networks share a parameter.
        TaskError: the data has no examples, or the recipe's optimiser is none.
    """
    started = clock()
    generator = torch.Generator().manual_seed(seed)
    optimisers = [(optimiser_of(network, recipe, rate), rate) for network, rate in _distinct(networks)]
    steps = _Steps(epochs, batch_count(data, batch_size))
    join_single = any(normalises_batches(network) for network, _rate in networks)
    place = placement(networks[0][0])
    measured: dict[str, Metrics] = {}
    finished = True
    for network, _rate in networks:
        network.train()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)  # for dropout, and for the order of a DataLoader
        for _epoch in range(epochs):
            measured = {}
            for drawn in training_batches(
                data, recipe, batch_size=batch_size, generator=generator, join_single=join_single
            ):
                if should_stop():
                    finished = False
                    break
                objective.check_batch(data, drawn.batch)
                batch = place(drawn.batch)
                batch_loss = compute_loss(batch, drawn)
                _step(batch_loss.loss, optimisers, steps)
                for prefix, made in batch_loss.networks.items():
                    metrics = measured.setdefault(prefix, Metrics(objective, only_main=True))
                    metrics.update(made.outputs, batch, made.loss)
            if not finished:
                break
            if not measured:
                raise TaskError("the training data yields no batches; is it empty, or an iterator that is used up?")
            steps.end_epoch()
    for network, _rate in networks:
        network.eval()
    seen = max((metrics.count for metrics in measured.values()), default=0)
    return TrainingResult(
        samples=seen if (count := example_count(data)) is None else count,
        local_steps=steps.taken,
        train_seconds=clock() - started,
        metrics=_values(measured, objective.main),
        finished=finished,
    )


def normalises_batches(network: nn.Module) -> bool:
    """Whether the network computes statistics over a batch, so that it cannot train on a single example."""
    return any(isinstance(module, _BatchNorm) for module in network.modules())


def _step(loss: Tensor, optimisers: "Sequence[tuple[AdamW | _OwnOptimiser, Rate]]", steps: "_Steps") -> None:
    for optimiser, _rate in optimisers:
        optimiser.zero_grad()
    loss.backward()  # type: ignore[no-untyped-call]
    for optimiser, rate in optimisers:
        optimiser.step(rate(steps.taken, steps.total))
    steps.take()


class _Steps:
    """Counts steps; the total of data of unknown length is known from its second epoch on."""

    def __init__(self, epochs: int, batches: int | None) -> None:
        self._epochs, self._batches = epochs, batches
        self._in_epoch = 0
        self.taken = 0

    @property
    def total(self) -> int:
        return self._epochs * max(self._batches or 0, self._in_epoch + 1)

    def take(self) -> None:
        self.taken += 1
        self._in_epoch += 1

    def end_epoch(self) -> None:
        if self._batches is None:
            self._batches = self._in_epoch
        self._in_epoch = 0


def _values(measured: Mapping[str, Metrics], main: str) -> dict[str, float]:
    """`loss` and the main metric of each network; the loss also where it is not finite, which discards the round."""
    values: dict[str, float] = {}
    for prefix, metrics in measured.items():
        found = metrics.values()
        values[f"{prefix}loss"] = found["loss"]
        if math.isfinite(found[main]):
            values[f"{prefix}{main}"] = found[main]
    return values


def _distinct(networks: Sequence[tuple[nn.Module, Rate]]) -> Sequence[tuple[nn.Module, Rate]]:
    parameters = [parameter for network, _rate in networks for parameter in network.parameters()]
    if len({id(parameter) for parameter in parameters}) < len(parameters):
        raise ValueError("a parameter belongs to more than one of the networks, and would be trained twice")
    return networks


def optimiser_of(network: nn.Module, recipe: Recipe, rate: Rate) -> "AdamW | _OwnOptimiser":
    """A fresh optimiser of a network's parameters.

    Raises:
        TaskError: the recipe's function returned none.
    """
    if recipe.optimiser is None:
        return AdamW(network.parameters(), weight_decay=recipe.weight_decay)
    trained = [parameter for parameter in network.parameters() if parameter.requires_grad]
    return _OwnOptimiser(recipe.optimiser, trained, rate(0, 1))


class _OwnOptimiser:
    """The user's optimiser, with the learning rate set before each step."""

    def __init__(self, make: MakeOptimiser, parameters: list[nn.Parameter], rate: float) -> None:
        optimiser: Any = make([{"params": parameters, "lr": rate}])
        if not all(hasattr(optimiser, name) for name in ("step", "zero_grad", "param_groups")):
            raise TaskError(
                f"recipe: optimiser returned {type(optimiser).__name__}, not a torch.optim.Optimizer; give a function "
                "such as lambda groups: torch.optim.SGD(groups)"
            )
        self._optimiser = optimiser
        # A user who splits the group may give its parts other rates: their ratios are kept.
        self._ratios = [float(group["lr"]) / rate if rate > 0 else 1.0 for group in optimiser.param_groups]

    def zero_grad(self) -> None:
        self._optimiser.zero_grad()

    def step(self, rate: float) -> None:
        for group, ratio in zip(self._optimiser.param_groups, self._ratios, strict=True):
            group["lr"] = rate * ratio
        self._optimiser.step()
