"""Which levels a gap-coded tensor gets when a bit costs λ of squared error: minimise D + λ·R, tensor by tensor.

All is computed from sorted magnitudes and their running sums, so trying a λ costs a few hundred binary searches instead
of a pass over the elements. With k_j elements of level j or more, and S_j the sum of their magnitudes,

    D = Σx² - 2·scale·Σ_j S_j + scale²·Σ_j (2j - 1)·k_j         R = the entropy of the layers, signs and heads
"""

from dataclasses import dataclass, replace

import numpy as np

from wire_contract.encoding.gap_coded import GapCoded, code_levels
from wire_contract.encoding.heads import LEVELS_MAX
from wire_contract.encoding.scales import EXPONENT_MAX, EXPONENT_MIN, STEPS_PER_OCTAVE, scales_of
from wire_contract.layout import Layout, Vector

_STEP_PER_ROOT_LAMBDA = 2.9
"""Uniform quantisation at a high rate has D = step²/12 an element and loses 6 dB a bit: λ = step²·ln 2 / 6."""

_SCALES_TRIED = 6
"""From that step upwards, an eighth of an octave apart: at a low rate what is kept at all is far beyond the step."""

_SCALES_TRIED_FINE = 3
_FINE = 24
"""With more levels than this the rate is high, and the step is near what it should be."""

_DEAD_ZONE = 0.65
_ROUNDING = 0.6
"""Where level 1 and the further levels begin, of a step, in the first of two passes; the second one knows what a level
costs."""

_GOLOMB_OVERHEAD = 1.01
"""Bits of the gaps over their entropy, about."""


@dataclass(frozen=True, eq=False)
class Choice:
    """For every tensor its scale, and what it has for which price."""

    exponents: np.ndarray
    """(tensor,) of the scales."""
    scales: np.ndarray
    """(tensor,) float64."""
    level_bits: np.ndarray
    """(tensor, level) bits by which a level costs more than the one below it."""
    thresholds: np.ndarray
    """(tensor, level) magnitudes from which on an element has this level."""
    distortion: np.ndarray
    """(tensor,) expected squared error."""
    bits: np.ndarray
    """(tensor,) expected."""


