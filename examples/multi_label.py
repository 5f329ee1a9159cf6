"""Multi-label classification: a meter recognises which appliances of a household are running; any number may be.

`asyncfedkd device run --task examples/multi_label.py:task --device house-1 …`. Replace `readings` by a function that
reads your data.
"""

import zlib

import numpy as np
from torch import nn

from device_client.task import Examples, Recipe, Task, multi_label

APPLIANCES = ("fridge", "kettle", "washing machine", "heat pump")
HARMONICS = 24
_SIGNATURES = np.random.default_rng(7).gamma(0.5, 1.0, (len(APPLIANCES), HARMONICS))
"""Current of each appliance at each harmonic; the same in every household."""


def readings(house: str, examples: int = 120) -> Examples:
    """Harmonics of the current (example, 24) in one household, and which appliances run (example, 4), 0 or 1.

    Simulated with a fixed seed for each household, whose appliances differ in strength and which has other loads too.
    """
    random = np.random.default_rng(zlib.crc32(house.encode()))
    running = random.random((examples, len(APPLIANCES))) < random.uniform(0.2, 0.6, len(APPLIANCES))
    strength = random.uniform(0.7, 1.3, len(APPLIANCES)) * random.uniform(0.9, 1.1, (examples, len(APPLIANCES)))
    current = (running * strength) @ _SIGNATURES + random.gamma(0.3, 0.3, HARMONICS)
    current = np.log1p(np.abs(current + random.normal(0, 0.8, current.shape)))
    return Examples.of(current, persons=[house] * examples, targets=running.astype(np.float32))


def network(width: int) -> nn.Module:
    """Maps readings (batch, 24) to logits (batch, 4), one for each appliance."""
    return nn.Sequential(nn.Linear(HARMONICS, width), nn.LayerNorm(width), nn.ReLU(), nn.Linear(width, len(APPLIANCES)))


def task() -> Task:
    """The task that `--task` names."""
    return Task(
        name="appliances",
        objective=multi_label(APPLIANCES),
        student=lambda: network(32),
        device_data=readings,
        devices=tuple(f"house-{number}" for number in range(1, 11)),
        held_out=lambda: readings("a house without a meter", 400),
        recipe=Recipe(epochs=2, batch_size=16, learning_rate=9e-3, schedule="cosine", schedule_versions=100),
    )
