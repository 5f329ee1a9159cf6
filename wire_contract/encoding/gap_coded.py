"""Levels of several consecutive tensors in one run of bits, close to their entropy.

    ["g", span, data]       `span` ≥ 1 tensors of the layout

An element's value is scale · q, rounded to float32: q an integer of magnitude at most 127, the scale its tensor's
(`scales.py`). q = 0 for most elements; the rest are told in layers. Layer 1 of a tensor are its elements with |q| ≥ 1,
layer j + 1 those of layer j with |q| ≥ j + 1: each is a subset of the one before it. `data` is, in bits, most
significant first, filled up to a whole byte with zeros:

    heads      scale and layer sizes of each tensor (`heads.py`)
    signs      of layer 1 of each tensor, one bit an element in order: 1 is negative
    subsets    (`subsets.py`) layer 1 of each tensor as a subset of its elements, then layer 2 of each as a subset of
               its layer 1, and so on; tensors that have no such layer are left out

So an entry of zeros is one bit a tensor. Refused: heads, signs or gaps that run past the end, a layer larger than the
one before it, a scale outside its table, a place outside its set, and surplus bytes or a bit set in the filling: every
entry of levels has exactly one form.
"""

from collections.abc import Iterator, Sequence
from itertools import accumulate, chain, zip_longest
from typing import Annotated

import msgspec
import numpy as np

from wire_contract.encoding.heads import LEVELS_MAX, Head, read_heads, write_heads
from wire_contract.encoding.scales import scales_of
from wire_contract.encoding.subsets import SET_MAX, Subsets, read_subsets, write_subsets
from wire_contract.errors import DecodeError, EncodeError
from wire_contract.layout import Vector
from wire_contract.limits import TENSORS_MAX

_SIGN_BIT = np.uint32(31)


class GapCoded(msgspec.Struct, frozen=True, array_like=True, tag="g", forbid_unknown_fields=True):
    """Several tensors as levels of a scale each; the further from zero, the rarer."""

    span: Annotated[int, msgspec.Meta(ge=1, le=TENSORS_MAX)]
    data: bytes

    def decode_into(self, out: Vector, sizes: Sequence[int]) -> None:
        """Fills `out` with the tensors of `sizes` elements, one after another."""
        assert len(sizes) == self.span
        heads, at = read_heads(self.data, sizes)
        tables = [sizes, *zip_longest(*[head.layers for head in heads], fillvalue=0)]  # (layer, tensor)
        if len(tables) == 1:
            if at + 8 <= 8 * len(self.data) or _bits(self.data, at, 8 * len(self.data)).any():
                raise DecodeError(f"gap-coded: {len(self.data)} bytes are more than tensors of zeros take")
            out.fill(0)
            return
        subsets = Subsets.of([*chain(*tables[:-1])], [*chain(*tables[1:])])
        starts = [start for sets in tables[:-1] for start in accumulate(sets[:-1], initial=0)]
        signs_end = at + sum(tables[1])
        places = read_subsets(subsets, starts, self.data, signs_end)
        members = _members(subsets, starts, len(sizes), places)
        values = scales_of([head.exponent for head in heads]).repeat(tables[1])
        if len(tables) > 2:  # noqa: PLR2004 — more than one layer
            values *= _magnitudes(members, tables)
        filled = next(members)
        # The sign bit of a float32 is its highest: far faster than a negation of some.
        signs = _bits(self.data, at, signs_end).astype(np.uint32)
        signs <<= _SIGN_BIT
        bits = values.view(np.uint32)
        bits ^= signs
        out.fill(0)
        out[filled] = values


def code_levels(levels: np.ndarray, exponents: Sequence[int], sizes: Sequence[int]) -> GapCoded:
    """The entry for `levels` (elements of all tensors,), integers of magnitude up to `LEVELS_MAX`.

    Args:
        levels: of tensors of `sizes` elements, one after another.
        exponents: (tensor,) of their scales; those of tensors of zeros are ignored.
        sizes: (tensor,)

    Raises:
        EncodeError: a tensor is too large.
    """
    if max(sizes, default=0) > SET_MAX:
        raise EncodeError(f"gap-coded: a tensor of {max(sizes)} elements is over the largest, {SET_MAX}")
    tables, members = _layers_of(levels, sizes)
    heads = [
        Head(exponent, tuple(count for count in column if count))
        for exponent, column in zip(exponents, zip(*tables, strict=True), strict=True)
    ]
    runs = [_bits_of_number(*write_heads(heads, sizes))]
    if members:
        runs.append(levels[members[0]] < 0)
        subsets = Subsets.of([*sizes, *chain(*tables[:-1])], [*chain(*tables)])
        runs.append(write_subsets(subsets, _gaps(subsets, members)))
    return GapCoded(len(sizes), np.packbits(np.concatenate(runs)).tobytes())


