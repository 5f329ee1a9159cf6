"""Autoencoder: machines learn to reconstruct their own vibration; what cannot be reconstructed later is a fault.

`asyncfedkd device run --task examples/autoencoder.py:task --device machine-1 …`. Replace `spectra` by a function that
reads your data. There are no labels.
"""

import zlib

import numpy as np
from torch import nn

from device_client.task import Examples, Recipe, Task, reconstruction

LINES = 32


def spectra(machine: str, examples: int = 120) -> Examples:
    """Spectra (example, 32) of one sound machine with its own speeds; simulated with a fixed seed for each machine."""
    random = np.random.default_rng(zlib.crc32(machine.encode()))
    speed, line = random.uniform(3, 6, (examples, 1)), np.arange(LINES)
    peaks = sum(np.exp(-((line - order * speed) ** 2) / 2) / order for order in (1, 2, 3))
    load = random.uniform(0.5, 1.5, (examples, 1))
    return Examples.of(load * peaks + random.normal(0, 0.2, (examples, LINES)), persons=[machine] * examples)


def network(code: int = 4, width: int = 48) -> nn.Module:
    """Maps spectra (batch, 32) to themselves through a code of four numbers."""
    return nn.Sequential(
        nn.Linear(LINES, width),
        nn.ReLU(),
        nn.Linear(width, code),
        nn.Linear(code, width),
        nn.ReLU(),
        nn.Linear(width, LINES),
    )


def task() -> Task:
    """The task that `--task` names."""
    return Task(
        name="vibration",
        objective=reconstruction(),
        student=network,
        device_data=spectra,
        devices=tuple(f"machine-{number}" for number in range(1, 11)),
        held_out=lambda: spectra("a machine that nobody has heard", 400),
        recipe=Recipe(epochs=2, batch_size=16, learning_rate=9e-3, schedule="cosine", schedule_versions=100),
    )
