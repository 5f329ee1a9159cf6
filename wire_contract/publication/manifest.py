"""A snapshot on its way to the devices: one payload cut into retained chunks, announced by a retained manifest.

The chunks go first and the manifest last, so that whoever sees the manifest finds the chunks. A model that fits
travels inside the manifest, unless a delta does (`deltas.py`, `shelf.py`). Chunk topics carry the version, so a newer
version never mixes with an older one.
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import msgspec
import numpy as np

from wire_contract import codec
from wire_contract.encoding import EncodedTensor, EncodingName, decode_vector, encode_vector
from wire_contract.errors import DecodeError, EncodeError
from wire_contract.layout import Layout, Vector, digest
from wire_contract.limits import CHUNK_BYTES_MAX, MODEL_LIMITS, Limits
from wire_contract.messages import Manifest, Model


@dataclass(frozen=True)
class PublishedVersion:
    """A version as everybody has it: `weights` (layout.size,) are the decoded ones."""

    task: str
    version: int
    layout: Layout
    weights: Vector
    digest: bytes


@dataclass(frozen=True)
class Announcement:
    """What stands on the broker for one version: `deltas` and `chunks` first, in order, then `manifest`."""

    manifest: Manifest
    chunks: Sequence[bytes]
    """Of the snapshot that the manifest names; empty when it is inline."""
    published: PublishedVersion
    deltas: Mapping[int, bytes]
    """Version to the delta that leads to it, oldest first."""


def encode_snapshot(
    weights: Vector, *, task: str, version: int, parent: int | None, layout: Layout, encoding: EncodingName
) -> tuple[bytes, PublishedVersion]:
    """The model message of `weights` (layout.size,), and what it decodes to.

    Raises:
        EncodeError: the weights are not finite or do not fit the encoding, or no device would take a model so large.
    """
    if layout.size > MODEL_LIMITS.elements:
        raise EncodeError(f"model: {layout.size} numbers are over the {MODEL_LIMITS.elements} that devices take")
    tensors = encode_vector(weights, layout, encoding)
    decoded = decode_vector(tensors, layout)
    published = PublishedVersion(task, version, layout, decoded, digest(decoded))
    payload = model_message(published, tensors, parent=parent)
    if len(payload) > MODEL_LIMITS.compressed_bytes:
        raise EncodeError(f"model: {len(payload)} bytes are over the {MODEL_LIMITS.compressed_bytes} that devices take")
    return payload, published


def model_message(published: PublishedVersion, tensors: tuple[EncodedTensor, ...], *, parent: int | None) -> bytes:
    """A version whole; `tensors` decode to exactly its weights."""
    return codec.encode(
        Model(
            task=published.task,
            version=published.version,
            parent=parent,
            layout=published.layout.tensors,
            tensors=tensors,
            digest=published.digest,
        )
    )


def split_into_chunks(payload: bytes) -> tuple[bytes, ...]:
    """`payload` in pieces of 32 KiB, only the last one smaller: so a device knows where in the payload each belongs."""
    return tuple(payload[start : start + CHUNK_BYTES_MAX] for start in range(0, len(payload), CHUNK_BYTES_MAX))


def chunk_digests(chunks: Sequence[bytes]) -> tuple[bytes, ...]:
    """As they stand in the manifest."""
    return tuple(hashlib.sha256(chunk).digest() for chunk in chunks)


def assemble_snapshot(
    manifest: Manifest, chunks: Mapping[int, bytes] | None = None, *, limits: Limits = MODEL_LIMITS
) -> PublishedVersion | None:
    """The snapshot out of its manifest and the chunks that are here by index; None while some are missing.

    Raises:
        DecodeError: a chunk, the payload or the weights are not what the manifest says.
    """
    payload = _joined(manifest, chunks or {}, limits)
    if payload is None:
        return None
    published = decode_snapshot(payload, limits=limits)
    if (published.task, published.version) != (manifest.task, manifest.snapshot_version):
        raise DecodeError("model: task or version differ from the manifest's")
    if published.version == manifest.version and published.digest != manifest.digest:
        raise DecodeError("model: its digest differs from the manifest's")
    if published.layout.fingerprint != manifest.layout_fingerprint:
        raise DecodeError("model: its layout differs from the manifest's")
    return published


def decode_snapshot(payload: bytes, *, limits: Limits = MODEL_LIMITS) -> PublishedVersion:
    """What a model message stands for.

    Raises:
        DecodeError: it is none, its weights are not finite, or they do not have its digest.
    """
    model = codec.decode(payload, Model, limits=limits)
    layout = Layout(model.layout)
    weights = decode_vector(model.tensors, layout)
    if digest(weights) != model.digest:
        raise DecodeError(f"model {model.version}: the weights do not have the digest that it states")
    if not np.isfinite(weights).all():
        raise DecodeError(f"model {model.version}: weights are not finite")
    return PublishedVersion(model.task, model.version, layout, weights, model.digest)


def chunk_fits(manifest: Manifest, index: int, payload: bytes) -> bool:
    """Whether `payload` is the chunk `index` that the manifest announces."""
    digests = manifest.chunk_digests
    return 0 <= index < len(digests) and hashlib.sha256(payload).digest() == digests[index]


def with_inline(manifest: Manifest, published: PublishedVersion, payload: bytes) -> Manifest:
    """A manifest of `published` alone, with its model message inline; the rest as `manifest` says."""
    return msgspec.structs.replace(
        manifest,
        version=published.version,
        parent=published.version - 1 if published.version else None,
        digest=published.digest,
        snapshot=None,
        size_bytes=len(payload),
        chunk_digests=manifest.chunk_digests if published.version == manifest.snapshot_version else (),
        inline=payload,
        delta=None,
        delta_sizes=(),
    )


def _joined(manifest: Manifest, chunks: Mapping[int, bytes], limits: Limits) -> bytes | None:
    version = manifest.snapshot_version
    if manifest.size_bytes > limits.compressed_bytes:
        raise DecodeError(
            f"model {version}: {manifest.size_bytes} bytes are over the limit of {limits.compressed_bytes}"
        )
    if manifest.inline is not None:
        return manifest.inline
    indices = range(len(manifest.chunk_digests))
    if any(index not in chunks for index in indices):
        return None
    if not all(chunk_fits(manifest, index, chunks[index]) for index in indices):
        raise DecodeError(f"model {version}: a chunk does not have its digest")
    for index in indices[:-1]:
        if len(chunks[index]) != CHUNK_BYTES_MAX:
            raise DecodeError(f"model {version}: chunk {index} has {len(chunks[index])} bytes, not {CHUNK_BYTES_MAX}")
    payload = b"".join(chunks[index] for index in indices)
    if len(payload) != manifest.size_bytes:
        raise DecodeError(f"model {version}: {len(payload)} bytes are here, the manifest says {manifest.size_bytes}")
    return payload
