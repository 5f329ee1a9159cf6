"""Which levels a gap-coded tensor gets when a bit costs λ of squared error: minimise D + λ·R, tensor by tensor.

All is computed from sorted magnitudes and their running sums, so trying a λ costs a few hundred binary searches instead
of a pass over the elements (but for the first λ, and one that is much lower). With k_j elements of level j or more, and
S_j the sum of their magnitudes,

    D = Σx² - 2·scale·Σ_j S_j + scale²·Σ_j (2j - 1)·k_j         R = the entropy of the layers, signs and heads
"""

import math
from dataclasses import dataclass, fields, replace

import numpy as np

from wire_contract.encoding.gap_coded import GapCoded, encode_levels
from wire_contract.encoding.heads import LEVELS_MAX
from wire_contract.encoding.scales import EXPONENT_MAX, EXPONENT_MIN, STEPS_PER_OCTAVE, scales_of
from wire_contract.layout import Layout, Vector

_STEP_PER_ROOT_LAMBDA = 2.9
"""Uniform quantisation at a high rate has D = step²/12 an element and loses 6 dB a bit: λ = step²·ln 2 / 6."""

_SCALES_TRIED = (-1, 0, 1, 2, 3)
"""From just below that step on, in eighths of an octave: at a low rate what is kept at all is far beyond the step."""

_SCALES_TRIED_FINE = (0, 1, 2)
_FINE = 24
"""With more levels than this the rate is high, and the step is near what it should be."""

_DEAD_ZONE = 0.65
_ROUNDING = 0.6
"""Where level 1 and the further levels begin, of a step, in the first of two passes; the second one knows what a level
costs."""

_FLOOR = 0.9
"""Of the lowest threshold asked for: from there on magnitudes are sorted, so that one a little lower is there too."""

_GOLOMB_OVERHEAD = 1.01
"""Bits of the gaps over their entropy, about."""


@dataclass(frozen=True, eq=False)
class Quantisers:
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


