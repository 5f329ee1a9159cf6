"""Subsets of ordered sets as bits: Golomb codes of the gaps between their members.

A subset of k out of n is coded as its members' places 0 … n-1, or as those of its complement when k > n - k; κ is the
number of places that are coded, min(k, n - k). Place p after place p' makes the gap p - p' - 1 (the first one: p). With

    m = max(1, (177·n + 43·κ) div (256·κ))      the divisor, about ln 2 · n / κ: Golomb's optimum to within one
    c = floor(log2 m)                           u = 2^(c+1) - m

a gap g is the quotient g div m, in unary, and the remainder r = g mod m, in truncated binary: r when r < u, else r + u
with one more bit, whose low bit is written separately. The reader knows n and k, so m and the end are not written.

Three runs of bits follow each other, each over all subsets in order and all of their coded places in order, with the
most significant bit of a byte first:

    fields     c bits each:  r when r < u, else (r + u) div 2
    extras     for each field ≥ u, one bit: (r + u) mod 2
    unary      quotient zeros, then a one
"""

from collections.abc import Sequence
from itertools import accumulate
from operator import mul
from typing import NamedTuple

import numpy as np

from wire_contract.errors import DecodeError

SET_MAX = 1 << 25
"""Largest set. A field then has at most 25 bits, which fit into a 32-bit word wherever in its first byte they start."""

_ZERO, _ONE = np.int32(0), np.int32(1)
_THREE, _SEVEN = np.int32(3), np.int32(7)
_WORD = 32
_WRAP = (1 << 32) - 1


