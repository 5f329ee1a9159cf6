"""Every limit of the contract, by name. Decoding never allocates more than these allow."""

from dataclasses import dataclass
from typing import ClassVar

MIB = 1 << 20
KIB = 1 << 10

CHUNK_BYTES_MAX = 32 * KIB
"""Payload of one model chunk; below the smallest retained limit of the cloud brokers (64 KB)."""

INLINE_BYTES_MAX = 24 * KIB
"""A model up to this size is sent inside its manifest; the rest of 32 KiB is for the manifest's own fields."""

DELTA_BYTES_MAX = 256 * KIB
"""A delta is one message; up to `INLINE_BYTES_MAX`, the newest one is also sent inside its manifest. `INLINE_BYTES_MAX`
is the default limit of both, which every cloud broker accepts; an operator may allow up to this one if the broker
does."""

NAME_CHARACTERS_MAX = 64
"""Length of a task or device name. It is the common name of a device's certificate, for which X.509 allows 64."""

TOPIC_SLASHES_MAX = 7
"""What every cloud broker accepts: the limit of AWS IoT."""

KEPT_SNAPSHOTS = 2
"""Newest snapshots whose chunks stay retained on the broker: a device may still be downloading the one before."""

KEPT_DELTAS = 8
"""Newest deltas retained on the broker; a device that is further behind downloads the snapshot. Chosen, not measured:
at the default size, eight deltas (12 KiB) are fewer bytes than a built-in student in float16 (17 kB or more); with many
more, the snapshot would be smaller."""

TENSORS_MAX = 1_024
"""Tensors of one model. Chosen: the built-in students have 17 at most. It bounds the objects that a small payload can
make a decoder create."""

DIMENSIONS_MAX = 8
"""Chosen: a three-dimensional convolution has five. A larger one only lengthens what has to be checked."""

MAP_ITEMS_MAX = 256
"""Entries of a map in a message (metrics, counters), and keys of the message itself. Chosen: the message with most
keys, a manifest, has 18. It bounds objects, as `TENSORS_MAX` does."""

TEXT_CHARACTERS_MAX = 1_024
"""Length of names of tensors and metrics, and of texts for people. Chosen: a few sentences, or a deeply nested name in
a model; each may be in a log or ledger row."""

METRIC_MAX = 1e100
"""Largest magnitude of a main metric that is shown. Chosen: a perplexity before training can be astronomical, but sums
and axis ranges of values up to this one never overflow."""
LINE_LABEL_BYTES_MAX = 4 * KIB
"""Names of a line's labels inside a manifest, as msgpack; longer ones travel as their number and a fingerprint. With
the one below, they leave a third of the room that a manifest has beside an inline model (`INLINE_BYTES_MAX`)."""

LINE_BUFFER_BYTES_MAX = 1 * KIB
"""Fingerprints of a student's fixed buffers by name inside a manifest; the others share one. Chosen: room for about
fifteen, so that a message can name the buffer."""

SUMMARY_EVALUATIONS_MAX = 128
"""Newest evaluations in an aggregator's summary. With the two below, the whole status stays under 24 KiB."""

SUMMARY_DEVICES_MAX = 64
"""Newest devices in an aggregator's summary."""

SUMMARY_BUCKETS_MAX = 16
"""Buckets of a summary's staleness histogram. The aggregator uses 11 (`status.BUCKETS`)."""

MOMENT_MAX = 2**40
"""Latest publication time that is accepted, in Unix seconds (some 34,000 years from now). Of manifests with this very
time the last to arrive wins. So a forged manifest can always be followed by a genuine one, whatever time it states."""

SIGNATURES_MAX = 4
"""Signatures of one message: two keys overlap during a key rotation, and each may have a spare."""


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What a decoder accepts for one kind of message; the limits above hold for every kind."""

    compressed_bytes: int = 1 * MIB
    """Size of the payload on the wire. 1 MiB is the `message_size_limit` of our broker configurations."""
    decompressed_bytes: int = 64 * MIB
    """Size after LZ4 decompression; the frame header must state it. `elements` in float32 (64 MB) and their names."""
    elements: int = 16_000_000
    """Elements of all tensors of a model together (an update must fit the model's layout). As float32, with the longest
    names in ASCII, they fit `MODEL_LIMITS`. 16 million is chosen: more than a student for a small device has, and 64 MB
    in memory."""
    map_items: ClassVar[int] = MAP_ITEMS_MAX


UPDATE_LIMITS = Limits()
"""What the aggregator accepts from a device."""

MODEL_LIMITS = Limits(compressed_bytes=64 * MIB)
"""What a device accepts from the aggregator, joined from chunks. As large as decompressed, because weights hardly
compress."""

CHUNKS_MAX = MODEL_LIMITS.compressed_bytes // CHUNK_BYTES_MAX
"""Chunks of the largest model."""

MANIFEST_LIMITS = Limits(compressed_bytes=128 * KIB, decompressed_bytes=256 * KIB)
"""Room for the chunk digests of the largest model (70 kB, incompressible) and an inline delta of 24 KiB."""

DELTA_LIMITS = Limits(compressed_bytes=DELTA_BYTES_MAX)
"""A delta, inside a manifest or on its own topic."""

CONTROL_LIMITS = Limits(compressed_bytes=64 * KIB, decompressed_bytes=256 * KIB)
"""Receipts, presence, evaluations and status. The largest is a status, under 24 KiB; 64 KB is the smallest limit of the
cloud brokers."""
