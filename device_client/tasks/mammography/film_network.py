"""Student and teacher for whole mammograms, and how films are augmented.

    film → contrast to its surroundings → convolutions with stride 2 → mean and maximum over the film → dense → classes

A finding takes a hundredth of a film, and may be anywhere: the maximum over the film finds it, wherever it is. What is
brighter than its surroundings is the same whether a breast is dense or not; films of another scanner, with other grey
values, differ less after it, too. GroupNorm, not BatchNorm: merging the running statistics of different scanners does
harm.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

_GROUPS = 4
"""Chosen, not measured; it must divide the channels of all convolutions."""
_SURROUNDINGS = 15
"""Side of the square over which a pixel's surroundings are averaged, pixels; chosen: the size of a large finding."""
_SMALL = 1e-3
"""Keeps quotients finite where nothing is shown."""


@dataclass(frozen=True, kw_only=True)
class FilmSize:
    """The size of a network."""

    channels: tuple[int, ...]
    """Channels of each convolution, which halves the film."""
    hidden: int
    """Width of the last layer but one."""
    dropout: float = 0.0


FILM_STUDENT = FilmSize(channels=(8, 16, 24, 32), hidden=32)
FILM_TEACHER = FilmSize(channels=(24, 48, 96, 144), hidden=128, dropout=0.2)
"""Chosen: about fifteen times the weights of the student, small enough to train on a CPU."""


class FilmClassifier(nn.Module):
    """Maps films (batch, 1, height, width), 0 to 1, black outside of the breast, to logits (batch, class)."""

    def __init__(self, size: FilmSize, classes: int) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        width = 2
        for index, channels in enumerate(size.channels):
            kernel = 5 if index == 0 else 3
            layers += [nn.Conv2d(width, channels, kernel, stride=2, padding=kernel // 2, bias=False)]
            layers += [nn.GroupNorm(_GROUPS, channels), nn.ReLU()]
            width = channels
        self.convolutions = nn.Sequential(*layers)
        self.hidden = nn.Sequential(nn.Linear(2 * width, size.hidden), nn.ReLU())
        self.dropout = nn.Dropout(size.dropout)
        self.head = nn.Linear(size.hidden, classes)

    def forward(self, films: Tensor) -> Tensor:
        """Logits (batch, class)."""
        return self.classify(self.features(films))

    def features(self, films: Tensor) -> Tensor:
        """Hidden state (batch, hidden)."""
        breast = (films > 0).to(films.dtype)
        around = _averaged(films) / _averaged(breast).clamp_min(_SMALL)
        contrast = (films - around) * breast
        spread = (
            contrast.square().sum(dim=(2, 3), keepdim=True) / breast.sum(dim=(2, 3), keepdim=True).clamp_min(1)
        ).sqrt()
        contrast = contrast / (spread + _SMALL)
        shapes = self.convolutions(torch.cat([2.0 * films - 1.0, contrast], dim=1))  # (batch, channel, height, width)
        hidden: Tensor = self.hidden(torch.cat([shapes.mean(dim=(2, 3)), shapes.amax(dim=(2, 3))], dim=1))
        return hidden

    def classify(self, features: Tensor) -> Tensor:
        """Logits (batch, class) of `features` (batch, hidden)."""
        logits: Tensor = self.head(self.dropout(features))
        return logits


def _averaged(films: Tensor) -> Tensor:
    """Means over squares of `_SURROUNDINGS` pixels, beyond the edges 0: along rows, then along columns."""
    half = _SURROUNDINGS // 2
    along = functional.avg_pool2d(films, (1, _SURROUNDINGS), stride=1, padding=(0, half))
    return functional.avg_pool2d(along, (_SURROUNDINGS, 1), stride=1, padding=(half, 0))


@dataclass(frozen=True, kw_only=True)
class FilmAugmentation:
    """A `task.Augment`: turned upside down, small shifts, another exposure. Never mirrored: the chest wall is left."""

    shift_max: int = 8
    """Pixels, down and to the right, the same for all films of a batch."""
    gain_deviation: float = 0.1
    """Standard deviation of the logarithm of a gain."""

    def __call__(self, films: Tensor, generator: torch.Generator) -> Tensor:
        """Augmented copies of films (batch, 1, height, width)."""
        count, _one, height, width = films.shape
        down, right = torch.randint(0, 2 * self.shift_max + 1, (2,), generator=generator).tolist()
        padded = functional.pad(films, (self.shift_max,) * 4)
        shifted = padded[:, :, down : down + height, right : right + width]
        turned = torch.rand(count, 1, 1, 1, generator=generator) < 0.5  # noqa: PLR2004 — half of them
        shifted = torch.where(turned, shifted.flip(2), shifted)
        gain = torch.exp(torch.randn(count, 1, 1, 1, generator=generator) * self.gain_deviation)
        return (shifted * gain).clamp(0, 1)
