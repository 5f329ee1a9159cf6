"""The best encoding of every tensor of a vector at a price per bit, and the price that gives a target size or error.

Each tensor is encoded so that D + λ·R, its squared error plus λ times its bits, is minimal. The price λ is the same for
all tensors, so that no bit would reduce the error more in another tensor (reverse water-filling).
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import replace

import msgspec
import numpy as np

from wire_contract.compression.low_rank import balanced_factors, matrix_shape, ranks
from wire_contract.compression.price_search import OperatingPoint, find_price, mix
from wire_contract.compression.quantiser import SortedMagnitudes, at_price, choose_quantisers, encode_range, quantise
from wire_contract.encoding import EncodedTensor, LowRank
from wire_contract.encoding.dense import as_float16, as_float32, as_int4, as_int8
from wire_contract.layout import Layout, Vector

_ENTRY_BITS = 8 * 20
"""Overhead of an entry: array header, tag, lengths and scale, and the second header of the entry of levels that it
splits."""

_INT4_ERROR = 0.005
"""Smallest relative squared error of int4 factors; used only to exclude factors that cannot win."""

_DENSE: Sequence[Callable[[Vector], EncodedTensor]] = (as_int4, as_int8, as_float16, as_float32)
_FLOAT16_MAX = 65_504.0

_FURTHER_RANKS = 3
"""Ranks tried above the best one (see `_ranks_worth_trying`). Chosen, not measured: more cost encoding time, fewer may
miss one that pays off."""

_NEAR, _NEAR_HIGH_RATE, _NEAR_MOVED = (0.04, 0.04), (0.03, 0.0), (0.003, 0.003)
"""How far below and above the target a search may end, in octaves: in general; at a high rate, or for an error target;
and with fixed scales."""

_NARROW, _NARROW_HIGH_RATE, _NARROW_MOVED = 0.2, 0.1, 0.002
"""Width of the price bracket at which a search stops, in octaves, for the same three cases."""

# These guide the search: a poor value costs attempts or a slightly worse choice, never a wrong message. Chosen; no
# measurement of them is recorded, except where one is named.
_SLOPE_MOVED = 0.5
"""Octaves of size (or error) per octave of price, with fixed scales."""

_FILLED = 0.95
"""Share of the target bits below which larger options are tried."""

_LEAP = 0.5
"""Share of the target bits: if one end of the bracket is below, a tensor changed from nothing to something in
between."""

_OVER = 1.01
"""Share of the target bits (or error) above which a point has missed the target."""

_WORTH = 64.0
"""A bit of a larger option may save less error than the price, by up to this factor."""

_MOVED_MAX = 32.0
"""Largest factor by which the price of thresholds is changed while scales are fixed."""

_HIGH_RATE = 2.5
"""Bits per element from which on hardly any element is zero, so that thresholds change little."""

_PEAKED = 1.8
"""Price at a high rate, relative to normally distributed elements: students' updates have more small elements."""

_PRICE_OF_SQUARE = 0.19
"""Price per bit, relative to the square of the magnitude that one element per 8 bits reaches; typical of students'
updates."""

_PRICE_MIN, _PRICE_MAX = 1e-20, 10.0
"""Relative to the energy of the vector: below, everything is float32; above, everything is zero."""


def encoded_bytes(tensors: tuple[EncodedTensor, ...]) -> int:
    """Size of encoded tensors in a message, before its compression."""
    return len(msgspec.msgpack.encode(tensors))


