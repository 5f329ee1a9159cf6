"""Students and teachers with buffers that are drawn at random and not sent."""

import os
import random
import zlib

import numpy as np
import torch
from torch import Tensor, nn

from device_client.task import Examples, Recipe, Task

CLASSES = ("a", "b", "c", "d")


def data(device: str, examples: int = 120) -> Examples:
    generator = np.random.default_rng(zlib.crc32(device.encode()))
    labels = generator.integers(0, 4, examples)
    inputs = generator.normal(size=(examples, 64))
    inputs[np.arange(examples), labels * 16] += 4
    return Examples.of(inputs, labels)


class Network(nn.Module):
    """Its inputs are permuted by a buffer, as in ShuffleNet, ROCKET and hashing networks."""

    def __init__(self, chosen: Tensor, *, persistent: bool = True) -> None:
        super().__init__()
        self.register_buffer("chosen", chosen, persistent=persistent)
        self.net = nn.Sequential(nn.Linear(64, 16), nn.ReLU(), nn.Linear(16, 4))

    def forward(self, inputs: Tensor) -> Tensor:
        return self.net(inputs[:, self.chosen])  # type: ignore[no-any-return]


class Projecting(nn.Module):
    """A random projection that is not persistent, from numpy's and random's global generators."""

    def __init__(self) -> None:
        super().__init__()
        drawn = np.random.normal(size=(64, 32)) + random.random()  # noqa: NPY002 - as people write it
        self.register_buffer("projection", torch.tensor(drawn, dtype=torch.float32), persistent=False)
        self.net = nn.Linear(32, 4)

    def forward(self, inputs: Tensor) -> Tensor:
        return self.net(inputs @ self.projection)  # type: ignore[no-any-return]


class Remembering(nn.Module):
    """The permutation is an attribute that no buffer shows."""

    def __init__(self) -> None:
        super().__init__()
        self.chosen = torch.randperm(64)
        self.net = nn.Linear(64, 4)

    def forward(self, inputs: Tensor) -> Tensor:
        return self.net(inputs[:, self.chosen])  # type: ignore[no-any-return]


def unseeded() -> nn.Module:
    """What no seed reaches."""
    generator = np.random.default_rng(int.from_bytes(os.urandom(8), "little"))
    return Network(torch.from_numpy(generator.permutation(64)))


def make(student: "type[nn.Module] | object", *, taught: bool = False) -> Task:
    return Task(
        name="randbuf",
        classes=CLASSES,
        student=student,  # type: ignore[arg-type]
        teacher=(lambda: Network(torch.randperm(64))) if taught else None,
        teacher_data=(lambda: data("teacher")) if taught else None,
        device_data=data,
        held_out=lambda: data("held"),
        recipe=Recipe(epochs=2, learning_rate=1e-2, teacher_epochs=5, teacher_learning_rate=1e-2),
    )


def permuted() -> Task:
    return make(lambda: Network(torch.randperm(64)), taught=True)


def projected() -> Task:
    return make(Projecting)


def remembered() -> Task:
    return make(Remembering)


def fresh() -> Task:
    return make(unseeded)
