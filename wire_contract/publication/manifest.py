"""How a snapshot gets to the devices: its message is cut into retained chunks, which a retained manifest announces.

The chunks are published first and the manifest last, so that whoever sees the manifest finds the chunks. A small model
is sent inside the manifest, unless a delta is (`deltas.py`, `release.py`). The topics of chunks contain the version, so
that versions are never mixed.
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
    """A version as everybody has it: `weights` (layout.size,) are those after decoding."""

    task: str
    version: int
    layout: Layout
    weights: Vector
    digest: bytes


@dataclass(frozen=True)
class Announcement:
    """The retained messages of one version, published in this order: `deltas`, `chunks`, `manifest`."""

    manifest: Manifest
    chunks: Sequence[bytes]
    """Of the snapshot in the manifest; empty if it is inline."""
    published: PublishedVersion
    deltas: Mapping[int, bytes]
    """Deltas by the version that they lead to, oldest first."""


def encode_snapshot(
    weights: Vector, *, task: str, version: int, parent: int | None, layout: Layout, encoding: EncodingName
) -> tuple[bytes, PublishedVersion]:
    """Makes the model message of `weights` (layout.size,); returns it and what it decodes to.

    Raises:
        EncodeError: the weights are not finite or do not fit the encoding, or the model is larger than devices accept.
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
    """The model message of a version whose weights are exactly what `tensors` decode to."""
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
    """Cuts `payload` into chunks of 32 KiB; only the last is smaller, so that a device knows the offset of each."""
    return tuple(payload[start : start + CHUNK_BYTES_MAX] for start in range(0, len(payload), CHUNK_BYTES_MAX))


def chunk_digests(chunks: Sequence[bytes]) -> tuple[bytes, ...]:
    """SHA-256 of each chunk, as in the manifest."""
    return tuple(hashlib.sha256(chunk).digest() for chunk in chunks)


def assemble_snapshot(
    manifest: Manifest, chunks: Mapping[int, bytes] | None = None, *, limits: Limits = MODEL_LIMITS
) -> PublishedVersion | None:
    """Assembles the snapshot from its manifest and chunks, given by index; None while some are missing.

    Raises:
        DecodeError: a chunk, the payload or the weights do not match the manifest.
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
    """Decodes a model message.

    Raises:
        DecodeError: it is none, its weights are not finite, or they do not have the digest that it states.
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
    """Whether `payload` has the digest of chunk `index` in the manifest."""
    digests = manifest.chunk_digests
    return 0 <= index < len(digests) and hashlib.sha256(payload).digest() == digests[index]


def with_inline(manifest: Manifest, published: PublishedVersion, payload: bytes) -> Manifest:
    """`manifest` reduced to `published` alone, with its model message inline."""
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
