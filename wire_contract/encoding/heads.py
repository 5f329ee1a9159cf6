"""The head of a gap-coded entry: of each tensor its scale and the sizes of its layers, as bits.

Per tensor of n elements, in order, most significant bit first:

    1 bit     0: the tensor is all zeros, and nothing more of it follows; 1: it is not
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
"""Largest magnitude of a level."""

_EXPONENT_BITS = 11
_WINDOW_BYTES = 64
_STEP_ZEROS_MAX = 11
"""No difference of two exponents needs more."""


class Head(NamedTuple):
    """What precedes one tensor's symbols."""

    exponent: int = 0
    layers: tuple[int, ...] = ()
    """Elements whose level is at least 1, at least 2, …; empty for a tensor of zeros, none of them 0."""


def write_heads(heads: Sequence[Head], sizes: Sequence[int]) -> tuple[int, int]:
    """The bits of `heads` as one number, and how many they are."""
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


def read_heads(data: bytes, sizes: Sequence[int]) -> tuple[list[Head], int]:
    """The heads of tensors of `sizes` elements at the start of `data`, and how many bits they take.

    Raises:
        DecodeError: they run past the end, or a number in them is outside its bounds.
    """
    reader = _BitReader(data)
    heads = []
    previous: int | None = None
    for size in sizes:
        if not reader.take(1):
            heads.append(Head())
            continue
        previous = _read_exponent(reader, previous)
        heads.append(Head(previous, _read_layers(reader, size)))
    return heads, reader.at


def _read_exponent(reader: "_BitReader", previous: int | None) -> int:
    if previous is None:
        exponent = reader.take(_EXPONENT_BITS) + EXPONENT_MIN
    else:
        zeros = 0
        while not reader.take(1):
            zeros += 1
            if zeros > _STEP_ZEROS_MAX:
                raise DecodeError("gap-coded: a scale differs by more than any two scales do")
        step = (2 << zeros | reader.take(zeros + 1)) - 2
        exponent = previous + (-(step + 1 >> 1) if step & 1 else step >> 1)
    if not EXPONENT_MIN <= exponent <= EXPONENT_MAX:
        raise DecodeError(f"gap-coded: scale exponent {exponent} is not within {EXPONENT_MIN} and {EXPONENT_MAX}")
    return exponent


def _read_layers(reader: "_BitReader", size: int) -> tuple[int, ...]:
    inner = reader.take((size - 1).bit_length()) + 1
    outer = size
    layers = []
    while inner:
        if inner > outer:
            raise DecodeError(f"gap-coded: a layer of {inner} out of {outer} elements")
        layers.append(inner)
        if len(layers) == LEVELS_MAX:
            break
        outer, inner = inner, reader.take(inner.bit_length())
    return tuple(layers)


class _BitReader:
    """Takes fields of a few bits, most significant first."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._bits = 8 * len(data)
        self._window, self._window_end = 0, 0
        self.at = 0
        """Bits taken so far."""

    def take(self, count: int) -> int:
        at = self.at = self.at + count
        if at > self._window_end:
            if at > self._bits:
                raise DecodeError(f"gap-coded: the heads run past the end of {len(self._data)} bytes")
            # Shifts of a number of some hundred bits cost no more than those of a small one.
            first = (at - count) >> 3
            chunk = self._data[first : first + _WINDOW_BYTES]
            self._window, self._window_end = int.from_bytes(chunk), 8 * (first + len(chunk))
        return self._window >> (self._window_end - at) & (1 << count) - 1
