"""Gap-coded entries read one bit after another, as docs/wire-format.md tells it: no numpy, nothing of the library.

It is slow and short, so that the document, this and the library can only be wrong together on purpose.
"""

import math
import struct
from collections.abc import Sequence
from dataclasses import dataclass, field

OCTAVE = (0x3F800000, 0x3F8B95C2, 0x3F9837F0, 0x3FA5FED7, 0x3FB504F3, 0x3FC5672A, 0x3FD744FD, 0x3FEAC0C7)


class Refused(Exception):
    """These bits are no entry."""


class Bits:
    """A place in the data that moves on as bits are taken."""

    def __init__(self, data: bytes, at: int = 0) -> None:
        self.data = data
        self.at = at

    def take(self, count: int) -> int:
        value = 0
        for _ in range(count):
            if self.at >= 8 * len(self.data):
                raise Refused("the bits have come to their end")
            value = value << 1 | self.data[self.at // 8] >> (7 - self.at % 8) & 1
            self.at += 1
        return value


@dataclass(frozen=True)
class Golomb:
    """The code of a subset of `k` out of `n`."""

    n: int
    k: int

    @property
    def coded(self) -> int:
        return min(self.k, self.n - self.k)

    @property
    def divisor(self) -> int:
        return max(1, (177 * self.n + 43 * self.coded) // (256 * self.coded)) if self.coded else 1

    @property
    def field_bits(self) -> int:
        return self.divisor.bit_length() - 1

    @property
    def short(self) -> int:
        return (2 << self.field_bits) - self.divisor


@dataclass
class Tensor:
    """What has been read of one tensor so far."""

    size: int
    exponent: int = 0
    layers: list[int] = field(default_factory=list)
    levels: list[int] = field(default_factory=list)


@dataclass(frozen=True)
class Entry:
    """All that the bits say, and where the runs begin."""

    tensors: Sequence[Tensor]
    subsets: Sequence[Golomb]
    signs_at: int
    fields_at: int
    extras_at: int
    unary_at: int

    @property
    def levels(self) -> list[int]:
        return [level for tensor in self.tensors for level in tensor.levels]

    @property
    def float32(self) -> bytes:
        """The elements, little endian."""
        return b"".join(
            struct.pack("<f", level * scale(tensor.exponent)) for tensor in self.tensors for level in tensor.levels
        )


def scale(exponent: int) -> float:
    """Exactly a float32; times a level of 7 bits it is exact as a double, so that `struct` rounds once."""
    (octave,) = struct.unpack("<f", struct.pack("<I", OCTAVE[exponent & 7]))
    return math.ldexp(octave, exponent >> 3)


def read(data: bytes, sizes: Sequence[int]) -> Entry:
    """The entry in `data` for tensors of `sizes` elements.

    Raises:
        Refused: there is none.
    """
    bits = Bits(data)
    tensors = _heads(bits, sizes)
    signs_at = bits.at
    fields_at = signs_at + sum(tensor.layers[0] for tensor in tensors if tensor.layers)
    steps = [
        (tensor, layer, Golomb(outer, tensor.layers[layer - 1]))
        for layer in range(1, 128)
        for tensor in tensors
        if len(tensor.layers) >= layer
        for outer in [([tensor.size, *tensor.layers])[layer - 1]]
    ]
    extras_at, unary_at = _runs(data, fields_at, [code for _, _, code in steps])
    fields, extras, unary = Bits(data, fields_at), Bits(data, extras_at), Bits(data, unary_at)
    for tensor in tensors:
        tensor.levels = [0] * tensor.size
    for tensor, layer, code in steps:
        _subset(tensor, layer, code, (fields, extras, unary))
    if (unary.at + 7) // 8 != len(data) or unary.take(-unary.at % 8):
        raise Refused("the last place is not followed by zeros up to the end of its byte")
    signs = Bits(data, signs_at)
    for tensor in tensors:
        tensor.levels = [-level if level and signs.take(1) else level for level in tensor.levels]
    return Entry(tensors, [code for _, _, code in steps], signs_at, fields_at, extras_at, unary_at)


def _heads(bits: Bits, sizes: Sequence[int]) -> list[Tensor]:
    tensors = []
    previous: int | None = None
    for size in sizes:
        tensor = Tensor(size)
        tensors.append(tensor)
        if not bits.take(1):
            continue
        if previous is None:
            tensor.exponent = bits.take(11) - 1008
        else:
            zeros = 0
            while not bits.take(1):
                zeros += 1
            step = (1 << (zeros + 1) | bits.take(zeros + 1)) - 2
            tensor.exponent = previous + (-(step + 1) // 2 if step % 2 else step // 2)
        if not -1008 <= tensor.exponent <= 968:
            raise Refused("a scale is outside the table")
        previous = tensor.exponent
        outer, inner = size, 1 + bits.take((size - 1).bit_length())
        while inner:
            if inner > outer:
                raise Refused("a layer is larger than the one before it")
            tensor.layers.append(inner)
            if len(tensor.layers) == 127:
                break
            outer, inner = inner, bits.take(inner.bit_length())
    return tensors


def _runs(data: bytes, fields_at: int, codes: Sequence[Golomb]) -> tuple[int, int]:
    """Where the extras and the unary run begin: each field that is long has one extra bit."""
    fields = Bits(data, fields_at)
    extras = 0
    for code in codes:
        for _ in range(code.coded):
            extras += fields.take(code.field_bits) >= code.short
    return fields.at, fields.at + extras


def _subset(tensor: Tensor, layer: int, code: Golomb, runs: tuple[Bits, Bits, Bits]) -> None:
    """Raises the members of one layer, which are found among those of the layer before it, to its level."""
    fields, extras, unary = runs
    places = set()
    place = -1
    for _ in range(code.coded):
        remainder = fields.take(code.field_bits)
        if remainder >= code.short:
            remainder = 2 * remainder + extras.take(1) - code.short
        quotient = 0
        while not unary.take(1):
            quotient += 1
        place += quotient * code.divisor + remainder + 1
        if place >= code.n:
            raise Refused("a place is outside its set")
        places.add(place)
    at = 0
    for element, level in enumerate(tensor.levels):
        if level == layer - 1:
            if (at in places) != (code.k > code.coded):
                tensor.levels[element] = layer
            at += 1