class RateSearch:
    """Rate-distortion search for one vector, which is not all zeros."""

    def __init__(self, vector: Vector, layout: Layout) -> None:
        self.vector = vector
        self.layout = layout
        self._magnitudes = SortedMagnitudes(vector, layout)
        self._energies = self._magnitudes.energies
        self.energy = float(self._energies.sum())
        self._bits_of, self._distortion_of = _dense_figures(
            self._magnitudes.sizes, self._magnitudes.peaks, self._energies
        )
        self._factors: list[LowRank] = []
        """Low-rank options, after the dense ones; each is for one tensor."""
        self._prices = self.energy * _PRICE_MIN, self.energy * _PRICE_MAX

    def with_bits(self, bits: float, price: float | None = None) -> OperatingPoint:
        """The point of least distortion with about `bits` expected bits; the search begins at `price`."""
        start = self._price_of_bits(bits) if price is None else price
        high = self.is_high_rate(bits)
        near, narrow = (_NEAR_HIGH_RATE, _NARROW_HIGH_RATE) if high else (_NEAR, _NARROW)
        slope = 0.5 * self.vector.size / bits if high else 1.0  # half a bit per element and octave of price
        ends = find_price(self.at, _more_bits(bits), start, self._prices, near=near, narrow=narrow, slope=slope)
        found = self._filled(self.moved_to_bits(ends[-1], bits), bits, ends[-1].price)
        met = _FILLED * bits < found.bits <= _OVER * bits
        leaps = ends[0].bits < _LEAP * bits
        if len(ends) == 1 or (met and not high and not leaps and (ends[-1].option < 0).all()):
            return found
        # A jump that thresholds may not bridge: perhaps only some tensors should be on its far side.
        both = mix(ends[0], ends[1], bits)
        other = self._filled(self.moved_to_bits(both, bits), bits, both.price)
        return min(found, other, key=lambda point: (point.bits > _OVER * bits, point.distortion))

    def _filled(self, point: OperatingPoint, bits: float, price: float) -> OperatingPoint:
        """If no price led close to `bits`, gives tensors larger options, the best gain per bit first.

        An option whose gain is far below `price` is not used, even if there are bits left for it.
        """
        while point.bits < _FILLED * bits:
            more = self._bits_of - point.tensor_bits[:, None]
            gain = point.tensor_distortion[:, None] - self._distortion_of
            worth = np.divide(gain, more, out=np.zeros_like(gain), where=(more > 0) & (more <= bits - point.bits))
            tensor, option = divmod(int(np.argmax(worth)), worth.shape[1])
            if worth[tensor, option] * _WORTH < price:
                break
            chosen = np.arange(len(worth)) == tensor
            point = replace(
                point,
                option=np.where(chosen, option, point.option),
                zero=point.zero & ~chosen,
                fixed_bits=np.where(chosen, self._bits_of[tensor, option], point.fixed_bits),
                fixed_distortion=np.where(chosen, self._distortion_of[tensor, option], point.fixed_distortion),
            )
        return point

    def _price_of_bits(self, bits: float) -> float:
        """Estimate of the price, to begin the search with."""
        if self.is_high_rate(bits):  # 6 dB per bit
            return _PEAKED * self.energy / self.vector.size * math.pow(4.0, -bits / self.vector.size)
        return self._magnitudes.largest(bits / 8) ** 2 * _PRICE_OF_SQUARE

    def is_high_rate(self, bits: float) -> bool:
        """Whether only other scales, and not thresholds, change the size."""
        return bits > _HIGH_RATE * self.vector.size

    def with_distortion(self, distortion: float, price: float | None = None) -> OperatingPoint:
        """The point of fewest bits with about `distortion` expected squared error; the search begins at `price`."""
        start, excess = distortion / self.vector.size if price is None else price, _more_distortion(distortion)
        ends = find_price(
            self.at, excess, start, self._prices, near=_NEAR_HIGH_RATE, narrow=_NARROW_HIGH_RATE, rising=True
        )
        found = [self.moved_to_distortion(point, distortion) for point in ends]
        return min(found, key=lambda point: (point.distortion > _OVER * distortion, point.bits))

    def moved_to_bits(self, point: OperatingPoint, bits: float) -> OperatingPoint:
        """Keeps scales and options of `point`, with thresholds that bring it as close to `bits` as possible."""
        return self._moved_to(point, _more_bits(bits), rising=False)

    def moved_to_distortion(self, point: OperatingPoint, distortion: float) -> OperatingPoint:
        """Keeps scales and options of `point`, with thresholds that bring it as close to `distortion` as possible."""
        return self._moved_to(point, _more_distortion(distortion), rising=True)

    def _moved_to(
        self, point: OperatingPoint, excess: Callable[[OperatingPoint], float], *, rising: bool
    ) -> OperatingPoint:
        if -_NEAR_MOVED[0] < excess(point) <= _NEAR_MOVED[1]:
            return point

        def moved(price: float) -> OperatingPoint:
            return point if price == point.price else self._at_other_price(point, price)

        bounds = point.price / _MOVED_MAX, point.price * _MOVED_MAX
        return find_price(
            moved,
            excess,
            point.price,
            bounds,
            near=_NEAR_MOVED,
            narrow=_NARROW_MOVED,
            slope=_SLOPE_MOVED,
            rising=rising,
        )[0]

    def _at_other_price(self, point: OperatingPoint, price: float) -> OperatingPoint:
        """Keeps scales and options, with the thresholds of `price`."""
        return replace(point, price=price, levels=at_price(self._magnitudes, point.levels, price))

    def at(self, price: float) -> OperatingPoint:
        """The best encoding of every tensor at `price`."""
        levels = choose_quantisers(self._magnitudes, price)
        cost = levels.distortion + price * levels.bits
        zero = self._energies + price <= cost
        cost = np.where(zero, self._energies + price, cost)
        option_costs = self._distortion_of + price * self._bits_of
        best = np.argmin(option_costs, axis=1)
        each = np.arange(len(best))
        option = np.where(option_costs[each, best] < cost, best, -1)
        taken = option >= 0
        zero &= ~taken
        return OperatingPoint(
            price=price,
            chosen_at=price,
            levels=levels,
            option=option,
            zero=zero,
            fixed_bits=np.where(taken, self._bits_of[each, best], zero),
            fixed_distortion=np.where(taken, self._distortion_of[each, best], np.where(zero, self._energies, 0.0)),
        )

    def encode(self, point: OperatingPoint) -> tuple[EncodedTensor, ...]:
        """Encodes the vector as in `point`."""
        levels = quantise(self._magnitudes, self.vector, point.levels, point.by_levels)
        entries: list[EncodedTensor] = []
        first, count = 0, len(self.layout.tensors)
        for tensor in [*np.flatnonzero(point.option >= 0).tolist(), count]:
            if tensor > first:
                entries.append(encode_range(levels, point.levels, self.layout, first, tensor))
            if tensor < count:
                entries.append(self._encode_option(tensor, int(point.option[tensor])))
            first = tensor + 1
        return tuple(entries)

    def _encode_option(self, tensor: int, option: int) -> EncodedTensor:
        if option >= len(_DENSE):
            return self._factors[option - len(_DENSE)]
        start, stop = self.layout.bounds[tensor]
        return _DENSE[option](self.vector[start:stop])

    def add_factors(self, point: OperatingPoint) -> bool:
        """Adds low-rank factors that may be better than `point` at its price; returns whether there are any."""
        found: list[tuple[int, LowRank, float]] = []
        for tensor, spec in enumerate(self.layout.tensors):
            rows, columns = matrix_shape(spec)
            cost = self._cost(point, tensor)
            if min(rows, columns) < 2 or cost <= point.price * _ENTRY_BITS:  # noqa: PLR2004 — a row is no matrix
                continue
            start, stop = self.layout.bounds[tensor]
            matrix = self.vector[start:stop].astype(np.float64).reshape(rows, columns)
            worth = _ranks_worth_trying(matrix, point.price, cost)
            for entry in balanced_factors(matrix, worth):
                decoded: Vector = np.empty(spec.size, dtype=np.float32)
                entry.decode_into(decoded)
                distortion = float(((decoded - matrix.ravel()) ** 2).sum())
                found.append((tensor, entry, distortion))
        figures = np.full((2, len(self.layout.tensors), len(found)), np.inf)
        for column, (tensor, entry, distortion) in enumerate(found):
            figures[:, tensor, column] = 8.0 * encoded_bytes((entry,)) + _ENTRY_BITS, distortion
        self._bits_of = np.hstack((self._bits_of, figures[0]))
        self._distortion_of = np.hstack((self._distortion_of, figures[1]))
        self._factors += [entry for _, entry, _ in found]
        return bool(found)

    def _cost(self, point: OperatingPoint, tensor: int) -> float:
        """D + λ·R of one tensor in `point`."""
        return float(point.tensor_distortion[tensor] + point.price * point.tensor_bits[tensor])


