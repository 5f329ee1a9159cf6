"""Segmentation: a camera outlines fruit, one class per pixel.

`asyncfedkd device run --task examples/segmentation.py:task --device camera-1 …`. Replace `pictures` by a function that
reads your data.
"""

import zlib

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from device_client.task import Examples, Recipe, Task, per_pixel

SIDE = 24


def pictures(camera: str, examples: int = 32) -> Examples:
    """Images (example, 1, 24, 24) of one camera, and the class of each pixel (example, 24, 24).

    Simulated with a fixed seed for each camera, which has a light, a contrast and a background of its own.
    """
    random = np.random.default_rng(zlib.crc32(camera.encode()))
    y, x = np.mgrid[:SIDE, :SIDE]
    middle = random.uniform(5, SIDE - 5, (2, examples, 2, 1, 1))  # two fruits in each image
    radius = random.uniform(2, 5, (examples, 2, 1, 1))
    fruit = ((y - middle[0]) ** 2 + (x - middle[1]) ** 2 < radius**2).any(axis=1)
    background = random.uniform(0, 0.5) * np.sin((x + y) * random.uniform(0.3, 1.0))
    images = fruit * random.uniform(0.8, 1.5) + background + random.normal(0, 0.3, fruit.shape)
    return Examples.of(images[:, None], persons=[camera] * examples, targets=fruit.astype(np.int64))


class Network(nn.Module):
    """A small U-Net: maps images (batch, 1, y, x) to logits (batch, class, y, x)."""

    def __init__(self, width: int = 8) -> None:
        super().__init__()
        self.fine, self.coarse = _block(1, width), _block(width, 2 * width)
        self.up = nn.ConvTranspose2d(2 * width, width, 2, stride=2)
        self.merged, self.head = _block(2 * width, width), nn.Conv2d(width, 2, 1)

    def forward(self, images: Tensor) -> Tensor:
        """Logits of images."""
        fine = self.fine(images)
        coarse = self.up(self.coarse(functional.max_pool2d(fine, 2)))
        return self.head(self.merged(torch.cat([fine, coarse], dim=1)))  # type: ignore[no-any-return]


def _block(inputs: int, outputs: int) -> nn.Module:
    return nn.Sequential(nn.Conv2d(inputs, outputs, 3, padding=1), nn.BatchNorm2d(outputs), nn.ReLU())


def task() -> Task:
    """The task that `--task` names."""
    return Task(
        name="fruit",
        objective=per_pixel(("background", "fruit")),
        student=Network,
        device_data=pictures,
        devices=tuple(f"camera-{number}" for number in range(1, 11)),
        held_out=lambda: pictures("a camera in another field", 200),
        recipe=Recipe(epochs=1, batch_size=12, learning_rate=9e-3, schedule="cosine", schedule_versions=100),
    )
