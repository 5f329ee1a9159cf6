"""Quantises tensors to levels for gap coding: minimises D + λ·R, squared error plus λ times bits, for each tensor.

Everything is computed from sorted magnitudes and their cumulative sums, so that trying a λ costs a few hundred binary
searches instead of a pass over all elements (except for the first λ, and for a much lower one). With k_j the number of
elements of level j or higher, and S_j the sum of their magnitudes,

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
"""step / √λ of a uniform quantiser at a high rate, where D = step²/12 per element falls by 6 dB per bit:
λ = step²·ln 2 / 6."""

_SCALES_TRIED = (-1, 0, 1, 2, 3)
"""Scales to try, in eighths of an octave from just below that step: at a low rate, the elements that are kept at all
are much larger than the step."""

_SCALES_TRIED_FINE = (0, 1, 2)
"""The same for a high rate."""
_FINE = 24
"""With more levels than this, the rate is high and the formula above is accurate: fewer scales are tried."""

_DEAD_ZONE = 0.65
_ROUNDING = 0.6
"""Where level 1 and the further levels begin, in steps, in the first of two passes; the second pass knows the cost of
each level. Above 0.5, because a smaller level costs fewer bits, and zero the fewest. Only where the search starts:
chosen, not measured."""

_FLOOR = 0.9
"""Magnitudes are sorted from this share of the lowest requested threshold on, so that a slightly lower one needs no new
sort."""

_GOLOMB_OVERHEAD = 1.01
"""Size of Golomb-coded gaps relative to their entropy, approximately."""


@dataclass(frozen=True, eq=False)
class Quantisers:
    """The quantiser of every tensor: scale and thresholds, with expected size and error."""

    exponents: np.ndarray
    """(tensor,) exponents of the scales, see `encoding/scales.py`."""
    scales: np.ndarray
    """(tensor,) float64."""
    level_bits: np.ndarray
    """(tensor, level) additional bits of a level, compared with the level below."""
    thresholds: np.ndarray
    """(tensor, level) smallest magnitude that is quantised to this level."""
    distortion: np.ndarray
    """(tensor,) expected squared error."""
    bits: np.ndarray
    """(tensor,) expected bits."""


class SortedMagnitudes:
    """The magnitudes of a vector; those that a threshold may separate are sorted within each tensor."""

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
        # One sort and one binary search for all tensors: tensor t has keys from 2t to 2t + 1.
        self._unit = np.where(self.peaks > 0, self.peaks, 1.0)
        self._offsets = 2.0 * np.arange(len(self.sizes))
        self._floor = np.inf

    def lower_to(self, floor: float) -> None:
        """Prepares for thresholds from `floor` on."""
        # In a small message few elements are not zero: sorting only the candidates takes a quarter of the time.
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
        """The magnitude that is reached by about `count` elements of all tensors."""
        at = self._absolute.size - min(max(int(count), 1), self._absolute.size)
        return float(np.partition(self._absolute, at)[at])

    def reaching(self, thresholds: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Number of elements that reach `thresholds` (tensor or 1, scale, level), and the sum of their magnitudes."""
        keys = thresholds / self._unit[:, None, None]
        np.minimum(keys, 1.5, out=keys)
        keys += self._offsets[:, None, None]
        first = self._keys.searchsorted(keys.ravel()).reshape(keys.shape)
        sums = self._sums_to_stop - self._sums.take(first)
        return self._stops - first.astype(np.float64), sums

    def from_thresholds(self, thresholds: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Indices and magnitudes of the elements that reach `thresholds` (tensor,), and where those of each tensor
        end.
        """
        kept = (self._magnitudes >= thresholds.repeat(self._counts)).nonzero()[0]
        return self._places[kept], self._magnitudes[kept], kept.searchsorted(self._stops[:, 0, 0])


def choose_quantisers(magnitudes: SortedMagnitudes, price: float) -> Quantisers:
    """The best quantiser of every tensor at a price λ per bit."""
    step = _STEP_PER_ROOT_LAMBDA * math.sqrt(price)
    lowest = math.floor(math.log2(step) * STEPS_PER_OCTAVE)
    tried = _SCALES_TRIED if magnitudes.peak < _FINE * step else _SCALES_TRIED_FINE
    exponents = [min(max(lowest + further, EXPONENT_MIN), EXPONENT_MAX) for further in tried]
    scales = scales_of(exponents).astype(np.float64)[None]  # (1, scale)
    magnitudes.lower_to(0.5 * float(scales[0, 0]))  # `_thresholds` gives none below
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
    """Keeps the scales, with the thresholds of another price: unlike scales, they change the size gradually."""
    thresholds = _thresholds(choice.scales, choice.level_bits, price)
    distortion, bits = _cost(magnitudes, choice.scales[:, None], thresholds[:, None])
    return replace(choice, thresholds=thresholds, distortion=distortion[:, 0], bits=bits[:, 0])


def combine(one: Quantisers, other: Quantisers, chosen: np.ndarray) -> Quantisers:
    """Takes the quantisers of `other` where `chosen` (tensor,) is true, else those of `one`."""
    width = max(one.level_bits.shape[1], other.level_bits.shape[1])

    def of(name: str) -> np.ndarray:
        parts = [getattr(choice, name) for choice in (one, other)]
        if parts[0].ndim > 1:  # levels that only one of them has are unreachable in the other
            rest = [((0, 0), (0, width - part.shape[1])) for part in parts]
            parts = [np.pad(part, pad, constant_values=np.inf) for part, pad in zip(parts, rest, strict=True)]
        return np.asarray(np.where(chosen if parts[0].ndim == 1 else chosen[:, None], parts[1], parts[0]))

    return Quantisers(**{entry.name: of(entry.name) for entry in fields(Quantisers)})


def _thresholds(scales: np.ndarray, level_bits: np.ndarray, price: float) -> np.ndarray:
    """The magnitudes from which on a level saves more squared error than its bits cost: (…, level) for `scales` (…)."""
    scale = scales[..., None]
    thresholds = level_bits * (price / (2 * scale)) + (np.arange(level_bits.shape[-1]) + 0.5) * scale
    return np.asarray(np.maximum.accumulate(thresholds, axis=-1))


def _cost(magnitudes: SortedMagnitudes, scales: np.ndarray, thresholds: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Squared error and bits, each (tensor, scale), of `scales` (tensor or 1, scale) with `thresholds` (…, level)."""
    counts, sums = magnitudes.reaching(thresholds)
    squares = counts @ np.arange(1.0, 2.0 * counts.shape[-1], 2.0)
    distortion = magnitudes.energies[:, None] + scales * (scales * squares - 2 * sums.sum(axis=-1))
    return np.maximum(distortion, 0), _bits(magnitudes, counts)


def quantise(magnitudes: SortedMagnitudes, vector: Vector, choice: Quantisers, by_levels: np.ndarray) -> np.ndarray:
    """(layout.size,) levels of `vector` by the thresholds of `choice`; 0 in tensors where `by_levels` (bool) is
    false.
    """
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
    """Encodes the tensors from `first` up to, but without, `after` as one gap-coded entry."""
    start, stop = layout.bounds[first][0], layout.bounds[after - 1][1]
    sizes = layout.sizes[first:after]
    return encode_levels(levels[start:stop], choice.exponents[first:after].tolist(), sizes)


def _level_bits(magnitudes: SortedMagnitudes, counts: np.ndarray) -> np.ndarray:
    """Additional bits of each level, (tensor, scale, level), if its layers have `counts` elements."""
    # Never 0 or 1, so that no level becomes free or impossible through a single element.
    further = (counts + 0.25) / (_outer(magnitudes, counts) + 0.5)
    stop = np.log2(1 - further)
    prices = stop - np.log2(further)
    prices[..., :-1] -= stop[..., 1:]
    prices[..., 0] += 1
    return np.asarray(np.maximum(prices, 0, out=prices))


def _bits(magnitudes: SortedMagnitudes, counts: np.ndarray) -> np.ndarray:
    """Bits of gaps, signs and head, (tensor, scale), if the layers have `counts` (tensor, scale, level) elements."""
    rest = _outer(magnitudes, counts) - counts
    # The sum of x·log2 x over the outer sets minus that over the layers telescopes to first and last.
    entropy = magnitudes.sizes_entropy[:, None] - _xlog2x(counts[..., -1]) - _xlog2x(rest).sum(axis=-1)
    signs = counts[..., 0]
    head = magnitudes.head_bits[:, None] + np.log2(counts + 1).sum(axis=-1)
    return np.asarray((_GOLOMB_OVERHEAD * entropy + signs + head) * (signs > 0) + 1)


def _outer(magnitudes: SortedMagnitudes, counts: np.ndarray) -> np.ndarray:
    """Sizes of the sets that the layers of `counts` are subsets of: the tensor, or the layer before."""
    outer = np.empty_like(counts)
    outer[..., 0] = magnitudes.sizes[:, None]
    outer[..., 1:] = counts[..., :-1]
    return outer


def _xlog2x(values: np.ndarray) -> np.ndarray:
    return np.asarray(values * np.log2(np.maximum(values, 1)))
