"""Students and teachers for single heartbeats of an electrocardiogram.

A beat is a window (1, sample) in mV around its R peak, and the intervals (interval,) to its neighbours:

    remove the mean, scale → + slope → convolutions over time, mean and maximum ──┐
                                       intervals → dense ─────────────────────────┴→ dense → classes

The shape tells ventricular beats, the intervals tell supraventricular ones, which look like normal beats that come too
early. GroupNorm, not BatchNorm: merging the running statistics of different persons does harm.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

INTERVALS = 3
"""Seconds before the beat, seconds after it, and the former divided by the record's running mean."""
_KERNEL = 7
"""Samples; 39 ms at 180 Hz, about half of a normal QRS complex. Chosen, not measured."""
_GROUPS = 4
"""Chosen, not measured; it must divide the channels of all convolutions."""
_SLOPE_SCALE = 4.0
"""Brings the differences of neighbouring samples to about the size of the samples."""
_DEVIATION_MIN_MV = 1e-3
"""Added to the standard deviation, so that a flat line is not divided by 0."""


@dataclass(frozen=True, kw_only=True)
class BeatSize:
    """The size of a network."""

    channels: tuple[int, ...]
    """Channels of each convolution, which halves the time axis."""
    intervals: int
    """Width of the branch of intervals."""
    hidden: int
    """Width of the last layer but one."""
    dropout: float = 0.0
    """A student needs none: averaging what many devices learned is regularisation enough."""


BEAT_STUDENT = BeatSize(channels=(16, 24, 32), intervals=16, hidden=32)
"""11,253 parameters."""
BEAT_TEACHER = BeatSize(channels=(64, 96, 128), intervals=32, hidden=128, dropout=0.3)
"""Chosen, not measured: more than ten times the weights of the student, small enough to train on a CPU."""


class BeatClassifier(nn.Module):
    """Maps beats (batch, 1, sample) and intervals (batch, 3) to logits (batch, class)."""

    def __init__(self, size: BeatSize, classes: int) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        width = 2
        for channels in size.channels:
            layers += [nn.Conv1d(width, channels, _KERNEL, stride=2, padding=_KERNEL // 2, bias=False)]
            layers += [nn.GroupNorm(_GROUPS, channels), nn.ReLU()]
            width = channels
        self.convolutions = nn.Sequential(*layers)
        self.intervals = nn.Sequential(nn.Linear(INTERVALS, size.intervals), nn.ReLU())
        self.hidden = nn.Sequential(nn.Linear(2 * width + size.intervals, size.hidden), nn.ReLU())
        self.dropout = nn.Dropout(size.dropout)
        self.head = nn.Linear(size.hidden, classes)

    def forward(self, beats: Tensor, intervals: Tensor) -> Tensor:
        """Logits (batch, class)."""
        beats = beats - beats.mean(dim=2, keepdim=True)
        beats = beats / (beats.square().mean(dim=2, keepdim=True).sqrt() + _DEVIATION_MIN_MV)
        slopes = nn.functional.pad(beats[:, :, 1:] - beats[:, :, :-1], (1, 0)) * _SLOPE_SCALE
        shapes = self.convolutions(torch.cat([beats, slopes], dim=1))  # (batch, channel, time)
        timing = self.intervals((intervals - 1.0) * 2.0)  # seconds and ratios are all about 1
        features = torch.cat([shapes.mean(dim=2), shapes.amax(dim=2), timing], dim=1)
        logits: Tensor = self.head(self.dropout(self.hidden(features)))
        return logits


@dataclass(frozen=True, kw_only=True)
class BeatAugmentation:
    """A `task.Augment`: changes beats as another electrode position or another detector of R peaks would."""

    shift_max: int = 2
    """Samples by which the R peak is off, the same for a batch."""
    strength_deviation: float = 0.15
    """Standard deviation of the logarithm of a gain."""
    noise_mv: float = 0.02
    """Standard deviation of white noise."""
    tempo_deviation: float = 0.03
    """Standard deviation of the logarithm of a change of all intervals of a beat."""

    def __call__(self, inputs: tuple[Tensor, Tensor], generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Augmented copies of beats (batch, 1, sample) and intervals (batch, 3)."""
        beats, intervals = inputs
        shift = int(torch.randint(-self.shift_max, self.shift_max + 1, (1,), generator=generator))
        gain = torch.exp(torch.randn(len(beats), 1, 1, generator=generator) * self.strength_deviation)
        beats = torch.roll(beats, shift, dims=2) * gain
        beats = beats + torch.randn(beats.shape, generator=generator) * self.noise_mv
        tempo = torch.exp(torch.randn(len(beats), 1, generator=generator) * self.tempo_deviation)
        return beats, intervals * tempo
