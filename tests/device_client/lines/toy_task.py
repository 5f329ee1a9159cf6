"""A task whose student changes: what a device is started with before and afterwards."""

import zlib

import numpy as np
from torch import nn

from device_client.task import Examples, Recipe, Task


def listen(name: str, examples: int = 24) -> Examples:
    random = np.random.default_rng(zlib.crc32(name.encode()))
    labels = random.integers(0, 2, examples)
    inputs = random.normal(labels[:, None], 1.0, (examples, 4))
    return Examples.of(inputs, labels, [name] * examples)


def small() -> nn.Module:
    return nn.Linear(4, 2)


def large() -> nn.Module:
    return nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))


def old() -> Task:
    return Task(
        name="toy",
        classes=("no", "yes"),
        student=small,
        device_data=listen,
        held_out=lambda: listen("held out"),
        recipe=Recipe(epochs=1, learning_rate=1e-2),
    )


def new() -> Task:
    return Task(
        name="toy",
        classes=("no", "yes"),
        student=large,
        device_data=listen,
        held_out=lambda: listen("held out"),
        recipe=Recipe(epochs=1, learning_rate=1e-2),
    )


def taught() -> Task:
    """The new student, with the old one as its teacher."""
    return Task(
        name="toy",
        classes=("no", "yes"),
        student=large,
        teacher=small,
        device_data=listen,
        held_out=lambda: listen("held out"),
        recipe=Recipe(epochs=1, learning_rate=1e-2),
    )
