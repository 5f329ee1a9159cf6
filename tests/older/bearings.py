"""A task in which a model is large enough for chunks and deltas, and a round takes a moment: for either program."""

import zlib

import numpy as np
from torch import nn

from device_client.task import Examples, Recipe, Task

TENSORS = {"0.weight": (512, 32), "0.bias": (512,), "1.weight": (512,), "1.bias": (512,)}
TENSORS |= {"3.weight": (2, 512), "3.bias": (2,)}


def listen(machine: str) -> Examples:
    """Made up: two classes that lie apart."""
    random = np.random.default_rng(zlib.crc32(machine.encode()))
    worn = random.integers(0, 2, 60)
    return Examples.of(random.normal(worn[:, None], 1.0, (60, 32)), worn, [machine] * 60)


def task() -> Task:
    return Task(
        name="bearings",
        classes=("sound", "worn"),
        student=lambda: nn.Sequential(nn.Linear(32, 512), nn.LayerNorm(512), nn.ReLU(), nn.Linear(512, 2)),
        device_data=listen,
        devices=("machine-1", "machine-2", "machine-3"),
        held_out=lambda: listen("machine nobody has heard"),
        recipe=Recipe(epochs=1, learning_rate=5e-3),
    )
