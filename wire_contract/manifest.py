"""A version on its way to the devices: one payload cut into retained chunks, announced by a retained manifest.

The chunks go first and the manifest last, so that whoever sees the manifest finds the chunks. A model that fits
travels inside the manifest. Chunk topics carry the version, so a newer version never mixes with an older one.
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from wire_contract import codec
from wire_contract.encoding import EncodingName, decode_vector, encode_vector
from wire_contract.errors import DecodeError
from wire_contract.layout import Layout, Vector, digest
from wire_contract.limits import CHUNK_BYTES_MAX, INLINE_BYTES_MAX, MODEL_LIMITS, Limits
from wire_contract.messages import Manifest, Model


@dataclass(frozen=True)
class Published:
    """A version as everybody has it: `weights` (layout.size,) are the decoded ones."""

    task: str
    version: int
    layout: Layout
    weights: Vector
    digest: bytes


@dataclass(frozen=True)
class Announcement:
    """What to publish for one version: `chunks` first, in order, then `manifest`."""

    manifest: Manifest
    chunks: Sequence[bytes]
    published: Published


def announce(
    weights: Vector,
    *,
    task: str,
    version: int,
    parent: int | None,
    layout: Layout,
    encoding: EncodingName,
    shards: int,
    update_bytes_max: int,
    published_at: float,
) -> Announcement:
    """Encodes master `weights` (layout.size,) for publication.

    Raises:
        EncodeError: the weights are not finite or do not fit the encoding.
    """
    tensors = encode_vector(weights, layout, encoding)
    decoded = decode_vector(tensors, layout)
    weights_digest = digest(decoded)
    payload = codec.encode(
        Model(
            task=task,
            version=version,
            parent=parent,
            layout=layout.tensors,
            tensors=tensors,
            digest=weights_digest,
        )
    )
    inline = len(payload) <= INLINE_BYTES_MAX
    chunks = () if inline else split(payload)
    manifest = Manifest(
        task=task,
        version=version,
        parent=parent,
        digest=weights_digest,
        layout_fingerprint=layout.fingerprint,
        encoding=encoding,
        size_bytes=len(payload),
        chunk_digests=tuple(hashlib.sha256(chunk).digest() for chunk in chunks),
        inline=payload if inline else None,
        shards=shards,
        update_bytes_max=update_bytes_max,
        published_at=published_at,
    )
    return Announcement(manifest, chunks, Published(task, version, layout, decoded, weights_digest))


def split(payload: bytes) -> tuple[bytes, ...]:
    """`payload` in pieces of at most 32 KiB."""
    return tuple(payload[start : start + CHUNK_BYTES_MAX] for start in range(0, len(payload), CHUNK_BYTES_MAX))


def assemble(
    manifest: Manifest, chunks: Mapping[int, bytes] | None = None, *, limits: Limits = MODEL_LIMITS
) -> Published | None:
    """The announced version out of its manifest and the chunks that are here by index; None while some are missing.

    Raises:
        DecodeError: a chunk, the payload or the weights are not what the manifest says.
    """
    payload = _joined(manifest, chunks or {}, limits)
    if payload is None:
        return None
    model = codec.decode(payload, Model, limits=limits)
    if (model.task, model.version, model.digest) != (manifest.task, manifest.version, manifest.digest):
        raise DecodeError("model: task, version or digest differ from the manifest's")
    layout = Layout(model.layout)
    if layout.fingerprint != manifest.layout_fingerprint:
        raise DecodeError("model: its layout differs from the manifest's")
    weights = decode_vector(model.tensors, layout)
    if digest(weights) != manifest.digest:
        raise DecodeError(f"model {manifest.version}: the weights do not have the digest of the manifest")
    if not np.isfinite(weights).all():
        raise DecodeError(f"model {manifest.version}: weights are not finite")
    return Published(model.task, model.version, layout, weights, manifest.digest)


def chunk_fits(manifest: Manifest, index: int, payload: bytes) -> bool:
    """Whether `payload` is the chunk `index` that the manifest announces."""
    digests = manifest.chunk_digests
    return 0 <= index < len(digests) and hashlib.sha256(payload).digest() == digests[index]


def _joined(manifest: Manifest, chunks: Mapping[int, bytes], limits: Limits) -> bytes | None:
    if manifest.size_bytes > limits.compressed_bytes:
        raise DecodeError(
            f"model {manifest.version}: {manifest.size_bytes} bytes are over the limit of {limits.compressed_bytes}"
        )
    if manifest.inline is not None:
        return manifest.inline
    indices = range(len(manifest.chunk_digests))
    if any(index not in chunks for index in indices):
        return None
    if not all(chunk_fits(manifest, index, chunks[index]) for index in indices):
        raise DecodeError(f"model {manifest.version}: a chunk does not have its digest")
    payload = b"".join(chunks[index] for index in indices)
    if len(payload) != manifest.size_bytes:
        raise DecodeError(
            f"model {manifest.version}: {len(payload)} bytes are here, the manifest says {manifest.size_bytes}"
        )
    return payload
