"""Scales of levels: eight per octave, with the same bits on every machine.

    scale(e) = M[e mod 8] · 2^(e div 8)      mod and div towards minus infinity; e in [-1008, 968]

M are the float32 values nearest to 2^(i/8). Within the range of e, every scale is a normal float32 (at least 2⁻¹²⁶),
the multiplication by a power of two is exact, and 127 times the largest scale is finite. pow() is not used, as its last
bit differs between machines.
"""

import math
from collections.abc import Sequence

import numpy as np

EXPONENT_MIN = -1008
"""8 · -126: the smallest normal float32."""
EXPONENT_MAX = 968
"""8 · 121: 127 times the next scale, 2^(969/8), would exceed float32."""

STEPS_PER_OCTAVE = 8
"""Neighbouring scales differ by 9 %, so the nearest is at most 4.4 % off. More would lengthen heads for little."""
_OCTAVE_BITS = (0x3F800000, 0x3F8B95C2, 0x3F9837F0, 0x3FA5FED7, 0x3FB504F3, 0x3FC5672A, 0x3FD744FD, 0x3FEAC0C7)
OCTAVE = np.array(_OCTAVE_BITS, dtype=np.uint32).view(np.float32)


_OCTAVE_FLOATS: list[float] = OCTAVE.tolist()


def scales_of(exponents: Sequence[int]) -> np.ndarray:
    """(exponent,) float32 scales of `exponents`, which are in range."""
    # One by one: for some ten exponents, four calls of numpy take longer. A double represents each scale exactly.
    return np.array([math.ldexp(_OCTAVE_FLOATS[exponent & 7], exponent >> 3) for exponent in exponents], np.float32)


def nearest_exponent(scale: float) -> int:
    """The exponent whose scale is closest to `scale` > 0 in ratio, within the range."""
    nearest = round(math.log2(scale) * STEPS_PER_OCTAVE)
    return min(max(nearest, EXPONENT_MIN), EXPONENT_MAX)
