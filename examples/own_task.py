"""A custom task: `asyncfedkd device run --task examples/own_task.py:task --device machine-1 …`.

Machines record their own vibration and learn to distinguish a sound bearing from a worn one. Replace `listen` with a
function that reads your data. Keep the three sets disjoint: no machine (or person) may be in more than one of the
devices' data, the teacher's data and the held-out data.
"""

import zlib

import numpy as np
from torch import nn

from device_client.task import Examples, Recipe, Task, pooled


def listen(machine: str, examples: int = 120) -> Examples:
    """Spectra (example, 32) of one machine with its own speed; simulated here, with a fixed seed for each machine."""
    random = np.random.default_rng(zlib.crc32(machine.encode()))
    worn, time = random.integers(0, 2, examples), np.arange(64) + random.uniform(0, 64, (examples, 1))
    turning, knocking = np.sin(time * random.uniform(0.4, 0.7)), np.sin(time * random.uniform(2.0, 2.2))
    sound = turning + 0.7 * worn[:, None] * knocking + random.normal(0, 0.5, time.shape)
    return Examples.of(np.log1p(np.abs(np.fft.rfft(sound)))[:, 1:], worn, [machine] * examples)


def network(width: int) -> nn.Module:
    """Maps inputs (batch, 32) to logits (batch, 2)."""
    return nn.Sequential(nn.Linear(32, width), nn.LayerNorm(width), nn.ReLU(), nn.Linear(width, 2))


def task() -> Task:
    """The task that `--task` names."""
    return Task(
        name="bearings",
        classes=("sound", "worn"),
        student=lambda: network(16),
        teacher=lambda: network(256),  # optional, like its data
        teacher_data=lambda: pooled([listen(f"factory-machine-{number}") for number in range(1, 5)]),
        device_data=listen,
        devices=tuple(f"machine-{number}" for number in range(1, 11)),
        held_out=lambda: listen("machine nobody has heard", 400),
        recipe=Recipe(epochs=2, learning_rate=5e-3),
    )
