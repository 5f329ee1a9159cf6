"""The guard over a split: no person, source film or image may be on two sides of it.

Images are compared by a hash that is the same for the 8 rotations and mirrors of an image and for any rising change of
its values, such as another scale, offset or gamma curve that keeps different values apart. What it cannot see is in
`docs/data.md`: anything that changes the order of two pixel values, such as JPEG compression, a shift by one pixel, or
another crop of the same film.
"""

import hashlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from device_client.task import Data, Examples, SplitError
from device_client.task.batches import inputs_of, leaves
from device_client.task.batching import evaluation_batches
from device_client.task.examples import example_count

DIGEST_BYTES = 16
_CHANNELS_MAX = 4
_SIDE_PIXELS_MIN = 8
"""Inputs (channel, height, width) with at most so many channels and at least so many pixels a side are images."""
_NAMES_MAX = 8
_TABLE_BYTES_MAX = 2
_BATCH = 64


@dataclass(kw_only=True)
class Side:
    """What one side of a split holds."""

    rows: int = 0
    read: int = 0
    """Rows whose inputs were hashed."""
    persons: Counter[str] = field(default_factory=Counter)
    """Rows of each person."""
    sources: Counter[str] = field(default_factory=Counter)
    images: Counter[bytes] = field(default_factory=Counter)
    """Rows of each pixel hash. Plain images, of one value, are left out: they may be equal for good reasons."""

    def add(self, other: "Side") -> None:
        """Adds the rows of another part of the same side, such as another device."""
        self.rows += other.rows
        self.read += other.read
        self.persons.update(other.persons)
        self.sources.update(other.sources)
        self.images.update(other.images)


def _never() -> bool:
    return False


def side_of(data: Data, *, hashes: bool = True, stop: Callable[[], bool] = _never) -> Side:
    """What some data holds.

    Args:
        data: `Examples`, a data set, or a loader; for hashes it is read.
        hashes: of its images; False: only names, and the hashes that the data knows without being read.
        stop: whether to stop reading, asked before each row; further images are not compared then.
    """
    persons, sources = _names(data, "persons"), _names(data, "sources")
    known = _known_hashes(data)
    if known is not None:
        images, read = Counter(known), example_count(data) or 0
    else:
        images, read = _hashed(data, _image_hashes, stop) if hashes else (Counter[bytes](), 0)
    rows = example_count(data) or max(read, sum(persons.values()), sum(sources.values()))
    return Side(rows=rows, read=read, persons=persons, sources=sources, images=images)


def tensors_of(data: Data, *, stop: Callable[[], bool] = _never) -> Counter[bytes]:
    """The hashes of the exact values of inputs that are no images. Plain ones, of one value, are left out."""
    if _known_hashes(data) is not None:
        return Counter()
    return _hashed(data, _exact_hashes, stop)[0]


def _known_hashes(data: Data) -> list[bytes] | None:
    """The attribute `image_hashes` of a data set of films: one a row, from when the film was read. None: no such."""
    known = getattr(data, "image_hashes", None)
    return None if known is None else [one for one in known if one]


def _names(data: Data, attribute: str) -> Counter[str]:
    names = getattr(data, attribute, None)
    return Counter() if names is None else Counter(np.asarray(names, dtype=np.str_).tolist())


def _hashed(
    data: Data, hashes_of: Callable[[Sequence[npt.NDArray[Any]]], Iterable[bytes]], stop: Callable[[], bool]
) -> tuple[Counter[bytes], int]:
    """The hashes of the rows up to `stop`, and how many rows these were."""
    found, read = Counter[bytes](), 0
    for batch in evaluation_batches(data, _BATCH):
        for row in rows_of(inputs_of(batch)):
            if stop():
                return found, read
            found.update(hashes_of(row))
            read += 1
    return found, read


def _image_hashes(row: Sequence[npt.NDArray[Any]]) -> set[bytes]:
    return {found for array in row if is_image(array) and (found := pixel_hash(array)) is not None}