class SortedMagnitudes:
    """A vector's magnitudes; those that a threshold may lie among are sorted within each tensor."""

    def __init__(self, vector: Vector, layout: Layout) -> None:
        self.sizes = np.array(layout.sizes)
        self._ends = np.cumsum(self.sizes)
        starts = self._ends - self.sizes
        self._absolute = np.abs(vector)
        self.peaks = np.maximum.reduceat(self._absolute, starts).astype(np.float64)
        self.peak = float(self.peaks.max())
        squares = self._absolute.astype(np.float64)
        squares *= squares
        self.energies = np.add.reduceat(squares, starts)
        self.sizes_entropy = _xlog2x(self.sizes)
        self.head_bits = 3 + np.log2(self.sizes)
        # One sort and one binary search serve all tensors: tensor t has the keys from 2t to 2t + 1.
        self._unit = np.where(self.peaks > 0, self.peaks, 1.0)
        self._offsets = 2.0 * np.arange(len(self.sizes))
        self._floor = np.inf

    def lower_to(self, floor: float) -> None:
        """Thresholds from `floor` on may be asked for from now on."""
        # Few elements of a small message are not zero: those that may be are sorted in a quarter of the time of all.
        if floor >= self._floor:
            return
        self._floor = _FLOOR * floor
        self._places = (self._absolute >= np.float32(self._floor)).nonzero()[0]
        self._magnitudes = self._absolute[self._places].astype(np.float64)
        stops = self._places.searchsorted(self._ends)
        self._counts = stops.copy()
        self._counts[1:] -= stops[:-1]
        unit, offset = self._unit.repeat(self._counts), self._offsets.repeat(self._counts)
        self._keys = self._magnitudes / unit
        self._keys += offset
        self._keys.sort()
        sums = np.zeros(self._keys.size + 1)
        np.subtract(self._keys, offset, out=sums[1:])
        sums[1:] *= unit
        self._sums = sums.cumsum()
        self._stops, self._sums_to_stop = stops[:, None, None], self._sums[stops][:, None, None]

    def largest(self, count: float) -> float:
        """A magnitude that about `count` elements of all tensors reach."""
        at = self._absolute.size - min(max(int(count), 1), self._absolute.size)
        return float(np.partition(self._absolute, at)[at])

    def reaching(self, thresholds: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """How many elements reach `thresholds` (tensor or 1, scale, level), and the sum of their magnitudes."""
        keys = thresholds / self._unit[:, None, None]
        np.minimum(keys, 1.5, out=keys)
        keys += self._offsets[:, None, None]
        first = self._keys.searchsorted(keys.ravel()).reshape(keys.shape)
        sums = self._sums_to_stop - self._sums.take(first)
        return self._stops - first.astype(np.float64), sums

    def from_thresholds(self, thresholds: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Places and magnitudes of the elements that reach `thresholds` (tensor,), and where each tensor's end."""
        kept = (self._magnitudes >= thresholds.repeat(self._counts)).nonzero()[0]
        return self._places[kept], self._magnitudes[kept], kept.searchsorted(self._stops[:, 0, 0])


def choose_quantisers(magnitudes: SortedMagnitudes, price: float) -> Quantisers:
    """The best scale and levels of every tensor when a bit costs `price` (λ)."""
    step = _STEP_PER_ROOT_LAMBDA * math.sqrt(price)
    lowest = math.floor(math.log2(step) * STEPS_PER_OCTAVE)
    tried = _SCALES_TRIED if magnitudes.peak < _FINE * step else _SCALES_TRIED_FINE
    exponents = [min(max(lowest + further, EXPONENT_MIN), EXPONENT_MAX) for further in tried]
    scales = scales_of(exponents).astype(np.float64)[None]  # (1, scale)
    magnitudes.lower_to(0.5 * float(scales[0, 0]))  # `_thresholds` has none lower
    levels = np.arange(min(max(math.ceil(magnitudes.peak / float(scales[0, 0]) + 0.5), 1), LEVELS_MAX))
    first = (levels + _ROUNDING) * scales[..., None]
    first[..., 0] = _DEAD_ZONE * scales
    level_bits = _level_bits(magnitudes, magnitudes.reaching(first)[0])
    thresholds = _thresholds(scales, level_bits, price)
    distortion, bits = _cost(magnitudes, scales, thresholds)
    best = np.argmin(distortion + price * bits, axis=1)
    each = np.arange(len(best))
    return Quantisers(
        np.array(exponents)[best],
        scales[0, best],
        level_bits[each, best],
        thresholds[each, best],
        distortion[each, best],
        bits[each, best],
    )


def at_price(magnitudes: SortedMagnitudes, choice: Quantisers, price: float) -> Quantisers:
    """The same scales, with other thresholds: unlike another scale, they change what is sent little by little."""
    thresholds = _thresholds(choice.scales, choice.level_bits, price)
    distortion, bits = _cost(magnitudes, choice.scales[:, None], thresholds[:, None])
    return replace(choice, thresholds=thresholds, distortion=distortion[:, 0], bits=bits[:, 0])


def combine(one: Quantisers, other: Quantisers, chosen: np.ndarray) -> Quantisers:
    """`other` for the tensors of `chosen` (tensor,) bool, `one` for the rest."""
    width = max(one.level_bits.shape[1], other.level_bits.shape[1])

    def of(name: str) -> np.ndarray:
        parts = [getattr(choice, name) for choice in (one, other)]
        if parts[0].ndim > 1:  # levels that one of them has not are out of reach
            rest = [((0, 0), (0, width - part.shape[1])) for part in parts]
            parts = [np.pad(part, pad, constant_values=np.inf) for part, pad in zip(parts, rest, strict=True)]
        return np.asarray(np.where(chosen if parts[0].ndim == 1 else chosen[:, None], parts[1], parts[0]))

    return Quantisers(**{entry.name: of(entry.name) for entry in fields(Quantisers)})


def _thresholds(scales: np.ndarray, level_bits: np.ndarray, price: float) -> np.ndarray:
    """Where the squared error that a level saves is worth its bits: (…, level) for `scales` (…)."""
    scale = scales[..., None]
    thresholds = level_bits * (price / (2 * scale)) + (np.arange(level_bits.shape[-1]) + 0.5) * scale
    return np.asarray(np.maximum.accumulate(thresholds, axis=-1))


def _cost(magnitudes: SortedMagnitudes, scales: np.ndarray, thresholds: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Squared error and bits, (tensor, scale), of `scales` (tensor or 1, scale) with `thresholds` (…, level)."""
    counts, sums = magnitudes.reaching(thresholds)
    squares = counts @ np.arange(1.0, 2.0 * counts.shape[-1], 2.0)
    distortion = magnitudes.energies[:, None] + scales * (scales * squares - 2 * sums.sum(axis=-1))
    return np.maximum(distortion, 0), _bits(magnitudes, counts)


def quantise(magnitudes: SortedMagnitudes, vector: Vector, choice: Quantisers, by_levels: np.ndarray) -> np.ndarray:
    """(layout.size,) levels of `vector` by the thresholds of `choice`; zeros outside the tensors `by_levels` (bool)."""
    thresholds = choice.thresholds
    places, reaching, stops = magnitudes.from_thresholds(np.where(by_levels, thresholds[:, 0], np.inf))
    signed = np.empty(places.size, dtype=np.int16)
    begin = 0
    for tensor, end in enumerate(stops.tolist()):
        signed[begin:end] = thresholds[tensor].searchsorted(reaching[begin:end], side="right")
        begin = end
    np.negative(signed, out=signed, where=vector[places] < 0)
    levels = np.zeros(vector.size, dtype=np.int16)
    levels[places] = signed
    return levels


def encode_range(levels: np.ndarray, choice: Quantisers, layout: Layout, first: int, after: int) -> GapCoded:
    """One entry for the tensors `first` … `after` - 1."""
    start, stop = layout.bounds[first][0], layout.bounds[after - 1][1]
    sizes = layout.sizes[first:after]
    return encode_levels(levels[start:stop], choice.exponents[first:after].tolist(), sizes)


def _level_bits(magnitudes: SortedMagnitudes, counts: np.ndarray) -> np.ndarray:
    """Bits by which each level costs more than the one below it, (tensor, scale, level), of layers of `counts`."""
    # Never 0 nor 1: one element less does not make a level free or forbidden.
    further = (counts + 0.25) / (_outer(magnitudes, counts) + 0.5)
    stop = np.log2(1 - further)
    prices = stop - np.log2(further)
    prices[..., :-1] -= stop[..., 1:]
    prices[..., 0] += 1
    return np.asarray(np.maximum(prices, 0, out=prices))


def _bits(magnitudes: SortedMagnitudes, counts: np.ndarray) -> np.ndarray:
    """Of layers (tensor, scale, level): gaps, signs and head."""
    rest = _outer(magnitudes, counts) - counts
    # Σ of x·log2 x over what each layer is a subset of, less that over the layers, is but that of the first and last.
    entropy = magnitudes.sizes_entropy[:, None] - _xlog2x(counts[..., -1]) - _xlog2x(rest).sum(axis=-1)
    signs = counts[..., 0]
    head = magnitudes.head_bits[:, None] + np.log2(counts + 1).sum(axis=-1)
    return np.asarray((_GOLOMB_OVERHEAD * entropy + signs + head) * (signs > 0) + 1)


def _outer(magnitudes: SortedMagnitudes, counts: np.ndarray) -> np.ndarray:
    """What each layer of `counts` is a subset of: the tensor, or the layer before it."""
    outer = np.empty_like(counts)
    outer[..., 0] = magnitudes.sizes[:, None]
    outer[..., 1:] = counts[..., :-1]
    return outer


def _xlog2x(values: np.ndarray) -> np.ndarray:
    return np.asarray(values * np.log2(np.maximum(values, 1)))
