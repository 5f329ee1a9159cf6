"""Tasks for the networks of `networks.py`, with simulated data: `--task tests/zoo/tasks.py:lstm` and so on.

Each device hears its own noise and offsets; nobody is on two sides.
"""

import zlib
from collections.abc import Callable

import numpy as np
import numpy.typing as npt
from torch import nn

from device_client.task import Examples, Recipe, Task, per_pixel, per_token
from tests.zoo.networks import (
    CHANNELS,
    CLASSES,
    LENGTH,
    SAMPLES,
    TOKENS,
    Bert,
    Bf16,
    FrozenBackbone,
    InceptionTime,
    InstanceNorm,
    MobileNet,
    Recurrent,
    ResNet1d,
    SpectralNorm,
    Tcn,
    TiedLanguageModel,
    UNet,
    WindowTransformer,
)

DEVICES = ("unit-1", "unit-2", "unit-3")
_NAMES = ("rest", "walk", "run")
_SIDE = 16


def _random(person: str) -> np.random.Generator:
    return np.random.default_rng(zlib.crc32(person.encode()))


def windows(person: str, examples: int = 96) -> Examples:
    """Oscillations (example, channel, sample) whose frequency is the class, with a person's own strength and offset."""
    random = _random(person)
    labels = random.integers(0, CLASSES, examples)
    time = np.arange(SAMPLES) / SAMPLES
    turns = np.array([1.0, 3.0, 6.0])[labels][:, None, None] * random.uniform(0.9, 1.1)
    phases = random.uniform(0, 2 * np.pi, (examples, CHANNELS, 1))
    moved = random.uniform(0.8, 1.2) * np.sin(2 * np.pi * turns * time + phases) + random.normal(0, 0.2, (CHANNELS, 1))
    return Examples.of(moved + random.normal(0, 0.3, moved.shape), labels, [person] * examples)


def pictures(person: str, examples: int = 96) -> Examples:
    """Images (example, 3, y, x) whose brightest channel is the class."""
    random = _random(person)
    labels = random.integers(0, CLASSES, examples)
    images = random.normal(random.normal(0, 0.2), 0.5, (examples, 3, _SIDE, _SIDE))
    images[np.arange(examples), labels] += 0.5
    return Examples.of(images, labels, [person] * examples)


def discs(person: str, examples: int = 64) -> Examples:
    """Images (example, 1, y, x) of one bright disc, and which pixels (example, y, x) belong to it."""
    random = _random(person)
    y, x = np.mgrid[:_SIDE, :_SIDE]
    middle, radius = random.uniform(4, 12, (2, examples, 1, 1)), random.uniform(2, 5, (examples, 1, 1))
    inside = (y - middle[0]) ** 2 + (x - middle[1]) ** 2 < radius**2
    images = inside * random.uniform(0.8, 1.2) + random.normal(0, 0.3, inside.shape)
    return Examples.of(images[:, None], persons=[person] * examples, targets=inside.astype(np.int64))


def sentences(person: str, examples: int = 96) -> Examples:
    """Texts of a few tokens, padded, of which the most frequent third of the vocabulary is the class."""
    random = _random(person)
    labels = random.integers(0, CLASSES, examples)
    tokens = 1 + (random.integers(0, 6, (examples, LENGTH)) + 6 * labels[:, None])
    noise = random.random((examples, LENGTH)) < 0.3
    tokens[noise] = random.integers(1, TOKENS, int(noise.sum()))
    mask = np.arange(LENGTH) < random.integers(4, LENGTH + 1, (examples, 1))
    inputs = {"input_ids": tokens * mask, "attention_mask": mask.astype(np.int64)}
    return Examples.of(inputs, labels, [person] * examples)


def chains(person: str, examples: int = 96) -> Examples:
    """Tokens (example, place) that count upwards with a few slips, and the token that follows each."""
    random = _random(person)
    steps = np.where(random.random((examples, LENGTH + 1)) < 0.1, random.integers(0, TOKENS, (examples, LENGTH + 1)), 1)
    tokens: npt.NDArray[np.int64] = np.cumsum(steps, axis=1, dtype=np.int64) % TOKENS
    return Examples.of(tokens[:, :-1], persons=[person] * examples, targets=tokens[:, 1:])


def _task(name: str, student: Callable[[], nn.Module], data: Callable[[str], Examples] = windows) -> Task:
    return Task(
        name=name,
        classes=_NAMES,
        student=student,
        device_data=data,
        devices=DEVICES,
        held_out=lambda: data("nobody on a device"),
        recipe=Recipe(epochs=2, batch_size=16, learning_rate=1e-2),
    )


def lstm() -> Task:
    return _task("lstm", lambda: Recurrent(nn.LSTM))


def gru() -> Task:
    return _task("gru", lambda: Recurrent(nn.GRU))


def transformer() -> Task:
    return _task("transformer", WindowTransformer)


def resnet1d() -> Task:
    return _task("resnet1d", ResNet1d)


def inception() -> Task:
    return _task("inception", InceptionTime)


def unet() -> Task:
    return Task(
        name="unet",
        objective=per_pixel(("background", "disc")),
        student=UNet,
        device_data=discs,
        devices=DEVICES,
        held_out=lambda: discs("nobody on a device"),
        recipe=Recipe(epochs=2, batch_size=16, learning_rate=1e-2),
    )


def mobilenet() -> Task:
    return _task("mobilenet", MobileNet, pictures)


def bert() -> Task:
    return _task("bert", Bert, sentences)


def tied() -> Task:
    return Task(
        name="tied",
        objective=per_token(TOKENS),
        student=TiedLanguageModel,
        device_data=chains,
        devices=DEVICES,
        held_out=lambda: chains("nobody on a device"),
        recipe=Recipe(epochs=2, batch_size=16, learning_rate=1e-2),
    )


def frozen() -> Task:
    return _task("frozen", FrozenBackbone)


def spectral() -> Task:
    return _task("spectral", SpectralNorm)


def bf16() -> Task:
    return _task("bf16", Bf16)


def tcn() -> Task:
    return _task("tcn", Tcn)


def instance_norm() -> Task:
    return _task("instance_norm", InstanceNorm)
