"""Students and teachers for windows of a wrist-worn motion sensor.

A window is (6, sample): acceleration x y z, then angular rate x y z. The same network serves both sizes:

    scale → + magnitudes |a|, |w| → convolutions over time, mean and maximum ──┐
                                  └→ statistics and short spectrum → dense ────┴→ classes

The magnitudes do not depend on how the watch is worn. The spectrum is a product with a fixed matrix, so nothing of it
is learned or sent, and it can be exported to ONNX (a complex FFT cannot). GroupNorm, not BatchNorm: merging the running
statistics of different persons does harm.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

_AXES = 3
_CHANNELS = 2 * _AXES + 2
"""Acceleration and rate by axis, and their two magnitudes."""
_STATISTICS = 4
"""Mean, standard deviation, maximum and minimum (`_description`)."""
_KERNEL = 5
"""Samples. Chosen, not measured: 50 ms at 100 Hz; odd, so that padding keeps the length. Weights grow in proportion."""
_GROUPS = 4
"""Chosen, not measured; it must divide the channels of all convolutions below."""


@dataclass(frozen=True, kw_only=True)
class Sensor:
    """The form of a window; the same for student and teacher."""

    samples: int
    """Samples per window."""
    acceleration_unit: float
    """Gravity in the data's unit (9.81 for m/s², 1 for g); acceleration is divided by it."""
    rate_unit: float = 2.0
    """A typical angular rate, rad/s; rates are divided by it."""
    frequencies: int = 12
    """How many of the lowest frequencies of the spectrum the network sees; their spacing is sample rate / samples. 12
    is chosen: up to 22 Hz in the windows of `har`, 5.5 Hz in those of `physiotherapy`."""
    first_stride: int = 1
    """Stride of the first convolution, in samples. 2 if the sensor samples twice as fast as the motion needs: all
    convolutions then take half the work, with the same number of weights."""


@dataclass(frozen=True, kw_only=True)
class Size:
    """The size of a network."""

    channels: tuple[int, ...]
    """Channels of each convolution. All but the first halve the time axis; the sensor gives the first one's stride."""
    hidden: int
    """Width of the spectral branch."""
    dropout: float = 0.0
    """A student needs none: averaging what many devices learned is regularisation enough."""
    separable: bool = False
    """All convolutions but the first are depthwise separable: one over time for each channel, then one over channels at
    each sample (Howard et al. 2017, "MobileNets", arXiv:1704.04861). They have a quarter of the weights."""


STUDENT = Size(channels=(24, 32, 48), hidden=48)
"""20,151 parameters for `physiotherapy`; `docs/decisions/0035-student-size.md`."""
SEPARABLE_STUDENT = Size(channels=(24, 32, 48), hidden=32, separable=True)
"""8,781 parameters for `har`; `docs/decisions/0035-student-size.md`."""
TEACHER = Size(channels=(96, 128, 160), hidden=256, dropout=0.3)
"""Ten times the weights of `STUDENT` (204,613 for `har`). Chosen, not measured: large enough to know more, small enough
to train on a CPU."""


class WindowClassifier(nn.Module):
    """Maps windows (batch, 6, sample) to logits (batch, class)."""

    cosines: Tensor
    sines: Tensor

    def __init__(self, sensor: Sensor, size: Size, classes: int) -> None:
        super().__init__()
        self.sensor = sensor
        time = torch.arange(sensor.samples, dtype=torch.float32)
        angle = 2 * math.pi * time[:, None] * torch.arange(sensor.frequencies)[None, :] / sensor.samples
        taper = torch.hann_window(sensor.samples, periodic=False)[:, None]
        # Not persistent: determined by the sample count, so they are neither merged nor sent.
        self.register_buffer("cosines", angle.cos() * taper, persistent=False)  # (sample, frequency)
        self.register_buffer("sines", angle.sin() * taper, persistent=False)
        layers: list[nn.Module] = []
        width = _CHANNELS
        for index, channels in enumerate(size.channels):
            stride = sensor.first_stride if index == 0 else 2
            layers += [_convolution(width, channels, stride, separable=size.separable and index > 0)]
            layers += [nn.GroupNorm(_GROUPS, channels), nn.ReLU()]
            width = channels
        self.convolutions = nn.Sequential(*layers)
        described = _CHANNELS * (sensor.frequencies + _STATISTICS)
        self.spectral = nn.Sequential(nn.LayerNorm(described), nn.Linear(described, size.hidden), nn.ReLU())
        self.dropout = nn.Dropout(size.dropout)
        self.head = nn.Linear(2 * width + size.hidden, classes)

    def forward(self, windows: Tensor) -> Tensor:
        """Logits (batch, class) of windows (batch, 6, sample) in the sensor's units."""
        return self.classify(self.features(windows))

    def features(self, windows: Tensor) -> Tensor:
        """Hidden state (batch, hidden) of windows (batch, 6, sample)."""
        signals = self._signals(windows)  # (batch, 8, sample)
        shapes = self.convolutions(signals)  # (batch, channel, time)
        described = self.spectral(self._description(signals))  # (batch, hidden)
        return torch.cat([shapes.mean(dim=2), shapes.amax(dim=2), described], dim=1)

    def classify(self, features: Tensor) -> Tensor:
        """Logits (batch, class) of `features` (batch, hidden)."""
        logits: Tensor = self.head(self.dropout(features))
        return logits

    def _signals(self, windows: Tensor) -> Tensor:
        acceleration = windows[:, :_AXES] / self.sensor.acceleration_unit
        rate = windows[:, _AXES:] / self.sensor.rate_unit
        magnitudes = [
            (
                vectors.square().sum(dim=1, keepdim=True) + 1e-6
            ).sqrt()  # the gradient of a square root is infinite at zero
            for vectors in (acceleration, rate)
        ]
        return torch.cat([acceleration, rate, *magnitudes], dim=1)

    def _description(self, signals: Tensor) -> Tensor:
        mean = signals.mean(dim=2, keepdim=True)
        centred = signals - mean
        deviation = (centred.square().mean(dim=2) + 1e-6).sqrt()
        real, imaginary = centred @ self.cosines, centred @ self.sines  # (batch, 8, frequency)
        spectrum = torch.log1p((real.square() + imaginary.square() + 1e-8).sqrt())
        return torch.cat(
            [spectrum.flatten(1), mean.squeeze(2), deviation, signals.amax(dim=2), signals.amin(dim=2)], dim=1
        )


