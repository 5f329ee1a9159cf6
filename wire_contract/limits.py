"""Every bound of the contract, by name. Decoding never allocates more than these say."""

from dataclasses import dataclass
from typing import ClassVar

MIB = 1 << 20
KIB = 1 << 10

CHUNK_BYTES_MAX = 32 * KIB
"""Payload of one model chunk; below the smallest retained limit of the cloud brokers (64 KB)."""

INLINE_BYTES_MAX = 24 * KIB
"""A model up to this size travels inside its manifest; the rest of the 32 KiB is the manifest's own."""

DELTA_BYTES_MAX = 256 * KIB
"""A delta is one message; up to `INLINE_BYTES_MAX` the newest one travels inside its manifest too. An operator may
allow this much where the broker does; every cloud broker takes what fits the manifest, which is the default."""

NAME_CHARACTERS_MAX = 64
"""Length of a task or device name."""

TOPIC_SLASHES_MAX = 7
"""What every cloud broker takes."""

KEPT_SNAPSHOTS = 2
"""So many newest snapshots keep their chunks on the broker."""

KEPT_DELTAS = 8
"""So many newest deltas stay on the broker: a device that is further behind takes the snapshot."""

TENSORS_MAX = 1_024
"""Tensors of one model."""

DIMENSIONS_MAX = 8

MAP_ITEMS_MAX = 256
"""Metrics, counters and the like of one message, and the keys of a message itself."""

TEXT_CHARACTERS_MAX = 1_024
"""Names of tensors and metrics, and lines for people."""

SUMMARY_EVALUATIONS_MAX = 128
"""Newest evaluations in an aggregator's summary. With the two below, the whole status stays under 24 KiB."""

SUMMARY_DEVICES_MAX = 64
"""Newest devices in an aggregator's summary."""

SUMMARY_BUCKETS_MAX = 16
"""Buckets of a summary's staleness histogram."""

MOMENT_MAX = 2**40
"""The latest moment of publication that is believed, Unix seconds (some 34 000 years from now). Among manifests of this
moment the last word counts: so whatever moment a stranger states, another can follow it.
"""

SIGNATURES_MAX = 4
"""Of one message: two keys overlap while they are exchanged, and both may have a spare."""


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What a decoder accepts of one kind of message; the lengths above hold for every kind."""

    compressed_bytes: int = 1 * MIB
    """Size of the payload as it stands on the wire."""
    decompressed_bytes: int = 64 * MIB
    """Size after LZ4; the frame must state it up front."""
    elements: int = 16_000_000
    """Numbers in all tensors of a model together; an update must fit the model's layout. In float32, with
    the longest names in ASCII, they fit `MODEL_LIMITS`."""
    map_items: ClassVar[int] = MAP_ITEMS_MAX


UPDATE_LIMITS = Limits()
"""What the aggregator takes from a device."""

MODEL_LIMITS = Limits(compressed_bytes=64 * MIB)
"""What a device takes from the aggregator (joined from chunks)."""

CHUNKS_MAX = MODEL_LIMITS.compressed_bytes // CHUNK_BYTES_MAX
"""Chunks of one model: those of the largest."""

MANIFEST_LIMITS = Limits(compressed_bytes=128 * KIB, decompressed_bytes=256 * KIB)
"""The digests of all chunks of the largest model are 70 KB and cannot be compressed; a delta of 24 KiB beside them."""

DELTA_LIMITS = Limits(compressed_bytes=DELTA_BYTES_MAX)
"""From the version before to a version, inside its manifest or by itself."""

CONTROL_LIMITS = Limits(compressed_bytes=64 * KIB, decompressed_bytes=256 * KIB)
"""Receipts, presence, evaluations and status."""
