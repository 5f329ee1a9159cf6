"""The messages, as typed values. `codec.py` turns them into bytes and back.

On the wire every message is a map with short keys; the key stands in each field's `name=`. Key `v` is the schema
number of the message kind. Unknown further keys are ignored, so that an older reader survives an added field;
what changes the meaning of a field raises the schema number.
"""

from typing import Annotated, Literal

import msgspec

from wire_contract.encoding import EncodedTensor
from wire_contract.layout import DIGEST_BYTES, FINGERPRINT_BYTES, TensorSpec
from wire_contract.limits import (
    CHUNKS_MAX,
    KEPT_DELTAS,
    MAP_ITEMS_MAX,
    NAME_CHARACTERS_MAX,
    TENSORS_MAX,
    TEXT_CHARACTERS_MAX,
)

INCARNATION_BYTES = 8
PAYLOAD_DIGEST_BYTES = 8

NAME_PATTERN = r"^[A-Za-z0-9][A-Za-z0-9_.\-]*\Z"
Name = Annotated[str, msgspec.Meta(pattern=NAME_PATTERN, max_length=NAME_CHARACTERS_MAX)]
Count = Annotated[int, msgspec.Meta(ge=0, le=2**53)]
"""A number that JavaScript, InfluxDB and SQLite all hold exactly."""
Version = Count
Digest = Annotated[bytes, msgspec.Meta(min_length=DIGEST_BYTES, max_length=DIGEST_BYTES)]
Fingerprint = Annotated[bytes, msgspec.Meta(min_length=FINGERPRINT_BYTES, max_length=FINGERPRINT_BYTES)]
Incarnation = Annotated[bytes, msgspec.Meta(min_length=INCARNATION_BYTES, max_length=INCARNATION_BYTES)]
Text = Annotated[str, msgspec.Meta(max_length=TEXT_CHARACTERS_MAX)]
Metrics = Annotated[dict[Text, float], msgspec.Meta(max_length=MAP_ITEMS_MAX)]
Texts = Annotated[dict[Text, Text], msgspec.Meta(max_length=MAP_ITEMS_MAX)]
Counters = Annotated[dict[Text, int], msgspec.Meta(max_length=MAP_ITEMS_MAX)]
Tensors = Annotated[tuple[EncodedTensor, ...], msgspec.Meta(max_length=TENSORS_MAX)]

Grid = Literal["float32", "float16"]
Outcome = Literal["merged", "duplicate", "refused"]
RefusalReason = Literal[
    "too_stale", "unknown_base", "malformed", "not_finite", "too_large", "norm", "layout", "budget", "rate"
]


class Identity(msgspec.Struct, frozen=True, array_like=True):
    """Names one update for ever."""

    device: str
    incarnation: bytes
    sequence: int

    def __str__(self) -> str:
        return f"{self.device}/{self.incarnation.hex()}/{self.sequence}"


class Update(msgspec.Struct, frozen=True, kw_only=True):
    """What one device learned. Merging it twice must change nothing."""

    task: Name = msgspec.field(name="t")
    device: Name = msgspec.field(name="d")
    incarnation: Incarnation = msgspec.field(name="i")
    """Random, made when the device's outbox was created: a reinstalled device is another incarnation."""
    sequence: Annotated[int, msgspec.Meta(ge=1, le=2**53)] = msgspec.field(name="n")
    """Counts this device's updates since `incarnation`; made once, kept across retries."""
    base_version: Version = msgspec.field(name="b")
    """The published version the device started from; staleness is computed from it, never guessed."""
    base_digest: Digest = msgspec.field(name="bd")
    layout_fingerprint: Fingerprint = msgspec.field(name="l")
    samples: Annotated[int, msgspec.Meta(ge=1, le=2**53)] = msgspec.field(name="s")
    local_steps: Count = msgspec.field(name="k")
    """Optimiser steps behind the difference."""
    train_seconds: Annotated[float, msgspec.Meta(ge=0)] = msgspec.field(name="ts")
    """Time of local training; telemetry only, never a weight."""
    metrics: Metrics = msgspec.field(name="m", default_factory=dict)
    """What the device measured while training, by name (loss, accuracy)."""
    tensors: Tensors = msgspec.field(name="x")
    """The difference to the base, one entry per tensor of the layout, in its order."""
    schema: int = msgspec.field(name="v", default=1)

    @property
    def identity(self) -> Identity:
        return Identity(self.device, self.incarnation, self.sequence)


class Model(msgspec.Struct, frozen=True, kw_only=True):
    """One published version: what everybody has, bit for bit."""

    task: Name = msgspec.field(name="t")
    version: Version = msgspec.field(name="n")
    parent: Version | None = msgspec.field(name="p")
    """The version this one was merged onto; None for an initial model."""
    layout: Annotated[tuple[TensorSpec, ...], msgspec.Meta(max_length=TENSORS_MAX)] = msgspec.field(name="l")
    tensors: Tensors = msgspec.field(name="x")
    digest: Digest = msgspec.field(name="d")
    """SHA-256 of the decoded float32 weights."""
    schema: int = msgspec.field(name="v", default=1)


class Delta(msgspec.Struct, frozen=True, kw_only=True):
    """How a version comes of the one before it (`version` - 1), bit for bit; the arithmetic stands in `deltas.py`."""

    task: Name = msgspec.field(name="t")
    version: Annotated[int, msgspec.Meta(ge=1, le=2**53)] = msgspec.field(name="n")
    parent_digest: Digest = msgspec.field(name="pd")
    """Of the weights that it must be added to."""
    digest: Digest = msgspec.field(name="d")
    """Of the weights that come of it."""
    grid: Grid = msgspec.field(name="e")
    """What the sum is rounded to: the encoding that holds this version exactly."""
    tensors: Tensors = msgspec.field(name="x")
    schema: int = msgspec.field(name="v", default=1)


