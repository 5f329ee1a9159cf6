"""Regression: a wristband estimates the heart rate from its pulse wave.

`asyncfedkd device run --task examples/regression.py:task --device wrist-1 …`. Replace `pulse_waves` by a function that
reads your data.
"""

import zlib

import numpy as np
from torch import nn

from device_client.task import Examples, Recipe, Task, regression

SAMPLES, RATE = 128, 25.0
"""Samples of a window, and samples per second: windows of 5.1 s."""


def pulse_waves(person: str, examples: int = 80) -> Examples:
    """Windows (example, 1, 128) of one person, and the heart rate of each in 100 beats per minute (example, 1).

    Simulated with a fixed seed for each person, who has a waveform, a usual rate and a sensor noise of their own.
    """
    random = np.random.default_rng(zlib.crc32(person.encode()))
    beats = np.clip(random.normal(random.uniform(65, 90), 15, (examples, 1)), 45, 150)
    phase = 2 * np.pi * (beats / 60 * np.arange(SAMPLES) / RATE + random.uniform(0, 1, (examples, 1)))
    notch = random.uniform(0.2, 0.5)
    wave = np.sin(phase) + notch * np.sin(2 * phase + random.uniform(0, 1))
    wave = wave + random.normal(0, random.uniform(0.2, 0.4), wave.shape)
    counted = beats + random.normal(0, 6, beats.shape)  # the reference device is not exact either
    return Examples.of(wave[:, None], persons=[person] * examples, targets=counted / 100)


def network(width: int) -> nn.Module:
    """Maps windows (batch, 1, 128) to heart rates (batch, 1)."""
    return nn.Sequential(
        nn.Conv1d(1, width, 15, stride=2, padding=7),
        nn.GroupNorm(1, width),
        nn.ReLU(),
        nn.Conv1d(width, width, 15, stride=2, padding=7),
        nn.ReLU(),
        nn.AdaptiveAvgPool1d(8),
        nn.Flatten(),
        nn.Linear(8 * width, 1),
    )


def task() -> Task:
    """The task that `--task` names."""
    return Task(
        name="heart-rate",
        objective=regression(("beats per minute / 100",)),
        student=lambda: network(12),
        device_data=pulse_waves,
        devices=tuple(f"wrist-{number}" for number in range(1, 11)),
        held_out=lambda: pulse_waves("a wrist that nobody has measured", 400),
        recipe=Recipe(epochs=2, batch_size=16, learning_rate=8e-3, schedule="cosine", schedule_versions=100),
    )