def _layers_of(levels: np.ndarray, sizes: Sequence[int]) -> tuple[list[list[int]], list[np.ndarray]]:
    """The sizes of the layers, (layer, tensor), and of each layer the (member,) places in what it is a subset of.

    There is one row at least, of zeros when there are no layers.
    """
    places = (levels != 0).nonzero()[0]
    magnitudes = np.abs(levels[places]).astype(np.int16)
    highest = int(magnitudes.max(initial=0))
    assert highest <= LEVELS_MAX
    stops = places.searchsorted([*accumulate(sizes)]).tolist()
    of_level = np.array(
        [
            np.bincount(magnitudes[start:stop], minlength=highest + 1)[:0:-1]
            for start, stop in zip([0, *stops], stops, strict=False)
        ]
    )  # (tensor, level), the highest first
    tables = of_level.cumsum(axis=1)[:, ::-1].T.tolist() or [[0] * len(sizes)]
    members = []
    while places.size:
        members.append(places)
        places = (magnitudes > len(members)).nonzero()[0]
        magnitudes = magnitudes[places]
    return tables, members


def _gaps(subsets: Subsets, members: Sequence[np.ndarray]) -> np.ndarray:
    """Gaps between the coded places of each set, (coded place,), of each layer's `members`."""
    tensors = len(subsets.sizes) // len(members)
    ends = list(accumulate(subsets.sizes))
    mask = np.zeros(ends[-1], dtype=np.bool_)
    for layer, places in enumerate(members):
        start = ends[layer * tensors - 1] if layer else 0
        mask[start : ends[layer * tensors + tensors - 1]][places] = True
    for size, end, inverted in zip(subsets.sizes, ends, subsets.inverted, strict=True):
        if inverted:
            mask[end - size : end] ^= True
    coded = mask.nonzero()[0]
    before = np.empty_like(coded)  # the place before it and one more, or where its set begins
    np.add(coded[:-1], 1, out=before[1:])
    firsts = np.array([*accumulate(subsets.coded, initial=0)][:-1])
    some = np.array(subsets.coded) > 0
    before[firsts[some]] = (np.array(ends) - subsets.sizes)[some]
    return coded - before


def _members(subsets: Subsets, starts: Sequence[int], tensors: int, places: np.ndarray) -> Iterator[np.ndarray]:
    """Of each layer of `tensors` subsets, the last one first, the (member,) places in the layer before it, joined.

    `starts` says where each set begins among the joined ones of its layer.
    """
    inverted = subsets.inverted
    stop = len(places)
    for first in range(len(starts) - tensors, -1, -tensors):
        layer = slice(first, first + tensors)
        start = stop - sum(subsets.coded[layer])
        coded, stop = places[start:stop], start
        if True not in inverted[layer]:
            yield coded
            continue
        mask = np.zeros(sum(subsets.sizes[layer]), dtype=np.bool_)
        mask[coded] = True
        for at in range(first, first + tensors):
            if inverted[at]:
                mask[starts[at] : starts[at] + subsets.sizes[at]] ^= True
        yield mask.nonzero()[0]


def _magnitudes(members: Iterator[np.ndarray], tables: Sequence[Sequence[int]]) -> np.ndarray:
    """(member,) float32 of the first layer's members, out of the `members` of all further layers, the last one first.

    A member of a layer is one more than it is in the next layer, or 1 when it is not among its members.
    """
    magnitudes = np.ones(sum(tables[-1]), dtype=np.float32)
    for outer in tables[-2:0:-1]:
        before = np.ones(sum(outer), dtype=np.float32)
        magnitudes += 1
        before[next(members)] = magnitudes
        magnitudes = before
    return magnitudes


def _bits(data: bytes, start: int, end: int) -> np.ndarray:
    """The bits from `start` up to `end`, (end - start,) uint8."""
    unpacked = np.unpackbits(np.frombuffer(data, dtype=np.uint8)[start >> 3 : end + 7 >> 3])
    return unpacked[start & 7 : (start & 7) + end - start]


def _bits_of_number(number: int, count: int) -> np.ndarray:
    """(count,) uint8, most significant first."""
    raw = (number << (-count & 7)).to_bytes(count + 7 >> 3)
    return np.unpackbits(np.frombuffer(raw, dtype=np.uint8))[:count]