class Manifest(msgspec.Struct, frozen=True, kw_only=True):
    """Announces a version and the ways to it. Retained.

    - the delta from the version before, inline;
    - the deltas before that, each in a retained topic of its own;
    - a snapshot, of this version or of one that the deltas lead on from: inline when there is no delta and it fits, in
      retained chunks otherwise.

    Who knows nothing of deltas takes the snapshot, and is a few versions behind at most.
    """

    task: Name = msgspec.field(name="t")
    version: Version = msgspec.field(name="n")
    parent: Version | None = msgspec.field(name="p")
    digest: Digest = msgspec.field(name="d")
    """SHA-256 of the decoded float32 weights: the base digest of updates that start here."""
    layout_fingerprint: Fingerprint = msgspec.field(name="l")
    encoding: Text = msgspec.field(name="e")
    """Chosen by the aggregator, for people and telemetry; the model itself says how to decode each tensor."""
    snapshot: Version | None = msgspec.field(name="sv", default=None)
    """The version that can be had whole; None: this one."""
    size_bytes: Count = msgspec.field(name="s")
    """Size of the snapshot's model payload, all chunks together."""
    chunk_digests: Annotated[tuple[Digest, ...], msgspec.Meta(max_length=CHUNKS_MAX)] = msgspec.field(name="c")
    """SHA-256 of each chunk payload, in order; empty when the model is inline."""
    inline: bytes | None = msgspec.field(name="x", default=None)
    delta: bytes | None = msgspec.field(name="dx", default=None)
    """A Delta message that leads to this version."""
    delta_sizes: Annotated[tuple[Count, ...], msgspec.Meta(max_length=KEPT_DELTAS)] = msgspec.field(
        name="ds", default=()
    )
    """Bytes of the deltas that lead to this version, the one before it, …, as far back as they are kept."""
    shards: Annotated[int, msgspec.Meta(ge=1, le=65_536)] = msgspec.field(name="h", default=1)
    """Devices publish to shard crc32(device) mod shards."""
    update_bytes_max: Annotated[int, msgspec.Meta(ge=1)] = msgspec.field(name="u")
    """The aggregator refuses larger updates."""
    published_at: Annotated[float, msgspec.Meta(ge=0)] = msgspec.field(name="at")
    """Unix seconds at which the version was committed."""
    signature: bytes | None = msgspec.field(name="sig", default=None)
    schema: int = msgspec.field(name="v", default=2)

    @property
    def snapshot_version(self) -> int:
        """The version that can be had whole."""
        return self.version if self.snapshot is None else self.snapshot


class Receipt(msgspec.Struct, frozen=True, kw_only=True):
    """What became of one update. The device keeps an update until this comes."""

    incarnation: Annotated[bytes, msgspec.Meta(max_length=INCARNATION_BYTES)] = msgspec.field(name="i", default=b"")
    """Empty when the update could not be read; `payload_digest` names it then."""
    sequence: Count = msgspec.field(name="n", default=0)
    outcome: Outcome = msgspec.field(name="o")
    version: Version = msgspec.field(name="b")
    """The newest version when the update was admitted."""
    weight: float = msgspec.field(name="w", default=0.0)
    staleness: Count = msgspec.field(name="a", default=0)
    reason: RefusalReason | None = msgspec.field(name="r", default=None)
    detail: Text = msgspec.field(name="x", default="")
    """One line for a person."""
    payload_digest: Annotated[bytes, msgspec.Meta(max_length=PAYLOAD_DIGEST_BYTES)] = msgspec.field(
        name="p", default=b""
    )
    """First 8 bytes of the SHA-256 of the refused payload, where there is no identity."""
    schema: int = msgspec.field(name="v", default=1)


class Presence(msgspec.Struct, frozen=True, kw_only=True):
    """Whether a device is there. Retained; the offline form is the device's will."""

    status: Literal["online", "offline"] = msgspec.field(name="o")
    firmware: Text = msgspec.field(name="f", default="")
    capability: Texts = msgspec.field(name="c", default_factory=dict)
    """What the device can do, by name."""
    schema: int = msgspec.field(name="v", default=1)


class Evaluation(msgspec.Struct, frozen=True, kw_only=True):
    """What an evaluator measured of one version on data nobody trains on."""

    task: Name = msgspec.field(name="t")
    device: Name = msgspec.field(name="d")
    version: Version = msgspec.field(name="n")
    digest: Digest = msgspec.field(name="g")
    samples: Count = msgspec.field(name="s")
    metrics: Metrics = msgspec.field(name="m")
    schema: int = msgspec.field(name="v", default=1)


class AggregatorStatus(msgspec.Struct, frozen=True, kw_only=True):
    """Whether an aggregator is there and what it did. Retained; the offline form is its will."""

    status: Literal["online", "offline"] = msgspec.field(name="o")
    version: Version = msgspec.field(name="n")
    counters: Counters = msgspec.field(name="c", default_factory=dict)
    """Since the ledger began: merged, duplicate, refused, devices."""
    schema: int = msgspec.field(name="v", default=1)


Message = Update | Model | Delta | Manifest | Receipt | Presence | Evaluation | AggregatorStatus
