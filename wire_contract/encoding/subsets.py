"""Many subsets of many ordered sets as bits: Golomb codes of the gaps between their members.

A subset of k out of n is coded as its members' places 0 … n-1, or as those of its complement when k > n - k; κ is the
number of places that are coded, min(k, n - k). Place p after place p' makes the gap p - p' - 1 (the first one: p). With

    m = max(1, (177·n + 43·κ) div (256·κ))      the divisor, about ln 2 · n / κ: Golomb's optimum to within one
    c = floor(log2 m)                           u = 2^(c+1) - m

a gap g is the quotient g div m, in unary, and the remainder r = g mod m, in truncated binary: r when r < u, else r + u
with one bit more, whose low bit is written apart. n and k are known to the reader, so nothing says m or an end.

Three runs of bits stand one after another, each over all subsets in order and all of their coded places in order, most
significant bit of a byte first:

    fields     c bits each:  r when r < u, else (r + u) div 2
    extras     for each field ≥ u, one bit: (r + u) mod 2
    unary      quotient zeros, then a one
"""

from dataclasses import dataclass

import numpy as np

from wire_contract.errors import DecodeError

SET_MAX = 1 << 25
"""Fields of 25 bits are what a window of 32 holds wherever in its first byte a field starts."""


@dataclass(frozen=True, eq=False)
class Subsets:
    """The sizes of the sets and of their subsets, in the order of coding; all arrays are (subset,) int64."""

    sizes: np.ndarray
    counts: np.ndarray
    coded: np.ndarray
    """Places that are coded of each one."""
    divisor: np.ndarray
    """Beyond the size of a set of which nothing is coded."""
    field_bits: np.ndarray
    short: np.ndarray
    """Remainders below this one are written without an extra bit."""

    @classmethod
    def of(cls, sizes: np.ndarray, counts: np.ndarray) -> "Subsets":
        coded = np.minimum(counts, sizes - counts)
        divisor = np.maximum(1, (177 * sizes + 43 * coded) // np.maximum(1, 256 * coded))
        field_bits = np.frexp(divisor)[1].astype(np.int64) - 1
        return cls(sizes, counts, coded, divisor, field_bits, (2 << field_bits) - divisor)

    @property
    def inverted(self) -> np.ndarray:
        """(subset,) bool: the complement is coded."""
        return self.counts > self.coded

    @property
    def bits_max(self) -> int:
        """No coding of these subsets is longer."""
        return int((self.coded * (self.field_bits + 2) + (self.sizes - self.coded) // self.divisor).sum())


def write_subsets(subsets: Subsets, gaps: np.ndarray) -> np.ndarray:
    """The three runs as single bits, (bit,) uint8, of `gaps` (coded place,)."""
    divisor, field_bits, short = np.repeat(
        np.stack((subsets.divisor, subsets.field_bits, subsets.short)), subsets.coded, axis=1
    )
    quotient, remainder = np.divmod(gaps, divisor)
    long = remainder >= short
    remainder = remainder + np.where(long, short, 0)
    fields = _bits_of(remainder >> long, field_bits)
    extras = (remainder[long] & 1).astype(np.uint8)
    ends = np.cumsum(quotient + 1)
    unary = np.zeros(int(ends[-1]) if ends.size else 0, dtype=np.uint8)
    unary[ends - 1] = 1
    return np.concatenate((fields, extras, unary))


def read_subsets(subsets: Subsets, starts: np.ndarray, data: bytes, at: int) -> np.ndarray:
    """The coded places, each plus its set's start, (coded place,); their bits end with the last byte of `data`.

    Args:
        subsets: what is to be read.
        starts: (subset,) what is added to the places of each set.
        data: the bytes.
        at: the bit that the fields start at.

    Raises:
        DecodeError: the bits end too early or too late, or a place is outside its set.
    """
    places = int(subsets.coded.sum())
    fields_end = at + int((subsets.coded * subsets.field_bits).sum())
    if fields_end + places > 8 * len(data):
        raise DecodeError(f"gap-coded: {places} places need more than the {len(data)} bytes that are here")
    if 8 * len(data) >= at + subsets.bits_max + 8:
        raise DecodeError(f"gap-coded: {len(data)} bytes are more than what the heads tell can take")
    if subsets.sizes.max(initial=0) > SET_MAX:
        raise DecodeError(f"gap-coded: a set of {subsets.sizes.max()} is over the largest, {SET_MAX}")
    remainder = _fields(subsets, data, at)
    short = np.repeat(subsets.short.astype(np.int32), subsets.coded)
    bits = np.unpackbits(np.frombuffer(data, dtype=np.uint8)[fields_end >> 3 :])[fields_end & 7 :]
    long = np.flatnonzero(remainder >= short)
    if long.size > bits.size:
        raise DecodeError("gap-coded: the extra bits run past the end")
    remainder += np.maximum(remainder - short, 0)
    remainder[long] += bits[: long.size]
    unary = bits[long.size :]
    ends = np.flatnonzero(unary.view(np.bool_))
    if ends.size != places or unary.size - (int(ends[-1]) + 1 if places else 0) >= 8:  # noqa: PLR2004 — bits of a byte
        raise DecodeError(f"gap-coded: {ends.size} ends of a gap in {unary.size} bits are not the {places} expected")
    return _places(subsets, starts, remainder, ends)


def _places(subsets: Subsets, starts: np.ndarray, remainder: np.ndarray, ends: np.ndarray) -> np.ndarray:
    """Running sums of quotient · divisor + remainder + 1 within each subset, less one.

    The sum of the quotients up to a place is the number of zeros before its end: no difference is ever taken.
    """
    zeros = np.empty(ends.size + 1, dtype=np.int64)
    zeros[0] = 0
    np.subtract(ends, np.arange(ends.size), out=zeros[1:])
    rest = np.empty_like(zeros)
    rest[0] = 0
    np.cumsum(remainder.astype(np.int64) + 1, out=rest[1:])
    last = np.cumsum(subsets.coded)
    first = last - subsets.coded
    before = zeros[first] * subsets.divisor + rest[first]
    if (zeros[last] * subsets.divisor + rest[last] - before > subsets.sizes).any():
        raise DecodeError("gap-coded: a place is outside its set")
    places = zeros[1:]
    places *= np.repeat(subsets.divisor, subsets.coded)
    places += rest[1:]
    places += np.repeat(starts - 1 - before, subsets.coded)
    return places


def _fields(subsets: Subsets, data: bytes, start: int) -> np.ndarray:
    """(coded place,) int32 fields, the first one from bit `start` on."""
    first = start >> 3
    # Big-endian words that begin at every byte: whatever bit a field starts at, one of them holds all of it.
    # (Copied to the machine's own order first, because taking from unaligned words is four times slower.)
    words = np.ndarray((len(data) - first + 1,), dtype=">u4", buffer=data + bytes(4), offset=first, strides=(1,))
    widths = np.repeat(subsets.field_bits, subsets.coded)
    unused = np.repeat((32 - subsets.field_bits).astype(np.uint32), subsets.coded)
    at = np.cumsum(widths)
    at -= widths
    at += start & 7
    fields: np.ndarray = words.astype(np.uint32)[at >> 3]
    fields <<= (at & 7).astype(np.uint32)
    fields >>= unused
    return fields.view(np.int32)


def _bits_of(numbers: np.ndarray, widths: np.ndarray) -> np.ndarray:
    """`numbers` (n,) in `widths` (n,) bits each, one after another, most significant first."""
    ends = np.cumsum(widths)
    shift = np.repeat(ends, widths) - np.arange(1, int(ends[-1]) + 1 if ends.size else 1)
    bits: np.ndarray = (np.repeat(numbers, widths) >> shift & 1).astype(np.uint8)
    return bits
