"""Running statistics of activations (BatchNorm and its kind) are merged as measurements, alike for all rules.

    x ← x + min(η, 1) · Σ wᵢ·cᵢ·(sᵢ - x) / D        wᵢ = 1 / (1 + staleness)

x are the model's statistics (means, then second moments), sᵢ those that device i has measured, cᵢ the scale from
`peers.py`, D the divisor of `fedbuff.py` for these weights. Absence and samples do not count: statistics of an old
network describe the new one badly, so there is nothing to catch up with. An update has the values themselves, not
differences: added to a model that has moved on, differences from old bases overshoot, and took every variance of a
BatchNorm student below zero within seven versions. The mixture above is convex, whatever the bases, so it is the
distribution of a mixed population: by the law of total variance its variance is at least that of its parts.

Of several updates of a device in one version, the newest counts. A second moment of 0 means that the device has not
measured the channel; it then leaves it as it is.
"""

from dataclasses import dataclass

import numpy as np

from aggregator.merging.fedbuff import divisor_of
from aggregator.merging.rule import Contribution
from wire_contract.encoding.statistics import Float64s, variance_of
from wire_contract.layout import Vector

_EPSILON = 1e-5
"""What torch adds to a variance by default. Smaller variances hardly change the output, so neither do changes of
them."""

_MAGNITUDE_MAX = 1e15
"""Upper bound of a mean, and the root of that of a second moment; squares stay finite in float32."""


def are_sane(statistics: Vector) -> bool:
    """Whether statistics (2 · channel,) are small enough to be merged; they are finite."""
    means, moments = np.split(statistics, 2)
    return bool((np.abs(means) <= _MAGNITUDE_MAX).all() and (np.abs(moments) <= _MAGNITUDE_MAX**2).all())


def distance(measured: Vector, model: Vector) -> float:
    """How far measured statistics are from those of the model, both (2 · channel,).

    The root mean square over the channels of (m - m₀)/σ₀ and (v + (m - m₀)² - v₀)/σ₀²: so it is about 1 if means differ
    by a standard deviation, whatever the scale of the activations, and no channel of large activations hides others.
    """
    means, moments = np.split(model.astype(np.float64), 2)
    variances = variance_of(means, moments)
    found_means, found_moments = _valid(measured, model)
    apart = found_means - means
    spread = np.maximum(found_moments - found_means**2, 0.0) + apart**2 - variances
    scales = variances + _EPSILON
    is_measured = np.split(measured, 2)[1] != 0
    if not is_measured.any():
        return 0.0
    relative: Float64s = (apart**2 / scales + (spread / scales) ** 2)[is_measured]
    return float(np.sqrt(relative.mean()))


@dataclass(frozen=True)
class _Measured:
    statistics: Vector
    weight: float
    scale: float


class RunningStatistics:
    """The statistics of the devices in the next version."""

    def __init__(self, channels: int, rate: float) -> None:
        """`rate`: η of the merging rule."""
        self.channels = channels
        self._rate = min(rate, 1.0)
        self._newest: dict[str, _Measured] = {}

    def add(self, contribution: Contribution) -> None:
        """Takes what a device has measured, in place of what it sent for this version before."""
        assert contribution.statistics is not None, "the layout has statistics"
        self._newest[contribution.device] = _Measured(
            contribution.statistics.copy(), 1 / (1 + contribution.staleness), contribution.statistics_scale
        )

    def version(self, statistics: Vector) -> Vector:
        """The statistics (2 · channel,) of the next version, given those of the newest one; changes nothing."""
        before = statistics.astype(np.float64)
        after = before.copy()
        divisor = divisor_of([one.weight for one in self._newest.values()])
        for one in self._newest.values():
            apart = np.concatenate(_valid(one.statistics, statistics)) - before
            after += self._rate * one.weight / divisor * one.scale * apart
        means, moments = np.split(after, 2)
        # Rounded so that s - m² stays at least 0.
        rounded = means.astype(np.float32)
        squares = np.square(rounded.astype(np.float64))
        result = (np.maximum(moments - means**2, 0.0) + squares).astype(np.float32)
        result = np.where(result < squares, np.nextafter(result, np.float32(np.inf)), result)
        return np.concatenate((rounded, result))

    def clear(self) -> None:
        """Begins the next version."""
        self._newest.clear()


def _valid(measured: Vector, model: Vector) -> tuple[Float64s, Float64s]:
    """Means and second moments (channel,), with those of the model where a device has none, and s ≥ m²."""
    means, moments = np.split(measured.astype(np.float64), 2)
    model_means, model_moments = np.split(model.astype(np.float64), 2)
    is_measured = moments != 0
    means = np.where(is_measured, means, model_means)
    return means, np.maximum(np.where(is_measured, moments, model_moments), means**2)