def _exact_hashes(row: Sequence[npt.NDArray[Any]]) -> set[bytes]:
    found = None if any(map(is_image, row)) else row_hash(row)
    return set() if found is None else {found}


def check_sides(sides: Mapping[str, Side]) -> None:
    """Checks that no person, source or image is on two sides of a split.

    Raises:
        SplitError: some is; the message has the counts, and what to do.
    """
    for one, other in combinations(sides, 2):
        fault = overlap(one, sides[one], other, sides[other])
        if fault:
            raise SplitError(fault)


def check_examples(sides: Mapping[str, Examples]) -> None:
    """`check_sides` for examples in memory: persons, sources, and images.

    Raises:
        SplitError: a person, source or image is on two sides.
    """
    check_sides({name: side_of(examples) for name, examples in sides.items()})


def overlap(one: str, first: Side, other: str, second: Side) -> str:
    """What is on both of two sides, with its counts and what to do; empty: nothing."""
    rows = f"the {second.rows:,} rows of the {other} data"
    found, remedy = [], ""
    persons = _both(first.persons, second.persons)
    if persons:
        names = ", ".join(persons[:_NAMES_MAX]) + (
            f" and {len(persons) - _NAMES_MAX:,} more" if len(persons) > _NAMES_MAX else ""
        )
        counts = f"{len(persons):,} of its {len(second.persons):,} persons, with {_share(second.persons, persons)}"
        found.append(f"person {names} is in both the {one} and the {other} data ({counts} of {rows})")
        remedy = "split by person"
    sources = _both(first.sources, second.sources)
    if sources:
        counts = f"{len(sources):,} of its {len(second.sources):,} sources, with {_share(second.sources, sources)}"
        found.append(f"films or recordings (sources) are in both the {one} and the {other} data ({counts} of {rows})")
        remedy = remedy or "split by source, better by person"
    images = _both(first.images, second.images)
    if images:
        found.append(
            f"{_share(second.images, images)} images among {rows} are also in the {one} data, pixel for pixel or "
            "turned, mirrored or rescaled in brightness"
        )
        remedy = remedy or (
            "put all copies of an image on one side: split by person, and augment after the split; single copies can "
            "be left out (device_client.data.leakage.copies)"
        )
    return f"{'; '.join(found)}; {remedy}" if found else ""


def copies(examples: Examples, of: Examples) -> npt.NDArray[np.bool_]:
    """Which examples (example,) have an image that is also in `of`; `examples.where(~mask)` leaves them out."""
    known = side_of(of).images
    return np.array(
        [not known.keys().isdisjoint(_image_hashes(row)) for row in rows_of(examples.inputs)], dtype=np.bool_
    )


# Hashes


def is_image(array: npt.NDArray[Any]) -> bool:
    """Whether one input is an image (channel, height, width); fields of whole numbers, such as tokens, are none."""
    shape = array.shape
    return (
        array.ndim == 3  # noqa: PLR2004 — dimensions
        and array.dtype.kind == "f"
        and shape[0] <= _CHANNELS_MAX
        and min(shape[1:]) >= _SIDE_PIXELS_MIN
    )


def pixel_hash(image: npt.NDArray[Any]) -> bytes | None:
    """A hash that is the same for the 8 rotations and mirrors of an image, and for any rising change of its values.

    Each value is replaced by its rank among the image's different values, and of the 8 images the first in the order of
    bytes is hashed: whole numbers of 0 to 255 and the same as float32 from 0 to 1 have one hash. An image of equal
    channels has that of one channel.

    Args:
        image: (height, width), (channel, height, width) or (height, width, channel).

    Returns:
        16 bytes; None for a plain image, of one value.
    """
    pixels = np.asarray(image)
    if pixels.ndim == 2:  # noqa: PLR2004 — dimensions
        pixels = pixels[None]
    elif pixels.shape[0] > _CHANNELS_MAX >= pixels.shape[-1]:
        pixels = np.moveaxis(pixels, -1, 0)
    if len(pixels) > 1 and bool((pixels == pixels[:1]).all()):
        pixels = pixels[:1]
    ranks = _ranks(pixels)
    if ranks is None:
        return None
    first = _first([turn for quarter in range(4) for turn in _with_mirror(np.rot90(ranks, quarter, axes=(1, 2)))])
    return hashlib.blake2b(repr(first.shape).encode() + first.tobytes(), digest_size=DIGEST_BYTES).digest()