class Subsets(NamedTuple):
    """Parameters of the codes of some subsets, in coding order; one number per subset.

    Plain numbers: for some ten of them, arrays are slower than a loop.
    """

    sizes: Sequence[int]
    """Sizes of the sets."""
    counts: Sequence[int]
    """Sizes of the subsets."""
    coded: Sequence[int]
    """Number of coded places: κ above."""
    divisor: Sequence[int]
    field_bits: Sequence[int]
    short: Sequence[int]
    """u above: smaller remainders are written without an extra bit."""

    @classmethod
    def of(cls, sizes: Sequence[int], counts: Sequence[int]) -> "Subsets":
        """Parameters for at least one subset."""
        coded = [count if 2 * count < size else size - count for size, count in zip(sizes, counts, strict=True)]
        divisor = [(177 * size + 43 * some) // (256 * some or 1) or 1 for size, some in zip(sizes, coded, strict=True)]
        field_bits = [number.bit_length() - 1 for number in divisor]
        short = [(2 << bits) - number for bits, number in zip(field_bits, divisor, strict=True)]
        return cls(sizes, counts, coded, divisor, field_bits, short)

    @property
    def inverted(self) -> list[bool]:
        """Whether the complement of the subset is coded, by subset."""
        return [count > coded for count, coded in zip(self.counts, self.coded, strict=True)]


def write_subsets(subsets: Subsets, gaps: np.ndarray) -> np.ndarray:
    """Codes `gaps` (coded place,) as the three runs, in single bits (bit,) uint8."""
    divisor, field_bits, short = np.array(subsets[3:], dtype=np.int32).repeat(subsets.coded, axis=1)
    quotient, remainder = np.divmod(gaps.astype(np.int32), divisor)
    long = remainder >= short
    remainder += short * long
    fields = _bits_of(remainder >> long, field_bits)
    extras = (remainder[long] & _ONE).astype(np.uint8)
    quotient += _ONE
    ends = quotient.cumsum()
    unary = np.zeros(int(ends[-1]) if ends.size else 0, dtype=np.uint8)
    unary[ends - 1] = 1
    return np.concatenate((fields, extras, unary))


def read_subsets(subsets: Subsets, starts: Sequence[int], data: bytes, at: int) -> np.ndarray:
    """Decodes the coded places, each with the start of its set added, (coded place,) int64.

    Args:
        subsets: to decode.
        starts: added to the places of each set; no place is over 2³¹ - 1 then.
        data: the bytes, of which the last contains the last bit of the codes.
        at: the bit where the fields start.

    Raises:
        DecodeError: the bits end too early or too late, or a place is outside its set.
    """
    places = sum(subsets.coded)
    fields_end = at + sum(map(mul, subsets.coded, subsets.field_bits))
    if fields_end + places > 8 * len(data):
        raise DecodeError(f"gap-coded: {places} places need more than the {len(data)} bytes that are here")
    # The quotients of κ places sum up to (n - κ) div m < 2κ, and each place has a one and at most one extra bit.
    if 8 * len(data) >= fields_end + 4 * places + 8:
        raise DecodeError(f"gap-coded: {len(data)} bytes are more than what the heads tell can take")
    if max(subsets.sizes) > SET_MAX:
        raise DecodeError(f"gap-coded: a set of {max(subsets.sizes)} is over the largest, {SET_MAX}")
    # One column more than there are places: the cumulative sum of the widths before a field is where it begins, and the
    # first field begins within its byte.
    below = [number - 1 for number in subsets.divisor]
    rest = [_WORD - bits for bits in subsets.field_bits]
    columns = ((at & 7, *subsets.field_bits), (0, *rest), (0, *subsets.short), (0, *below))
    table = np.array(columns, dtype=np.int32).repeat((1, *subsets.coded), axis=1)
    short, less = table[2, 1:], table[3, 1:]
    sums = _fields(table[0, :-1], table[1, 1:], data[at >> 3 : (fields_end >> 3) + 1])
    # The remainder minus (divisor - 1). The remainder of a short field is the field, else 2 · field - short + extra.
    above = sums - short
    long = (above >= _ZERO).nonzero()[0]
    bits = np.unpackbits(np.frombuffer(data, dtype=np.uint8, offset=fields_end >> 3))[fields_end & 7 :]
    if long.size > bits.size:
        raise DecodeError("gap-coded: the extra bits run past the end")
    sums -= less
    above += sums
    np.maximum(sums, above, out=sums)
    above.fill(0)  # the extra bits at their places: faster than adding them where they are needed
    above[long] = bits[: long.size].astype(np.int32)
    sums += above
    unary = bits[long.size :]
    del above, long  # frees memory
    ones = unary.view(np.bool_).nonzero()[0]
    if ones.size != places or unary.size - (int(ones[-1]) + 1 if places else 0) >= 8:  # noqa: PLR2004 — bits of a byte
        raise DecodeError(f"gap-coded: {ones.size} ends of a gap in {unary.size} bits are not the {places} expected")
    return _places(subsets, starts, less, sums, ones) if places else ones


def _places(
    subsets: Subsets, starts: Sequence[int], less: np.ndarray, sums: np.ndarray, ones: np.ndarray
) -> np.ndarray:
    """Cumulative sums of quotient · divisor + remainder + 1 within each subset, minus one, plus the start of its set.

    The sum of the quotients up to a place is the distance of its one bit from where the subset's unary codes begin,
    minus the number of places up to there. So place = one · divisor + sum of (remainder + 1 - divisor) + a constant of
    the subset, and that sum may begin before the subset.

    Arrays are int32, which is twice as fast, and may wrap around: the last place of each subset, its largest, is
    compared with the size of its set in Python's integers, and if it is within, no place is over 2³¹.

    Args:
        subsets: that are decoded.
        starts: of their sets.
        less: (coded place,) int32, divisor - 1
        sums: (coded place,) int32, remainder + 1 - divisor; overwritten.
        ones: (coded place,) int64, the index of its one bit in the unary run; becomes the places.
    """
    np.cumsum(sums, dtype=np.int32, out=sums)
    last = np.array([*accumulate(subsets.coded, initial=-1)][1:])
    last_ones, last_sums = ones[last].tolist(), sums[last].tolist()
    shifts = []
    begin = before = 0
    for some, step, start, size, one, total in zip(
        subsets.coded, subsets.divisor, starts, subsets.sizes, last_ones, last_sums, strict=True
    ):
        shift = start - 1 + step * (1 - begin) - before
        if some:
            # The sum of one subset is between -size and 0, so the difference of two wrapped sums is unambiguous.
            if (one + 1 - begin) * step - ((before - total) & _WRAP) > size:
                raise DecodeError("gap-coded: a place is outside its set")
            begin, before = one + 1, total
        shifts.append(shift & _WRAP)
    one_of_place = ones.astype(np.int32)
    sums += one_of_place
    one_of_place *= less
    sums += one_of_place
    sums += np.array(shifts, dtype=np.uint32).view(np.int32).repeat(subsets.coded)
    ones[...] = sums
    return ones


def _fields(steps: np.ndarray, rest: np.ndarray, data: bytes) -> np.ndarray:
    """(field,) int32 fields of `data`; each begins `steps` bits after the one before, and has 32 - `rest` bits."""
    # Big-endian words that begin at every byte: whatever bit a field starts at, one of them contains all of it.
    # (Converted to the machine's byte order first, because gathering unaligned words is four times slower.)
    words = np.ndarray((len(data) + 1,), dtype=">u4", buffer=data + bytes(4), strides=(1,)).astype(np.uint32)
    at = steps.cumsum(dtype=np.int32)
    fields: np.ndarray = words.take(at >> _THREE, mode="wrap")  # all indices are in range; this mode checks least
    at &= _SEVEN
    fields <<= at.view(np.uint32)
    fields >>= rest.view(np.uint32)
    return fields.view(np.int32)


def _bits_of(numbers: np.ndarray, widths: np.ndarray) -> np.ndarray:
    """The bits of int32 `numbers` (n,), each in `widths` (n,) bits, one after another, most significant first."""
    ends = widths.cumsum(dtype=np.int32)
    shift = ends.repeat(widths)
    shift -= np.arange(1, shift.size + 1, dtype=np.int32)
    bits = numbers.repeat(widths)
    bits >>= shift
    bits &= _ONE
    return bits.astype(np.uint8)
