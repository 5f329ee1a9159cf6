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
from itertools import zip_longest
from typing import Annotated

import msgspec
import numpy as np

from wire_contract.encoding.heads import LEVELS_MAX, Head, read_heads, write_heads
from wire_contract.encoding.scales import scales_of
from wire_contract.encoding.subsets import SET_MAX, Subsets, read_subsets, write_subsets
from wire_contract.errors import EncodeError
from wire_contract.layout import Vector
from wire_contract.limits import TENSORS_MAX


class GapCoded(msgspec.Struct, frozen=True, array_like=True, tag="g", forbid_unknown_fields=True):
    """Several tensors as levels of a scale each; the further from zero, the rarer."""

    span: Annotated[int, msgspec.Meta(ge=1, le=TENSORS_MAX)]
    data: bytes

    def decode_into(self, out: Vector, sizes: Sequence[int]) -> None:
        """Fills `out` with the tensors of `sizes` elements, one after another."""
        assert len(sizes) == self.span
        heads, at = read_heads(self.data, sizes)
        tables = [list(sizes), *_layers(heads)]
        outer, layers = np.array(tables[:-1], dtype=np.int64), np.array(tables[1:], dtype=np.int64)  # (layer, tensor)
        starts = np.cumsum(outer, axis=-1) - outer
        subsets = Subsets.of(outer.ravel(), layers.ravel())
        signs_end = at + (sum(tables[1]) if len(tables) > 1 else 0)
        places = read_subsets(subsets, starts.ravel(), self.data, signs_end)
        out[...] = 0
        if len(tables) == 1:
            return
        members = _members(outer, starts, subsets, places)
        filled = next(members)
        values = np.repeat(scales_of([head.exponent for head in heads]), tables[1])
        if len(tables) > 2:  # noqa: PLR2004 — more than one layer
            values *= _magnitudes(filled.size, members)
        # The sign bit of a float32 is its highest: far faster than a negation of some.
        values.view(np.uint32)[...] ^= _bits(self.data, at, signs_end).astype(np.uint32) << 31
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
    outer, layers, places = _layers_of(levels, sizes)
    heads = [
        Head(exponent, tuple(count for count in column if count))
        for exponent, column in zip(exponents, layers.T.tolist(), strict=True)
    ]
    head_bits, head_count = write_heads(heads, sizes)
    subsets = Subsets.of(outer.ravel(), layers.ravel())
    bits = np.concatenate(
        (
            _bits_of_number(head_bits, head_count),
            (levels[levels != 0] < 0).astype(np.uint8),
            write_subsets(subsets, _gaps(subsets, places)),
        )
    )
    return GapCoded(len(sizes), np.packbits(bits).tobytes())


def _layers_of(levels: np.ndarray, sizes: Sequence[int]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The sizes of the sets, (layer, tensor), those of their subsets, and the (member,) places, all sets joined."""
    places = np.flatnonzero(levels)
    magnitudes = np.abs(levels[places])
    assert magnitudes.max(initial=0) <= LEVELS_MAX
    outer = [np.array(sizes, dtype=np.int64)]
    joined = [places]
    offset = int(outer[0].sum())
    while places.size:
        outer.append(np.diff(np.searchsorted(places, np.cumsum(outer[-1])), prepend=0))
        places = np.flatnonzero(magnitudes >= len(outer))
        magnitudes = magnitudes[places]
        joined.append(places + offset)
        offset += int(outer[-1].sum())
    table = np.array(outer)
    return table[:-1], table[1:], np.concatenate(joined)


def _gaps(subsets: Subsets, places: np.ndarray) -> np.ndarray:
    """Gaps between the coded places of each set, (coded place,), of the members' `places`, all sets joined."""
    ends = np.cumsum(subsets.sizes)
    starts = ends - subsets.sizes
    mask = np.zeros(int(ends[-1]) if ends.size else 0, dtype=np.bool_)
    mask[places] = True
    for at in np.flatnonzero(subsets.inverted).tolist():
        mask[starts[at] : ends[at]] ^= True
    gaps = np.flatnonzero(mask)
    gaps[1:] -= gaps[:-1] + 1
    some = subsets.coded > 0
    firsts = (np.cumsum(subsets.coded) - subsets.coded)[some]
    gaps[firsts] = np.flatnonzero(mask)[firsts] - starts[some]
    return gaps


def _members(outer: np.ndarray, starts: np.ndarray, subsets: Subsets, places: np.ndarray) -> Iterator[np.ndarray]:
    """Of each layer the (member,) places in the layer before it, all tensors joined.

    `outer` and `starts` are (layer, tensor): the sets' sizes, and where each begins among the joined ones.
    """
    inverted = np.reshape(subsets.inverted, outer.shape)
    ends = np.cumsum(np.reshape(subsets.coded, outer.shape).sum(axis=1)).tolist()
    some_inverted = set(np.flatnonzero(inverted.any(axis=1)).tolist())
    for layer, (start, end) in enumerate(zip([0, *ends], ends, strict=False)):
        if layer not in some_inverted:
            yield places[start:end]
            continue
        mask = np.zeros(int(outer[layer].sum()), dtype=np.bool_)
        mask[places[start:end]] = True
        for tensor in np.flatnonzero(inverted[layer]).tolist():
            first = int(starts[layer, tensor])
            mask[first : first + int(outer[layer, tensor])] ^= True
        yield np.flatnonzero(mask)


def _magnitudes(count: int, further: Iterator[np.ndarray]) -> np.ndarray:
    """(count,) float32 of the first layer's members, out of the members of the `further` layers."""
    magnitudes = np.ones(count, dtype=np.float32)
    chosen = None
    for inner in further:
        chosen = inner if chosen is None else chosen[inner]
        magnitudes[chosen] += 1
    return magnitudes


def _layers(heads: Sequence[Head]) -> list[list[int]]:
    """(layer, tensor), zeros below each tensor's last layer."""
    columns = [head.layers for head in heads]
    return [list(row) for row in zip_longest(*columns, fillvalue=0)]


def _bits(data: bytes, start: int, end: int) -> np.ndarray:
    """The bits from `start` up to `end`, (end - start,) uint8."""
    unpacked = np.unpackbits(np.frombuffer(data, dtype=np.uint8)[start >> 3 : end + 7 >> 3])
    return unpacked[start & 7 : (start & 7) + end - start]


def _bits_of_number(number: int, count: int) -> np.ndarray:
    """(count,) uint8, most significant first."""
    raw = (number << (-count & 7)).to_bytes(count + 7 >> 3)
    return np.unpackbits(np.frombuffer(raw, dtype=np.uint8))[:count]