def _convolution(width: int, channels: int, stride: int, *, separable: bool) -> nn.Module:
    if separable:
        return SeparableConvolution(width, channels, stride)
    return nn.Conv1d(width, channels, _KERNEL, stride=stride, padding=_KERNEL // 2, bias=False)


class SeparableConvolution(nn.Module):
    """One convolution over time for each channel, then one over channels at each sample, with nothing in between.

    Two linear maps in a row are one. In training they are multiplied first and run as a single dense convolution,
    because with small batches the number of calls costs more than the multiplications. In evaluation mode and in
    exported models the two stay separate, which takes fewer multiplications.
    """

    def __init__(self, width: int, channels: int, stride: int) -> None:
        super().__init__()
        padding = _KERNEL // 2
        self.over_time = nn.Conv1d(width, width, _KERNEL, stride=stride, padding=padding, groups=width, bias=False)
        self.over_channels = nn.Conv1d(width, channels, 1, bias=False)
        self._stride = stride

    def forward(self, signals: Tensor) -> Tensor:
        """Signals (batch, width, time) to (batch, channels, time / stride), rounded up."""
        if self.training:
            weight = self.over_channels.weight * self.over_time.weight.transpose(0, 1)  # (channels, width, kernel)
            return nn.functional.conv1d(signals, weight, stride=self._stride, padding=_KERNEL // 2)
        seen: Tensor = self.over_channels(self.over_time(signals))
        return seen


@dataclass(frozen=True, kw_only=True)
class WindowAugmentation:
    """A `task.Augment`: changes windows as another wearer, or the same one on another day, would change them."""

    rotation_max: float = 0.3
    """rad. The watch is worn differently: one random rotation of both sensors per window."""
    strength_deviation: float = 0.1
    """Standard deviation of the logarithm of a gain, drawn for acceleration and rate separately."""
    tempo_max: float = 0.1
    """Largest logarithm of a change of speed."""
    noise: float = 0.05
    """Standard deviation of white noise, in the data's units."""

    def __call__(self, windows: Tensor, generator: torch.Generator) -> Tensor:
        """Augmented copies of windows (batch, 6, sample)."""
        count = len(windows)
        rotation = _rotations(count, self.rotation_max, generator)  # (batch, 3, 3)
        gain = torch.exp(torch.randn(count, 2, 1, generator=generator) * self.strength_deviation)
        windows = torch.cat(
            [gain[:, :1] * (rotation @ windows[:, :_AXES]), gain[:, 1:] * (rotation @ windows[:, _AXES:])], dim=1
        )
        windows = _at_another_tempo(windows, self.tempo_max, generator)
        return windows + torch.randn(windows.shape, generator=generator) * self.noise


def _rotations(count: int, angle_max: float, generator: torch.Generator) -> Tensor:
    """Rotations about random axes by up to `angle_max` rad, (count, 3, 3), by Rodrigues' formula."""
    axis = torch.nn.functional.normalize(torch.randn(count, _AXES, generator=generator), dim=1)
    angle = (torch.rand(count, generator=generator) * angle_max)[:, None, None]
    x, y, z = axis.unbind(dim=1)
    zero = torch.zeros(count)
    cross = torch.stack([zero, -z, y, z, zero, -x, -y, x, zero], dim=1).reshape(count, _AXES, _AXES)
    return torch.eye(_AXES) + angle.sin() * cross + (1 - angle.cos()) * (cross @ cross)


def _at_another_tempo(windows: Tensor, change_max: float, generator: torch.Generator) -> Tensor:
    """Stretches time around a random moment, with linear interpolation; the first and last samples are repeated."""
    count, channels, samples = windows.shape
    speed = torch.exp((torch.rand(count, 1, generator=generator) * 2 - 1) * change_max)
    moment = torch.rand(count, 1, generator=generator) * (samples - 1)
    time = ((torch.arange(samples) - moment) * speed + moment).clamp(0, samples - 1)  # (batch, sample)
    before = time.floor().long().clamp(max=samples - 2)
    share = (time - before)[:, None]
    at = before[:, None].expand(count, channels, samples)
    return windows.gather(2, at) * (1 - share) + windows.gather(2, at + 1) * share
