"""Students and teachers for square crops of mammograms, and how crops are augmented.

    crop → remove the mean, scale → convolutions with stride 2 → means over fields and maximum → dense → classes

Crops may have any size: nothing but the pooling sees it. The fields keep where in the crop something is, to the degree
that the task allows: one field for windows at any place, more for crops around what is asked about. GroupNorm, not
BatchNorm: merging the running statistics of different hospitals does harm.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

_GROUPS = 4
"""Chosen, not measured; it must divide the channels of all convolutions."""
_TURNS = 4
"""Rotations by a quarter turn; mirrored, they are 8 symmetries."""
_DEVIATION_MIN = 0.02
"""Added to the standard deviation of a crop (grey values 0 to 1), so that a crop without structure stays flat."""


@dataclass(frozen=True, kw_only=True)
class CropSize:
    """The size of a network."""

    channels: tuple[int, ...]
    """Channels of each convolution, which halves the crop."""
    hidden: int
    """Width of the last layer but one."""
    dropout: float = 0.0
    fields: int = 1
    """Along each side of the crop; the mean of each is kept, and the maximum over the whole crop."""
    sees_place: bool = False
    """A further input is how far a pixel is from the middle."""


CROP_STUDENT = CropSize(channels=(12, 16, 20), hidden=32, dropout=0.2, fields=3, sees_place=True)
"""For whole crops: 12,135 parameters with 3 classes."""
CROP_TEACHER = CropSize(channels=(36, 72, 144), hidden=112, dropout=0.3, fields=3, sees_place=True)
WINDOW_STUDENT = CropSize(channels=(12, 20, 28), hidden=32, dropout=0.2)
"""For windows at any place: 9,810 parameters with 2 classes."""
WINDOW_TEACHER = CropSize(channels=(44, 84, 160), hidden=128, dropout=0.3)
"""The teachers have about twenty times the weights of the students, and can still be trained on a CPU."""


class CropClassifier(nn.Module):
    """Maps crops (batch, 1, height, width), grey values 0 to 1, to logits (batch, class)."""

    def __init__(self, size: CropSize, classes: int) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        width = 3 if size.sees_place else 2
        self.sees_place = size.sees_place
        for index, channels in enumerate(size.channels):
            kernel = 5 if index == 0 else 3
            layers += [nn.Conv2d(width, channels, kernel, stride=2, padding=kernel // 2, bias=False)]
            layers += [nn.GroupNorm(_GROUPS, channels), nn.ReLU()]
            width = channels
        self.convolutions = nn.Sequential(*layers)
        self.fields = nn.AdaptiveAvgPool2d(size.fields)
        self.hidden = nn.Sequential(nn.Linear((size.fields**2 + 1) * width, size.hidden), nn.ReLU())
        self.dropout = nn.Dropout(size.dropout)
        self.head = nn.Linear(size.hidden, classes)

    def forward(self, crops: Tensor) -> Tensor:
        """Logits (batch, class)."""
        return self.classify(self.features(crops))

    def features(self, crops: Tensor) -> Tensor:
        """Hidden state (batch, hidden)."""
        centred = crops - crops.mean(dim=(2, 3), keepdim=True)
        scaled = centred / (centred.square().mean(dim=(2, 3), keepdim=True).sqrt() + _DEVIATION_MIN)
        inputs = [scaled, 2.0 * crops - 1.0]
        if self.sees_place:
            inputs.append(_distances(crops))
        shapes = self.convolutions(torch.cat(inputs, dim=1))  # (batch, channel, height, width)
        hidden: Tensor = self.hidden(torch.cat([self.fields(shapes).flatten(1), shapes.amax(dim=(2, 3))], dim=1))
        return hidden

    def classify(self, features: Tensor) -> Tensor:
        """Logits (batch, class) of `features` (batch, hidden)."""
        logits: Tensor = self.head(self.dropout(features))
        return logits


def _distances(crops: Tensor) -> Tensor:
    """How far each pixel is from the middle, in half sides: (batch, 1, height, width)."""
    down, across = (torch.linspace(-1.0, 1.0, side, device=crops.device) for side in crops.shape[2:])
    distances = (down[:, None].square() + across[None].square()).sqrt()
    return distances.to(crops.dtype).expand_as(crops)


@dataclass(frozen=True, kw_only=True)
class CropAugmentation:
    """A `task.Augment`: the 8 rotations and mirrors, small shifts, another exposure."""

    shift_max: int = 2
    """Pixels, in both directions, the same for all crops of a batch; the border repeats its last pixel."""
    gain_deviation: float = 0.1
    """Standard deviation of the logarithm of a gain."""
    offset_deviation: float = 0.05
    """Standard deviation of what is added to all grey values of a crop."""

    def __call__(self, crops: Tensor, generator: torch.Generator) -> Tensor:
        """Augmented copies of square crops (batch, 1, side, side)."""
        count, side = len(crops), crops.shape[-1]
        symmetry = torch.randint(0, 2 * _TURNS, (count,), generator=generator)
        turned = torch.empty_like(crops)
        for number in range(2 * _TURNS):
            chosen = symmetry == number
            turned[chosen] = symmetric(crops[chosen], number)
        if self.shift_max:
            down, right = torch.randint(0, 2 * self.shift_max + 1, (2,), generator=generator).tolist()
            padded = nn.functional.pad(turned, (self.shift_max,) * 4, mode="replicate")
            turned = padded[:, :, down : down + side, right : right + side]
        gain = torch.exp(torch.randn(count, 1, 1, 1, generator=generator) * self.gain_deviation)
        offset = torch.randn(count, 1, 1, 1, generator=generator) * self.offset_deviation
        return turned * gain + offset


def symmetric(crops: Tensor, number: int) -> Tensor:
    """One of the 8 rotations and mirrors (`number` 0 to 7) of crops (batch, 1, side, side)."""
    mirrored = crops.flip(3) if number >= _TURNS else crops
    return torch.rot90(mirrored, number % _TURNS, dims=(2, 3))
