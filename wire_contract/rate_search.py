"""What every tensor of a vector is best sent as at one price of a bit, and which price gives a wanted size or error.

Each tensor takes what minimises D + λ·R, its squared error plus λ times its bits. λ, the price, is one for all tensors:
that is reverse water-filling, no bit would do more good in another tensor.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial

import msgspec
import numpy as np

from wire_contract.encoding import EncodedTensor
from wire_contract.encoding.dense import as_float16, as_float32, as_int4, as_int8
from wire_contract.factors import balanced_factors, matrix_shape, ranks
from wire_contract.layout import Layout, Vector
from wire_contract.level_choice import Choice, Magnitudes, at_price, choose_levels, code_choice, levels_of

_ENTRY_BITS = 8 * 20
"""Beyond its data: an entry's opening, tag, lengths and scale, and the entry of levels that it cuts in two."""

_INT4_ERROR = 0.005
"""Squared error that int4 factors keep at least, of what they hold; only rules out what cannot win."""

_DENSE: Mapping[str, Callable[[Vector], EncodedTensor]] = {
    "int4": as_int4,
    "int8": as_int8,
    "float16": as_float16,
    "float32": as_float32,
}
_FLOAT16_MAX = 65_504.0

_COARSE, _FINE = 0.1, 0.002
"""How near the wanted value a search ends, in octaves: first among all prices, then with the scales as they are."""

_STEPS = 30
"""Prices tried at most."""

_MOVED_ENOUGH = 0.98
"""Of the bits wanted, by other thresholds."""

_PRICE_MIN, _PRICE_MAX = 1e-20, 10.0
"""Of the vector's energy: below, all is float32; above, all is zero."""


def encoded_bytes(tensors: tuple[EncodedTensor, ...]) -> int:
    """What they take in a message, before its compression."""
    return len(msgspec.msgpack.encode(tensors))


@dataclass(frozen=True, eq=False)
class Point:
    """What every tensor takes at one price."""

    price: float
    levels: Choice
    option: np.ndarray
    """(tensor,) which of the tensor's other options it takes; -1: levels, or nothing."""
    zero: np.ndarray
    """(tensor,) bool: nothing."""
    fixed_bits: float
    """Of the tensors without levels."""
    fixed_distortion: float
    bits: float = 0.0
    """Expected, of all tensors."""
    distortion: float = 0.0
    """Expected squared error of all tensors."""


@dataclass(frozen=True, eq=False)
class _Options:
    """What a tensor can be sent as besides levels."""

    entries: list[EncodedTensor | str] = field(default_factory=list)
    """Encoded, or the name of a dense encoding."""
    bits: list[float] = field(default_factory=list)
    distortion: list[float] = field(default_factory=list)

    def add(self, entry: EncodedTensor | str, bits: float, distortion: float) -> None:
        self.entries.append(entry)
        self.bits.append(bits)
        self.distortion.append(distortion)


