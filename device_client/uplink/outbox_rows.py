"""The values of the outbox, and how they are stored in the rows of its tables."""

import hashlib
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

import numpy as np

from device_client.uplink.rounds import LocalStudent
from wire_contract.layout import Vector
from wire_contract.limits import MODEL_LIMITS, Limits
from wire_contract.message_fields import KEY_ID_BYTES, PAYLOAD_DIGEST_BYTES
from wire_contract.messages import Identity

CACHED_MANIFEST_LIMITS = Limits(
    compressed_bytes=MODEL_LIMITS.compressed_bytes * 2, decompressed_bytes=MODEL_LIMITS.decompressed_bytes * 2
)
"""A cached manifest has the whole model inline. It is never sent, so the limits of the wire do not apply; twice the
limit of a model is enough for the model and the rest of the manifest."""

Row = tuple[Any, ...]


@dataclass(frozen=True)
class Entry:
    """One update that waits for its receipt."""

    identity: Identity
    payload: bytes
    base_version: int
    attempts: int
    """Times sent so far, across restarts."""


def student_row(student: LocalStudent) -> Row:
    """The row of table `line`."""
    return (
        student.base_version,
        student.base_digest,
        student.rounds,
        _bytes_of(student.weights),
        student.finished_at,
        None if student.residual is None else _bytes_of(student.residual),
    )


def student_of(row: Row) -> LocalStudent:
    """The local student in a row of table `line`."""
    residual = None if row[5] is None else _vector_of(row[5])
    return LocalStudent(int(row[0]), bytes(row[1]), int(row[2]), _vector_of(row[3]), float(row[4]), residual)


def key_ids_of(joined: bytes) -> frozenset[bytes]:
    """The key ids in a column that holds several."""
    return frozenset(joined[start : start + KEY_ID_BYTES] for start in range(0, len(joined), KEY_ID_BYTES))


def joined_key_ids(key_ids: Collection[bytes]) -> bytes:
    """The column that holds these key ids."""
    return b"".join(sorted(key_ids))


def payload_digest(payload: bytes) -> bytes:
    """How a receipt names an update that the aggregator could not decode: the first 8 bytes of its SHA-256."""
    return hashlib.sha256(payload).digest()[:PAYLOAD_DIGEST_BYTES]


def _bytes_of(vector: Vector) -> bytes:
    return vector.astype("<f4").tobytes()


def _vector_of(column: bytes) -> Vector:
    return np.frombuffer(column, dtype="<f4").astype(np.float32)
