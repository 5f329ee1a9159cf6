"""The interface between a device and what trains its student. All that the runner knows of machine learning; no torch.

`learning/student_trainer.py` implements it with torch; tests have trainers of their own.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from wire_contract.layout import Vector

Tick = Callable[[], bool]
"""To be called before each batch; the call may take as long as it likes. False: stop, the round is abandoned."""


@dataclass(frozen=True, eq=False)
class Trained:
    """The result of one round of local training."""

    weights: Vector
    """Of the student after the round, (layout.size,)."""
    samples: int
    """Training examples on the device; the aggregator may weight the update by it."""
    steps: int
    """Optimiser steps taken."""
    metrics: dict[str, float]


class Trainer(Protocol):
    """Trains a student for one round at a time."""

    def train(self, weights: Vector, *, version: int, round: int, tick: Tick) -> Trained | None:  # noqa: A002
        """One round of training; None when `tick` returned False.

        Args:
            weights: of the student to start from, (layout.size,); they are not modified.
            version: of the base.
            round: number of the round on this base, from 1; together with the version it seeds the random numbers.
            tick: called before each batch.
        """


def is_finite(trained: Trained) -> bool:
    """Whether all weights and metrics are finite, that is, training did not diverge."""
    return not not_finite(trained)


def not_finite(trained: Trained) -> str:
    """What is not finite, for people; empty: everything is."""
    wrong = [f"{name} is {value}" for name, value in trained.metrics.items() if not np.isfinite(value)]
    weights = trained.weights.size - int(np.isfinite(trained.weights).sum())
    if weights:
        wrong.append(f"{weights} of {trained.weights.size} weights are not finite")
    return ", ".join(wrong)