class Magnitudes:
    """A vector's magnitudes, sorted within each tensor."""

    def __init__(self, vector: Vector, layout: Layout) -> None:
        self.sizes = np.array([spec.size for spec in layout.tensors], dtype=np.int64)
        self._stops = np.cumsum(self.sizes)
        starts = self._stops - self.sizes
        self._absolute = np.abs(vector).astype(np.float64)
        self.peaks = np.maximum.reduceat(self._absolute, starts)
        self.energies = np.add.reduceat(self._absolute**2, starts)
        # One sort and one binary search serve all tensors: tensor t has the keys from 2t to 2t + 1.
        self._unit = np.where(self.peaks > 0, self.peaks, 1.0)
        self._offsets = 2.0 * np.arange(len(self.sizes))
        units, offsets = np.repeat(self._unit, self.sizes), np.repeat(self._offsets, self.sizes)
        self._keys = self._absolute / units + offsets
        self._keys.sort()
        self._sums = np.concatenate(([0.0], np.cumsum((self._keys - offsets) * units)))

    def largest(self, count: float) -> float:
        """A magnitude that about `count` elements of all tensors reach."""
        at = self._absolute.size - int(np.clip(count, 1, self._absolute.size))
        return float(np.partition(self._absolute, at)[at])

    def reaching(self, thresholds: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """How many elements reach `thresholds` (tensor, …), and the sum of their magnitudes."""
        shape = (-1, *[1] * (thresholds.ndim - 1))
        keys = np.minimum(thresholds / self._unit.reshape(shape), 1.5) + self._offsets.reshape(shape)
        first = np.searchsorted(self._keys, keys.ravel()).reshape(thresholds.shape)
        stops = self._stops.reshape(shape)
        return (stops - first).astype(np.float64), self._sums[stops] - self._sums[first]


def choose_levels(magnitudes: Magnitudes, price: float) -> Choice:
    """The best scale and levels of every tensor when a bit costs `price` (λ)."""
    step = _STEP_PER_ROOT_LAMBDA * np.sqrt(price)
    lowest = int(np.floor(np.log2(step) * STEPS_PER_OCTAVE))
    depth = magnitudes.peaks.max() / step
    tried = _SCALES_TRIED if depth < _FINE else _SCALES_TRIED_FINE
    exponents = np.clip(np.arange(lowest, lowest + tried), EXPONENT_MIN, EXPONENT_MAX)
    scales = scales_of(exponents.tolist()).astype(np.float64)[None]  # (1, scale)
    levels = np.arange(int(np.clip(np.ceil(magnitudes.peaks.max() / scales[0, 0] + 0.5), 1, LEVELS_MAX)))
    offsets = np.where(levels > 0, _ROUNDING, _DEAD_ZONE)
    tensors = len(magnitudes.sizes)
    first = np.broadcast_to((levels + offsets) * scales[..., None], (tensors, tried, len(levels)))
    level_bits = _level_bits(magnitudes.reaching(first)[0], magnitudes.sizes)
    thresholds = _thresholds(scales, level_bits, price)
    distortion, bits = _cost(magnitudes, scales, thresholds)
    best = np.argmin(distortion + price * bits, axis=1)
    each = np.arange(tensors)
    return Choice(
        exponents[best],
        scales[0, best],
        level_bits[each, best],
        thresholds[each, best],
        distortion[each, best],
        bits[each, best],
    )


def at_price(magnitudes: Magnitudes, choice: Choice, price: float) -> Choice:
    """The same scales, with other thresholds: unlike another scale, they change what is sent little by little."""
    thresholds = _thresholds(choice.scales, choice.level_bits, price)
    distortion, bits = _cost(magnitudes, choice.scales[:, None], thresholds[:, None])
    return replace(choice, thresholds=thresholds, distortion=distortion[:, 0], bits=bits[:, 0])


def _thresholds(scales: np.ndarray, level_bits: np.ndarray, price: float) -> np.ndarray:
    """Where the squared error that a level saves is worth its bits: (…, level) for `scales` (…)."""
    scale = scales[..., None]
    middle = (np.arange(level_bits.shape[-1]) + 0.5) * scale
    return np.maximum.accumulate(middle + level_bits * (price / (2 * scale)), axis=-1)


def _cost(magnitudes: Magnitudes, scales: np.ndarray, thresholds: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Squared error and bits, (tensor, scale), of `scales` (tensor or 1, scale) with `thresholds` (…, level)."""
    counts, sums = magnitudes.reaching(thresholds)
    squares = counts @ (2.0 * np.arange(counts.shape[-1]) + 1)
    distortion = magnitudes.energies[:, None] - 2 * scales * sums.sum(axis=-1) + scales**2 * squares
    return np.maximum(distortion, 0), _bits(counts, magnitudes.sizes)


def levels_of(vector: Vector, layout: Layout, choice: Choice, tensors: np.ndarray) -> np.ndarray:
    """(layout.size,) int64 levels of `vector` by the thresholds of `choice`; zeros outside `tensors` (indices)."""
    sizes = [spec.size for spec in layout.tensors]
    thresholds = np.full(choice.thresholds.shape, np.inf)
    thresholds[tensors] = choice.thresholds[tensors]
    magnitudes = np.abs(vector).astype(np.float64)
    levels = np.zeros(vector.size, dtype=np.int64)
    members = np.flatnonzero(magnitudes >= np.repeat(thresholds[:, 0], sizes))
    tensor = np.repeat(np.arange(len(sizes)), sizes)[members]
    magnitudes = magnitudes[members]
    for of_level in thresholds.T:
        stay = magnitudes >= of_level[tensor]
        members, tensor, magnitudes = members[stay], tensor[stay], magnitudes[stay]
        if not members.size:
            break
        levels[members] += 1
    np.negative(levels, out=levels, where=vector < 0)
    return levels


def code_choice(levels: np.ndarray, choice: Choice, layout: Layout, first: int, after: int) -> GapCoded:
    """One entry for the tensors `first` … `after` - 1."""
    start, stop = layout.bounds[first][0], layout.bounds[after - 1][1]
    sizes = [spec.size for spec in layout.tensors[first:after]]
    return code_levels(levels[start:stop], choice.exponents[first:after].tolist(), sizes)


def _level_bits(counts: np.ndarray, sizes: np.ndarray) -> np.ndarray:
    """Bits by which each level costs more than the one below it, (tensor, scale, level), of layers of `counts`."""
    outer = np.concatenate((np.broadcast_to(sizes[:, None, None], (*counts.shape[:2], 1)), counts[..., :-1]), axis=-1)
    further = (counts + 0.25) / (outer + 0.5)  # never 0 nor 1: one element less does not make a level free or forbidden
    stop = np.log2(1 - further)
    prices = -np.log2(further) + stop
    prices[..., :-1] -= stop[..., 1:]
    prices[..., 0] += 1
    return np.asarray(np.maximum(prices, 0))


def _bits(counts: np.ndarray, sizes: np.ndarray) -> np.ndarray:
    """Of layers (tensor, scale, level): gaps, signs and head."""
    outer = np.concatenate((np.broadcast_to(sizes[:, None, None], (*counts.shape[:2], 1)), counts[..., :-1]), axis=-1)
    rest = outer - counts
    entropy = _xlog2x(outer) - _xlog2x(counts) - _xlog2x(rest)
    signs = counts[..., 0]
    head = 3 + np.log2(sizes)[:, None] + np.where(counts > 0, np.log2(np.maximum(counts, 1)) + 1, 0).sum(axis=-1)
    return np.where(signs > 0, _GOLOMB_OVERHEAD * entropy.sum(axis=-1) + signs + head, 0) + 1


def _xlog2x(values: np.ndarray) -> np.ndarray:
    return np.asarray(values * np.log2(np.maximum(values, 1)))