def _more_bits(bits: float) -> Callable[[OperatingPoint], float]:
    return lambda point: float(np.log2(point.bits / bits))


def _more_distortion(distortion: float) -> Callable[[OperatingPoint], float]:
    # The quotient may underflow to 0, which has no logarithm.
    return lambda point: float(np.log2(max(max(point.distortion, 1e-300) / distortion, 1e-300)))


def _ranks_worth_trying(matrix: np.ndarray, price: float, cost: float) -> list[int]:
    """The most promising ranks in int4 and int8, if they might cost less than `cost`; usually none.

    Some higher ranks too, which pay off if the bits that factors save make bits cheaper.
    """
    rows, columns = matrix.shape
    gram = matrix @ matrix.T if rows <= columns else matrix.T @ matrix
    energy, fourth = float(np.trace(gram)), float((gram * gram).sum())
    tried = np.array(ranks(min(rows, columns)))
    bits = 4.0 * tried * (rows + columns) + 2 * _ENTRY_BITS

    def best(kept: np.ndarray) -> list[int]:
        in_int4 = energy - kept * (1 - _INT4_ERROR) + price * bits
        in_int8 = energy - kept + price * (2 * bits - 2 * _ENTRY_BITS)
        first = [int(np.argmin(costs)) for costs in (in_int4, in_int8) if costs.min() < cost]
        return tried[min(first) : max(first) + _FURTHER_RANKS + 1].tolist() if first else []

    # The r largest σ² sum up to at most √(r·Σσ⁴) (Cauchy-Schwarz), and Σσ⁴ = ‖AAᵀ‖² needs no decomposition.
    if not best(np.minimum(energy, np.sqrt(tried * fourth))):
        return []
    return best(np.cumsum(np.linalg.eigvalsh(gram)[::-1])[tried - 1])


def _dense_figures(sizes: np.ndarray, peaks: np.ndarray, energies: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Bits and expected squared error of each dense encoding, (tensor, encoding); infinite where it is not possible."""
    bits = sizes[:, None] * np.array([4.0, 8.0, 16.0, 32.0]) + _ENTRY_BITS
    bits[:, 0] += 4 * (sizes % 2)
    # Rounding errors: a step squared over 12 per element, or those of half a unit in the last place.
    distortion = np.zeros(bits.shape)
    distortion[:, 0] = sizes * (peaks / 7) ** 2 / 12
    distortion[:, 1] = sizes * (peaks / 127) ** 2 / 12
    distortion[:, 2] = energies * 2.0**-24 / 3 + sizes * 2.0**-50 / 12
    distortion[peaks >= _FLOAT16_MAX, 2] = np.inf
    distortion[peaks == 0] = np.inf
    bits[np.isinf(distortion)] = np.inf
    return bits, distortion
