"""Forecasting: a meter predicts the next eight hours of a household's consumption from the last two days.

`asyncfedkd device run --task examples/forecasting.py:task --device meter-1 …`. Replace `consumption` by a function that
reads your data.
"""

import zlib

import numpy as np
from torch import Tensor, nn

from device_client.task import Examples, Recipe, Task, regression

PAST, FUTURE = 48, 8
"""Hours."""


def consumption(house: str, days: int = 60) -> Examples:
    """Windows of the past (example, 48) of one household, and the hours that follow (example, 8), standardised.

    Simulated with a fixed seed for each household, which has habits of its own. Windows of one household overlap, so a
    split must be by household.
    """
    random = np.random.default_rng(zlib.crc32(house.encode()))
    hour = np.arange(24 * days)
    morning, evening = random.uniform(6, 9), random.uniform(17, 21)
    daily = np.exp(-(((hour % 24) - morning) ** 2) / 4) + 1.5 * np.exp(-(((hour % 24) - evening) ** 2) / 8)
    level = 1 + 0.2 * np.sin(2 * np.pi * hour / (24 * 7) + random.uniform(0, 6))
    use = level * daily + random.normal(0, 0.4, len(hour))
    use = (use - use.mean()) / use.std()
    starts = np.arange(0, len(use) - PAST - FUTURE, 9)
    past, future = (np.stack([use[at + start : at + stop] for at in starts]) for start, stop in _PARTS)
    return Examples.of(past, persons=[house] * len(starts), targets=future)


_PARTS = ((0, PAST), (PAST, PAST + FUTURE))


class Network(nn.Module):
    """Maps the past (batch, 48) to the change from the same hours of the last day, and adds these: (batch, 8)."""

    def __init__(self, width: int = 32) -> None:
        super().__init__()
        self.change = nn.Sequential(nn.Linear(PAST, width), nn.ReLU(), nn.Linear(width, FUTURE))

    def forward(self, past: Tensor) -> Tensor:
        """The forecast."""
        return past[:, PAST - 24 : PAST - 24 + FUTURE] + self.change(past)  # type: ignore[no-any-return]


def task() -> Task:
    """The task that `--task` names."""
    return Task(
        name="load-forecast",
        objective=regression(tuple(f"hour {number}" for number in range(1, FUTURE + 1))),
        student=Network,
        device_data=consumption,
        devices=tuple(f"meter-{number}" for number in range(1, 11)),
        held_out=lambda: consumption("a house without a meter", 120),
        recipe=Recipe(epochs=2, batch_size=16, learning_rate=6e-3, schedule="cosine", schedule_versions=100),
    )