class RateSearch:
    """One vector that is not zero, and what each price makes of it."""

    def __init__(self, vector: Vector, layout: Layout) -> None:
        self.vector = vector
        self.layout = layout
        self._magnitudes = Magnitudes(vector, layout)
        self._energies = self._magnitudes.energies
        self.energy = float(self._energies.sum())
        columns = (self._magnitudes.sizes, self._magnitudes.peaks, self._energies)
        self._options = [_dense_options(*row) for row in zip(*(column.tolist() for column in columns), strict=True)]
        self._tabulate()

    def with_bits(self, bits: float) -> Point:
        """The point with the least distortion among those with about so many bits, by its own count."""
        price = self._magnitudes.largest(bits / 8) ** 2 / 4
        best: Point | None = None
        for tolerance in (_COARSE, _FINE):
            found = [self.moved_to_bits(end, bits) for end in self._solve(self.at, _more_bits(bits), price, tolerance)]
            best = min(found, key=lambda point: (point.bits > bits, point.distortion))
            if _MOVED_ENOUGH * bits < best.bits <= bits:
                break
        assert best is not None
        return best

    def with_distortion(self, distortion: float) -> Point:
        """The point with the fewest bits among those with about that squared error, by its own count."""
        excess, price = _more_distortion(distortion), distortion / self.vector.size
        ends = self._solve(self.at, excess, price, _COARSE, rising=True)
        found = [self.moved_to_distortion(point, distortion) for point in ends]
        return min(found, key=lambda point: (point.distortion > distortion, point.bits))

    def moved_to_bits(self, point: Point, bits: float) -> Point:
        """The same scales and options as in `point`, with other thresholds: as near `bits` as they lead."""
        return self._solve(partial(self._moved, point), _more_bits(bits), point.price, _FINE, width=0.25)[0]

    def moved_to_distortion(self, point: Point, distortion: float) -> Point:
        """The same scales and options as in `point`, with other thresholds: as near `distortion` as they lead."""
        excess = _more_distortion(distortion)
        return self._solve(partial(self._moved, point), excess, point.price, _FINE, width=0.25, rising=True)[0]

    def at(self, price: float) -> Point:
        """What every tensor takes at `price`."""
        levels = choose_levels(self._magnitudes, price)
        cost = levels.distortion + price * levels.bits
        zero = self._energies + price <= cost
        cost = np.where(zero, self._energies + price, cost)
        option_costs = self._distortion_of + price * self._bits_of
        best = np.argmin(option_costs, axis=1)
        each = np.arange(len(best))
        option = np.where(option_costs[each, best] < cost, best, -1)
        taken = option >= 0
        zero &= ~taken
        fixed = Point(
            price=price,
            levels=levels,
            option=option,
            zero=zero,
            fixed_bits=float(self._bits_of[each, best][taken].sum() + np.count_nonzero(zero)),
            fixed_distortion=float(self._distortion_of[each, best][taken].sum() + self._energies[zero].sum()),
        )
        return _summed(fixed)

    def _moved(self, point: Point, price: float) -> Point:
        return _summed(replace(point, price=price, levels=at_price(self._magnitudes, point.levels, price)))

    def _solve(
        self,
        point_at: Callable[[float], Point],
        excess: Callable[[Point], float],
        price: float,
        tolerance: float,
        *,
        width: float = 2.0,
        rising: bool = False,
    ) -> list[Point]:
        """The point whose `excess`, in octaves, is highest up to 0; then, unless it is near 0, the one beyond.

        The excess falls with the price, or is `rising` with it. Both go over many powers of ten: all is in logarithms.
        It may leap, where a tensor that was nothing becomes something; then there is a point on both sides, and only
        other thresholds lead between them.
        """
        sign = -1.0 if rising else 1.0
        lowest, highest = np.log2(self.energy * _PRICE_MIN), np.log2(self.energy * _PRICE_MAX)
        at = float(sign * np.clip(np.log2(max(price, 1e-300)), lowest, highest))
        within: tuple[float, float, Point] | None = None
        over: tuple[float, float, Point] | None = None
        for _ in range(_STEPS):
            point = point_at(2.0 ** (sign * at))
            found = (at, excess(point), point)
            if found[1] <= 0:
                within = found
            else:
                over = found
            if within is not None and within[1] > -tolerance:
                return [within[2]]
            if within is None or over is None:
                if not lowest <= sign * at <= highest:
                    break
                at += width if within is None else -width
                width *= 2
            elif within[0] - over[0] < tolerance / 4:
                break
            else:
                share = min(max(over[1] / (over[1] - within[1] - tolerance / 2), 0.1), 0.9)
                at = over[0] + share * (within[0] - over[0])
        return [end[2] for end in (within, over) if end is not None]

    def encode(self, point: Point) -> tuple[EncodedTensor, ...]:
        """The entries of `point`."""
        levels = levels_of(self.vector, self.layout, point.levels, np.flatnonzero(~point.zero & (point.option < 0)))
        entries: list[EncodedTensor] = []
        first, count = 0, len(self.layout.tensors)
        for tensor in [*np.flatnonzero(point.option >= 0).tolist(), count]:
            if tensor > first:
                entries.append(code_choice(levels, point.levels, self.layout, first, tensor))
            if tensor < count:
                entries.append(self._encode_option(tensor, int(point.option[tensor])))
            first = tensor + 1
        return tuple(entries)

    def _encode_option(self, tensor: int, option: int) -> EncodedTensor:
        entry = self._options[tensor].entries[option]
        if not isinstance(entry, str):
            return entry
        start, stop = self.layout.bounds[tensor]
        return _DENSE[entry](self.vector[start:stop])

    def _tabulate(self) -> None:
        """The options' figures as arrays, (tensor, option), infinite where a tensor has fewer."""
        width = max(len(options.bits) for options in self._options)
        self._bits_of = np.full((len(self._options), width), np.inf)
        self._distortion_of = np.full((len(self._options), width), np.inf)
        for tensor, options in enumerate(self._options):
            self._bits_of[tensor, : len(options.bits)] = options.bits
            self._distortion_of[tensor, : len(options.bits)] = options.distortion

    def add_factors(self, point: Point) -> bool:
        """Low-rank factors that may be better at this price than what `point` took; whether there are any."""
        found = False
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
                self._options[tensor].add(entry, 8.0 * encoded_bytes((entry,)) + _ENTRY_BITS, distortion)
                found = True
        if found:
            self._tabulate()
        return found

    def _cost(self, point: Point, tensor: int) -> float:
        """D + λ·R of what one tensor took."""
        if point.option[tensor] >= 0:
            option = int(point.option[tensor])
            return float(self._distortion_of[tensor, option] + point.price * self._bits_of[tensor, option])
        if point.zero[tensor]:
            return float(self._energies[tensor] + point.price)
        return float(point.levels.distortion[tensor] + point.price * point.levels.bits[tensor])


