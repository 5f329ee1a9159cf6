"""One task name, unlike in four programs: other order, other classes, another student."""

from collections.abc import Sequence

import numpy as np
from torch import nn

from device_client.task import Examples, Recipe, Task

WORDS = ("sit", "walk", "run", "lie")


def data(order: Sequence[str], *, examples: int = 80, seed: int = 0) -> Examples:
    random = np.random.default_rng(seed)
    what = random.integers(0, len(WORDS), examples)
    inputs = random.normal(size=(examples, 16))
    inputs[np.arange(examples), what * 4] += 4
    kept = np.array([WORDS[one] in order for one in what])
    return Examples.of(inputs[kept], [order.index(WORDS[one]) for one in what[kept]])


def make(order: Sequence[str], width: int = 8) -> Task:
    return Task(
        name="two",
        classes=tuple(order),
        student=lambda: nn.Sequential(nn.Linear(16, width), nn.ReLU(), nn.Linear(width, len(order))),
        teacher=lambda: nn.Linear(16, len(order)),
        teacher_data=lambda: data(order, seed=7),
        device_data=lambda device: data(order, seed=len(device)),
        held_out=lambda: data(order, seed=99),
        recipe=Recipe(epochs=1, learning_rate=1e-2, teacher_epochs=1),
    )


def a() -> Task:
    return make(WORDS)


def sorted_() -> Task:
    """As sklearn's LabelEncoder or torchvision's ImageFolder give them."""
    return make(sorted(WORDS))


def three() -> Task:
    return make(WORDS[:3])


def wide() -> Task:
    return make(WORDS, 12)
