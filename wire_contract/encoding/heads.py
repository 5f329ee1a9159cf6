"""The head of a gap-coded entry: scale and sizes of layers of each tensor, as bits.

Per tensor of n elements, in order, most significant bit first:

    1 bit     0: the tensor is all zeros, and nothing else of it follows; 1: it is not
    scale     the first tensor that is not zero: e + 1008 in 11 bits;
              every further one: the difference d to the e before it, as Exp-Golomb code of order 1:
              v = 2 + (2·d when d ≥ 0, else -2·d - 1); (bits of v) - 2 zeros, then v
    k1        k1 - 1 in as many bits as n - 1 has
    k2, …     each in as many bits as the k before it has, ending with a 0, or with the 127th, which no 0 follows

("as many bits as x has": floor(log2 x) + 1, none for 0.)
"""

from collections.abc import Sequence
from typing import NamedTuple

from wire_contract.encoding.scales import EXPONENT_MAX, EXPONENT_MIN
from wire_contract.errors import DecodeError

LEVELS_MAX = 127
"""Largest magnitude of a level; as in int8."""

_EXPONENT_BITS = 11
"""For the 1,977 exponents from `EXPONENT_MIN` to `EXPONENT_MAX`."""
_WINDOW_BYTES = 64
"""Read at a time, as one integer. Chosen, not measured: many heads fit, and shifting it stays cheap."""
_STEP_ZEROS_MAX = 11
"""Enough for the largest difference of two exponents."""

_EXPONENT_BITS_MAX = 2 * _STEP_ZEROS_MAX + 2
_EXPONENT_MASK = (1 << _EXPONENT_BITS_MAX) - 1
_TO_LAYERS_BITS = 1 + _EXPONENT_BITS_MAX
"""Bits before k1, at most."""


class TensorHead(NamedTuple):
    """Scale and sizes of layers of one tensor."""

    exponent: int = 0
    layers: tuple[int, ...] = ()
    """Number of elements whose level is at least 1, at least 2, and so on, none of them 0; empty for a tensor of
    zeros."""


_ZEROS = TensorHead()


def write_heads(heads: Sequence[TensorHead], sizes: Sequence[int]) -> tuple[int, int]:
    """The bits of `heads` as one number, and their count."""
    bits, count = 0, 0
    previous: int | None = None
    for head, size in zip(heads, sizes, strict=True):
        fields = [(1 if head.layers else 0, 1)]
        if head.layers:
            fields.append(_exponent_field(head.exponent, previous))
            fields.append((head.layers[0] - 1, (size - 1).bit_length()))
            closing = (0,) if len(head.layers) < LEVELS_MAX else ()
            fields.extend(
                (inner, outer.bit_length())
                for outer, inner in zip(head.layers, (*head.layers[1:], *closing), strict=False)
            )
            previous = head.exponent
        for value, width in fields:
            bits = bits << width | value
            count += width
    return bits, count


def _exponent_field(exponent: int, previous: int | None) -> tuple[int, int]:
    if previous is None:
        return exponent - EXPONENT_MIN, _EXPONENT_BITS
    difference = exponent - previous
    step = 2 + (2 * difference if difference >= 0 else -2 * difference - 1)
    return step, 2 * step.bit_length() - 2


def read_heads(data: bytes, sizes: Sequence[int]) -> tuple[list[TensorHead], int]:
    """Reads the heads of tensors of `sizes` elements at the start of `data`; returns them and their number of bits.

    Raises:
        DecodeError: they run past the end, or a number is out of range.
    """
    # All numbers but the exponent are extracted here from a window of some hundred bits: a function call for each would
    # double the time.
    heads = []
    exponent: int | None = None
    at = window = end = 0
    for size in sizes:
        width = (size - 1).bit_length()
        if end < at + _TO_LAYERS_BITS + width:
            window, end = _window(data, at)
        at += 1
        if not window >> (end - at) & 1:
            heads.append(_ZEROS)
            continue
        exponent, length = _exponent(window >> (end - at - _EXPONENT_BITS_MAX) & _EXPONENT_MASK, exponent)
        at += length
        at += width
        outer, inner = size, (window >> (end - at) & (1 << width) - 1) + 1
        layers = []
        for _ in range(LEVELS_MAX):
            if inner > outer:
                raise DecodeError(f"gap-coded: a layer of {inner} out of {outer} elements")
            layers.append(inner)
            width = inner.bit_length()
            at += width
            if end < at:
                window, end = _window(data, at - width)
            outer, inner = inner, window >> (end - at) & (1 << width) - 1
            if not inner:
                break
        if len(layers) == LEVELS_MAX:
            at -= width  # nothing follows the 127th
        heads.append(TensorHead(exponent, tuple(layers)))
    if at > 8 * len(data):
        raise DecodeError(f"gap-coded: the heads run past the end of {len(data)} bytes")
    return heads, at


def _window(data: bytes, at: int) -> tuple[int, int]:
    """The bits of some bytes from that of bit `at` on, as one number, and where they end; zeros follow `data`."""
    first = at >> 3
    chunk = data[first : first + _WINDOW_BYTES]
    return int.from_bytes(chunk) << 8 * (_WINDOW_BYTES - len(chunk)), 8 * (first + _WINDOW_BYTES)


def _exponent(ahead: int, previous: int | None) -> tuple[int, int]:
    """The exponent at the beginning of `_EXPONENT_BITS_MAX` bits, and how many bits it takes."""
    if previous is None:
        length = _EXPONENT_BITS
        exponent = (ahead >> _EXPONENT_BITS_MAX - length) + EXPONENT_MIN
    else:
        length = 2 * (_EXPONENT_BITS_MAX - ahead.bit_length()) + 2
        if length > _EXPONENT_BITS_MAX:
            raise DecodeError("gap-coded: a scale differs by more than any two scales do")
        step = (ahead >> _EXPONENT_BITS_MAX - length) - 2
        exponent = previous + (-(step + 1 >> 1) if step & 1 else step >> 1)
    if not EXPONENT_MIN <= exponent <= EXPONENT_MAX:
        raise DecodeError(f"gap-coded: scale exponent {exponent} is not within {EXPONENT_MIN} and {EXPONENT_MAX}")
    return exponent, length