def _more_bits(bits: float) -> Callable[[Point], float]:
    return lambda point: float(np.log2(point.bits / bits))


def _more_distortion(distortion: float) -> Callable[[Point], float]:
    return lambda point: float(np.log2(max(point.distortion, 1e-300) / distortion))


def _summed(point: Point) -> Point:
    by_levels = ~point.zero & (point.option < 0)
    return replace(
        point,
        bits=point.fixed_bits + float(point.levels.bits[by_levels].sum()),
        distortion=point.fixed_distortion + float(point.levels.distortion[by_levels].sum()),
    )


def _ranks_worth_trying(matrix: np.ndarray, price: float, cost: float) -> list[int]:
    """The ranks that might cost less than `cost`, mostly none: a decomposition takes longer than all the rest.

    The r largest of some σ² sum up to √(r·Σσ⁴) at most (Cauchy-Schwarz), and Σσ⁴ = ‖AAᵀ‖² needs no decomposition.
    """
    rows, columns = matrix.shape
    gram = matrix @ matrix.T if rows <= columns else matrix.T @ matrix
    energy, fourth = float(np.trace(gram)), float((gram * gram).sum())
    worth = []
    for rank in ranks(min(rows, columns)):
        kept = min(energy, float(np.sqrt(rank * fourth)))
        int4_bits = 4 * rank * (rows + columns) + 2 * _ENTRY_BITS
        as_int4 = energy - kept + _INT4_ERROR * kept + price * int4_bits
        as_int8 = energy - kept + price * (2 * int4_bits - 2 * _ENTRY_BITS)
        if min(as_int4, as_int8) < cost:
            worth.append(rank)
    return worth


def _dense_options(size: int, peak: float, energy: float) -> _Options:
    options = _Options()
    if peak == 0:
        return options
    # The errors are those of rounding: a step's square over 12 an element, or half a unit in the last place.
    options.add("int4", 4 * (size + size % 2) + _ENTRY_BITS, size * (peak / 7) ** 2 / 12)
    options.add("int8", 8 * size + _ENTRY_BITS, size * (peak / 127) ** 2 / 12)
    if peak < _FLOAT16_MAX:
        options.add("float16", 16 * size + _ENTRY_BITS, energy * 2.0**-24 / 3 + size * 2.0**-50 / 12)
    options.add("float32", 32 * size + _ENTRY_BITS, 0.0)
    return options
