"""Operating points of all tensors at one price per bit (the Lagrange multiplier λ of rate-distortion optimisation), and
the search for the price that gives a target size or error.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace

import numpy as np

from wire_contract.compression.quantiser import Quantisers, combine

# Chosen; no measurement of them is recorded. Poor values cost attempts or a slightly worse price, never a wrong result.
_STEPS = 24
"""Prices that are tried, at most."""

_STEP_MAX = 2.0
"""Largest step of the search, in octaves of the price."""

_SLOPE_FACTOR = 6.0
"""The estimate of the slope is divided by this at most, from one price to the next."""


@dataclass(frozen=True, eq=False)
class OperatingPoint:
    """How every tensor is encoded at one price, with the expected size and error."""

    price: float
    """Price per bit for which the thresholds were computed."""
    chosen_at: float
    """Price per bit for which scales and options were chosen."""
    levels: Quantisers
    option: np.ndarray
    """(tensor,) index of the dense or low-rank option that the tensor uses; -1: levels, or nothing."""
    zero: np.ndarray
    """(tensor,) bool: the tensor is sent as zeros."""
    fixed_bits: np.ndarray
    """(tensor,) bits of tensors without levels; 0 for the others."""
    fixed_distortion: np.ndarray
    by_levels: np.ndarray = field(init=False)
    """(tensor,) bool: the tensor is sent as levels."""
    bits: float = field(init=False)
    """Expected bits of all tensors."""
    distortion: float = field(init=False)
    """Expected squared error of all tensors."""

    def __post_init__(self) -> None:
        by_levels = ~self.zero & (self.option < 0)
        bits = self.fixed_bits.sum() + self.levels.bits[by_levels].sum()
        distortion = self.fixed_distortion.sum() + self.levels.distortion[by_levels].sum()
        for name, value in (("by_levels", by_levels), ("bits", float(bits)), ("distortion", float(distortion))):
            object.__setattr__(self, name, value)

    @property
    def tensor_bits(self) -> np.ndarray:
        return np.where(self.by_levels, self.levels.bits, self.fixed_bits)

    @property
    def tensor_distortion(self) -> np.ndarray:
        return np.where(self.by_levels, self.levels.distortion, self.fixed_distortion)


def mix(within: OperatingPoint, over: OperatingPoint, bits: float) -> OperatingPoint:
    """Combines two points within `bits`: tensors that gain most per bit are as in `over`, the others as in `within`."""
    more = over.tensor_bits - within.tensor_bits
    gain = within.tensor_distortion - over.tensor_distortion
    left = bits - within.bits
    chosen = more <= 0
    left -= float(more[chosen].sum())
    for tensor in np.argsort(-gain / np.where(chosen, 1.0, more), kind="stable").tolist():
        if not chosen[tensor] and more[tensor] <= left:
            chosen[tensor] = True
            left -= float(more[tensor])
    return replace(
        within,
        levels=combine(within.levels, over.levels, chosen),
        option=np.where(chosen, over.option, within.option),
        zero=np.where(chosen, over.zero, within.zero),
        fixed_bits=np.where(chosen, over.fixed_bits, within.fixed_bits),
        fixed_distortion=np.where(chosen, over.fixed_distortion, within.fixed_distortion),
    )


def find_price(
    point_at: Callable[[float], OperatingPoint],
    excess: Callable[[OperatingPoint], float],
    price: float,
    bounds: tuple[float, float],
    *,
    near: tuple[float, float],
    narrow: float,
    slope: float = 1.0,
    rising: bool = False,
) -> list[OperatingPoint]:
    """Searches for the price at which the `excess` of its point is 0, by bracketing and regula falsi ("Illinois").

    The excess falls with the price, or rises if `rising`. Price and excess are logarithmic (in octaves), as both cover
    many orders of magnitude. The excess may jump, where a tensor changes from nothing to something.

    Args:
        point_at: returns the point of a price.
        excess: of a point, in octaves.
        price: to begin with.
        bounds: lowest and highest price.
        near: how far below and above 0 the excess may be.
        narrow: width of the bracket, in octaves of price, at which the search stops.
        slope: estimate of the slope of the excess, used until there are points on both sides.
        rising: see above.

    Returns:
        One point whose excess is near 0; or else the last points on both sides, the one below 0 first.
    """
    sign = -1.0 if rising else 1.0
    lowest, highest = math.log2(bounds[0]), math.log2(bounds[1])
    price = min(max(price, bounds[0]), bounds[1])
    at = sign * math.log2(price)
    within: tuple[float, float, OperatingPoint] | None = None
    over: tuple[float, float, OperatingPoint] | None = None
    weight = 1.0
    aim = (near[1] - near[0]) / 2
    before: tuple[float, float, OperatingPoint] | None = None
    for _ in range(_STEPS):
        point = point_at(price)
        found = (at, excess(point), point)
        if -near[0] < found[1] <= near[1]:
            return [point]
        if found[1] <= 0:
            within = found
        else:
            over = found
        if within is None or over is None:
            if not lowest <= sign * at <= highest:
                break
            if before is not None:
                slope = max((before[1] - found[1]) / (found[0] - before[0]), slope / _SLOPE_FACTOR)
            at += min(max((found[1] - aim) / slope, -_STEP_MAX), _STEP_MAX)
            before = found
        elif within[0] - over[0] < narrow:
            break
        else:
            if before is not None and (before[1] <= 0) == (found[1] <= 0):  # the same side twice ("Illinois")
                weight /= 2
            else:
                weight = 1.0
            before = found
            over_weight, within_weight = (1.0, weight) if found[1] > 0 else (weight, 1.0)
            more, less = (over[1] - aim) * over_weight, (aim - within[1]) * within_weight
            share = min(max(more / (more + less), 0.1), 0.9)
            at = over[0] + share * (within[0] - over[0])
        price = 2.0 ** (sign * at)
    return [end[2] for end in (within, over) if end is not None]