def _first(variants: list[npt.NDArray[Any]]) -> npt.NDArray[Any]:
    """The first of some arrays (channel, row, column) in the order of shape, then bytes.

    A few rows tell most images apart, so that the others need not be brought into the order of bytes.
    """
    shape = min(variant.shape for variant in variants)
    left = [variant for variant in variants if variant.shape == shape]
    for channel in range(shape[0]):
        row, count = 0, 1
        while row < shape[1] and len(left) > 1:
            blocks = [variant[channel, row : row + count].tobytes() for variant in left]
            least = min(blocks)
            left = [variant for variant, block in zip(left, blocks, strict=True) if block == least]
            row, count = row + count, 2 * count
    return left[0]


def row_hash(row: Sequence[npt.NDArray[Any]]) -> bytes | None:
    """The hash of the exact values of an input; None for a plain one, whose arrays have one value each."""
    if all(array.size == 0 or bool((array == array.flat[0]).all()) for array in row):
        return None
    digest = hashlib.blake2b(digest_size=DIGEST_BYTES)
    for array in row:
        digest.update(repr((array.shape, array.dtype.str)).encode())
        digest.update(np.ascontiguousarray(array).tobytes())
    return digest.digest()


def _ranks(pixels: npt.NDArray[Any]) -> npt.NDArray[Any] | None:
    if pixels.dtype.kind in "iu" and pixels.dtype.itemsize <= _TABLE_BYTES_MAX:
        return _ranks_by_table(pixels)
    ordered = np.sort(pixels, axis=None)  # not np.unique, which imports numpy.ma
    values = ordered[np.concatenate([[True], ordered[1:] != ordered[:-1]])]
    if len(values) < 2:  # noqa: PLR2004 — values
        return None
    return np.searchsorted(values, pixels).astype(_rank_type(len(values)))


def _ranks_by_table(pixels: npt.NDArray[Any]) -> npt.NDArray[Any] | None:
    """The same for whole numbers of few bits, without sorting: stored values of films have millions of pixels."""
    least = int(np.iinfo(pixels.dtype).min)
    places = pixels.astype(np.int32) - least if least else pixels
    occurs = np.zeros(1 << (8 * pixels.dtype.itemsize), dtype=np.bool_)
    occurs[places] = True
    count = int(occurs.sum())
    if count < 2:  # noqa: PLR2004 — values
        return None
    found: npt.NDArray[Any] = (np.cumsum(occurs) - 1).astype(_rank_type(count))[places]
    return found


def _rank_type(count: int) -> str:
    """Big-endian, so that bytes are in the order of numbers."""
    return f">u{next(bytes_ for bytes_ in (1, 2, 4) if count <= 1 << (8 * bytes_))}"


def _with_mirror(ranks: npt.NDArray[Any]) -> tuple[npt.NDArray[Any], npt.NDArray[Any]]:
    return ranks, ranks[:, :, ::-1]


def rows_of(inputs: Any) -> Iterator[list[npt.NDArray[Any]]]:
    """The arrays of each row."""
    arrays = [_array(tensor) for tensor in leaves(inputs)]
    for number in range(len(arrays[0]) if arrays else 0):
        yield [array[number] for array in arrays]


def _array(tensor: Tensor) -> npt.NDArray[Any]:
    plain = tensor.detach().cpu()
    return (plain.float() if plain.dtype == torch.bfloat16 else plain).numpy()


def _both(first: Counter[Any], second: Counter[Any]) -> list[Any]:
    small, large = sorted((first, second), key=len)
    return sorted(key for key in small if key in large)


def _share(rows: Counter[Any], chosen: Sequence[Any]) -> str:
    return f"{sum(rows[key] for key in chosen):,}"
