"""Gap coding: levels of several consecutive tensors as a bit string, close to their entropy.

    ["g", span, data]       `span` ≥ 1 tensors of the layout

An element's value is scale · q, rounded to float32: q an integer of magnitude at most 127, the scale its tensor's
(`scales.py`). q = 0 for most elements; the others are coded in layers. Layer 1 of a tensor has its elements with |q| ≥
1, layer j + 1 those of layer j with |q| ≥ j + 1: each is a subset of the layer before. `data` is a string of bits, most
significant first, padded with zeros to a whole byte:

    heads      scale and layer sizes of each tensor (`heads.py`)
    signs      of layer 1 of each tensor, one bit an element in order: 1 is negative
    subsets    (`subsets.py`) layer 1 of each tensor as a subset of its elements, then layer 2 of each as a subset of
               its layer 1, and so on; tensors that have no such layer are left out

So an entry of zeros takes one bit per tensor. Refused: heads, signs or gaps that run past the end, a layer larger than
the one before it, a scale outside its table, a place outside its set, surplus bytes, and padding that is not zero.
Every entry of levels has exactly one form.
"""

from collections.abc import Sequence
from itertools import accumulate, chain
from typing import Annotated

import msgspec
import numpy as np

from wire_contract.encoding.heads import LEVELS_MAX, TensorHead, read_heads, write_heads
from wire_contract.encoding.layers import NestedSubsets
from wire_contract.encoding.scales import scales_of
from wire_contract.encoding.subsets import SET_MAX, Subsets, read_subsets, write_subsets
from wire_contract.errors import DecodeError, EncodeError
from wire_contract.layout import Vector
from wire_contract.limits import TENSORS_MAX

_SIGN_BIT = np.uint32(31)

_ELEMENTS_MAX = (1 << 31) - 1
"""Places are 32-bit numbers; far above `limits.elements`."""


class GapCoded(msgspec.Struct, frozen=True, array_like=True, tag="g", forbid_unknown_fields=True):
    """Several tensors as levels, with one scale per tensor; small for levels that are rarer the further from zero."""

    span: Annotated[int, msgspec.Meta(ge=1, le=TENSORS_MAX)]
    data: bytes

    def decode_into(self, out: Vector, sizes: Sequence[int]) -> None:
        """Decodes tensors of `sizes` elements into `out`, one after another."""
        assert len(sizes) == self.span
        heads, at = read_heads(self.data, sizes)
        signs_end = at + sum(head.layers[0] for head in heads if head.layers)
        if signs_end == at:
            if at + 8 <= 8 * len(self.data) or _bits(self.data, at, 8 * len(self.data)).any():
                raise DecodeError(f"gap-coded: {len(self.data)} bytes are more than tensors of zeros take")
            out.fill(0)
            return
        if out.size > _ELEMENTS_MAX:
            raise DecodeError(f"gap-coded: {out.size} elements are over the largest number, {_ELEMENTS_MAX}")
        links = NestedSubsets(heads, sizes)
        members, levels = links.elements_and_levels(read_subsets(links.subsets, links.offsets, self.data, signs_end))
        scales, counts = zip(*[(head.exponent, head.layers[0]) for head in heads if head.layers], strict=True)
        values = scales_of(scales).repeat(counts)
        if levels is not None:
            values *= levels
        # Setting the highest bit, the sign of a float32, is much faster than negating some elements.
        signs = _bits(self.data, at, signs_end).astype(np.uint32)
        signs <<= _SIGN_BIT
        bits = values.view(np.uint32)
        bits ^= signs
        out.view(np.uint8).fill(0)  # takes half the time of filling with floats
        out[members] = values


def encode_levels(levels: np.ndarray, exponents: Sequence[int], sizes: Sequence[int]) -> GapCoded:
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
        TensorHead(exponent, tuple(count for count in column if count))
        for exponent, column in zip(exponents, zip(*tables, strict=True), strict=True)
    ]
    runs = [_bits_of_number(*write_heads(heads, sizes))]
    if members:
        runs.append(levels[members[0]] < 0)
        subsets = Subsets.of([*sizes, *chain(*tables[:-1])], [*chain(*tables)])
        runs.append(write_subsets(subsets, _gaps(subsets, members)))
    return GapCoded(len(sizes), np.packbits(np.concatenate(runs)).tobytes())


def _layers_of(levels: np.ndarray, sizes: Sequence[int]) -> tuple[list[list[int]], list[np.ndarray]]:
    """The sizes of the layers, (layer, tensor), and for each layer the (member,) places in its outer set.

    There is at least one row; it is zero if there are no layers.
    """
    places = (levels != 0).nonzero()[0]
    magnitudes = np.abs(levels[places]).astype(np.int16)
    highest = int(magnitudes.max(initial=0))
    assert highest <= LEVELS_MAX
    stops = places.searchsorted([*accumulate(sizes)])
    firsts = np.arange(0, len(sizes) * (highest + 1), highest + 1)
    symbols = firsts.repeat(np.diff(stops, prepend=0))
    symbols += magnitudes
    # (tensor, level), the highest first
    of_level = np.bincount(symbols, minlength=len(sizes) * (highest + 1)).reshape(len(sizes), -1)[:, :0:-1]
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
    before = np.empty_like(coded)  # the place after the one before, or where its set begins
    np.add(coded[:-1], 1, out=before[1:])
    firsts = np.array([*accumulate(subsets.coded, initial=0)][:-1])
    some = np.array(subsets.coded) > 0
    before[firsts[some]] = (np.array(ends) - subsets.sizes)[some]
    return coded - before


def _bits(data: bytes, start: int, end: int) -> np.ndarray:
    """The bits from `start` to `end`, (end - start,) uint8."""
    unpacked = np.unpackbits(np.frombuffer(data, dtype=np.uint8)[start >> 3 : end + 7 >> 3])
    return unpacked[start & 7 : (start & 7) + end - start]


def _bits_of_number(number: int, count: int) -> np.ndarray:
    """(count,) uint8, most significant first."""
    raw = (number << (-count & 7)).to_bytes(count + 7 >> 3)
    return np.unpackbits(np.frombuffer(raw, dtype=np.uint8))[:count]
