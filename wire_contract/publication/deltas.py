"""Deltas from one version to the next, with the same bits on every machine: p_v = grid(p_{v-1} + decode(δ_v)).

δ_v encodes (master_v - p_{v-1}): what the devices lack, not what the aggregator has just added. So whatever the
encoding and the grid lose in one version is part of the difference that the next one encodes (error feedback), and the
published weights always stay close to the master weights.

The grid is the set of values that the encoding of snapshots represents exactly. So a snapshot of p_v is exactly p_v,
and a device gets the same digest from either:

    float32   every number
    float16   x rounded to the nearest float16, ties to even; running statistics stay float32, as in snapshots

The arithmetic is float32 with one rounding per operation. int8 has no usable grid: its scale moves with the largest
weight, and with a fixed scale one step of learning is smaller than one of its 127 steps. Models that are published in
int8 have snapshots only.
"""

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, cast

import numpy as np

from wire_contract import codec
from wire_contract.encoding import EncodedTensor, EncodingName, decode_vector
from wire_contract.errors import DecodeError, EncodeError
from wire_contract.layout import Layout, Vector, digest
from wire_contract.limits import INLINE_BYTES_MAX
from wire_contract.messages import Delta
from wire_contract.publication.manifest import PublishedVersion

if TYPE_CHECKING:
    from wire_contract.message_fields import Grid


def _to_float16(vector: Vector) -> Vector:
    with np.errstate(over="ignore"):  # the caller refuses infinity
        return vector.astype(np.float16).astype(np.float32)


GRIDS: Mapping[EncodingName, Callable[[Vector], Vector]] = {"float32": lambda vector: vector, "float16": _to_float16}

EncodeDelta = Callable[[Vector, Layout], tuple[EncodedTensor, ...]]
"""Encodes a difference (layout.size,), or raises EncodeError."""


def make_delta(
    weights: Vector,
    before: PublishedVersion,
    *,
    encoding: EncodingName,
    encode: EncodeDelta,
    bytes_max: int = INLINE_BYTES_MAX,
) -> tuple[bytes, PublishedVersion]:
    """Makes the delta message from `before` to (about) `weights`; returns it and the exact version that it leads to.

    Args:
        weights: (layout.size,) master weights of the new version.
        before: the version that devices have.
        encoding: of snapshots; determines the grid.
        encode: encodes the difference.
        bytes_max: size of the message, up to DELTA_BYTES_MAX.

    Raises:
        EncodeError: the encoding has no grid, the result is outside its range, or the message is too large.
    """
    if encoding not in GRIDS:
        raise EncodeError(f"delta: {encoding} has no grid that two versions share")
    with np.errstate(over="ignore"):  # the encoder refuses infinity
        tensors = encode(weights - before.weights, before.layout)
    result = _sum(before, tensors, encoding)
    if not np.isfinite(result).all():
        raise EncodeError(f"delta: a weight is beyond {encoding}")
    published = PublishedVersion(before.task, before.version + 1, before.layout, result, digest(result))
    payload = codec.encode(
        Delta(
            task=before.task,
            version=published.version,
            parent_digest=before.digest,
            digest=published.digest,
            grid=cast("Grid", encoding),  # the key of GRIDS
            tensors=tensors,
        )
    )
    if len(payload) > bytes_max:
        raise EncodeError(f"delta: {len(payload)} bytes are over the limit of {bytes_max}")
    return payload, published


def apply_delta(before: PublishedVersion, delta: Delta) -> PublishedVersion:
    """Applies `delta` to the version before it.

    Raises:
        DecodeError: it does not follow these weights, or does not lead to the digest that it states.
    """
    if (delta.task, delta.version, delta.parent_digest) != (before.task, before.version + 1, before.digest):
        raise DecodeError(f"delta {delta.version}: does not follow from version {before.version}")
    try:
        weights = _sum(before, delta.tensors, delta.grid)
    except DecodeError as error:
        raise DecodeError(f"delta {delta.version}: {error}") from None
    if not np.isfinite(weights).all():
        raise DecodeError(f"delta {delta.version}: leads to weights that are not finite")
    if digest(weights) != delta.digest:
        raise DecodeError(f"delta {delta.version}: does not lead to the digest that it states")
    return PublishedVersion(before.task, delta.version, before.layout, weights, delta.digest)


def _sum(before: PublishedVersion, tensors: tuple[EncodedTensor, ...], encoding: EncodingName) -> Vector:
    difference = decode_vector(tensors, before.layout)
    with np.errstate(over="ignore", invalid="ignore"):  # the caller refuses infinity and NaN
        np.add(before.weights, difference, out=difference)
    rounded = GRIDS[encoding](difference)
    statistics = slice(before.layout.weights_size, None)
    rounded[statistics] = difference[statistics]
    return rounded
