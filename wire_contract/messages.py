"""The messages, as typed values. `codec.py` turns them into bytes and back.

On the wire every message is a map with short keys; the key stands in each field's `name=`. Key `v` is the schema
number of the message kind.

What a reader does with what it does not know, so that older and newer programs work together:

- unknown keys of a map are ignored; a field that may be left out has a default;
- a newer schema number is refused by name: what changes the meaning of a field raises it;
- an unknown value of a *status* field (`Outcome`, `RefusalReason`, `Status`) is read as `OTHER`: the message is
  otherwise understood, and the reader does what it does with an answer that says no more;
- an unknown value of a *how-to* field (a tensor's encoding, a delta's grid, a dtype) is refused by name: without it the
  numbers mean nothing.
"""

from typing import Annotated

import msgspec

from wire_contract.layout import TensorSpec
from wire_contract.limits import (
    CHUNKS_MAX,
    KEPT_DELTAS,
    SIGNATURES_MAX,
    SUMMARY_BUCKETS_MAX,
    SUMMARY_DEVICES_MAX,
    SUMMARY_EVALUATIONS_MAX,
    TENSORS_MAX,
    TEXT_CHARACTERS_MAX,
)
from wire_contract.message_fields import (
    INCARNATION_BYTES,
    KEY_ID_BYTES,
    OTHER,
    OUTCOMES,
    PAYLOAD_DIGEST_BYTES,
    REASONS,
    SIGNATURE_BYTES,
    SIGNED_SCHEMA,
    STATUSES,
    Count,
    Counters,
    Digest,
    Fingerprint,
    Grid,
    Incarnation,
    Metrics,
    Name,
    StatusText,
    Tensors,
    Text,
    Texts,
    Version,
)


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


class Signature(msgspec.Struct, frozen=True, array_like=True):
    """By one key; `signing.py` says over what."""

    key_id: Annotated[bytes, msgspec.Meta(min_length=KEY_ID_BYTES, max_length=KEY_ID_BYTES)]
    """First 8 bytes of the SHA-256 of the raw public key: says which key to try, and proves nothing."""
    value: Annotated[bytes, msgspec.Meta(min_length=SIGNATURE_BYTES, max_length=SIGNATURE_BYTES)]
    """Ed25519."""


class Signed(msgspec.Struct, frozen=True, kw_only=True):
    """A manifest or an update with signatures; it travels in place of the plain one, on the same topic."""

    body: bytes = msgspec.field(name="m")
    """The msgpack map of the plain message, byte for byte what was signed."""
    signatures: Annotated[tuple[Signature, ...], msgspec.Meta(min_length=1, max_length=SIGNATURES_MAX)] = msgspec.field(
        name="sg"
    )
    """Several while keys are exchanged; one that is good is enough."""
    schema: Annotated[int, msgspec.Meta(ge=SIGNED_SCHEMA)] = msgspec.field(name="v", default=SIGNED_SCHEMA)


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
    encoding: Text = msgspec.field(name="e", default="")
    """Chosen by the aggregator, for people and telemetry; the model itself says how to decode each tensor."""
    snapshot: Version | None = msgspec.field(name="sv", default=None)
    """The version that can be had whole; None: this one."""
    size_bytes: Count = msgspec.field(name="s")
    """Size of the snapshot's model payload, all chunks together."""
    chunk_digests: Annotated[tuple[Digest, ...], msgspec.Meta(max_length=CHUNKS_MAX)] = msgspec.field(
        name="c", default=()
    )
    """SHA-256 of each chunk payload, in order; empty when the model is inline."""
    inline: bytes | None = msgspec.field(name="x", default=None)
    delta: bytes | None = msgspec.field(name="dx", default=None)
    """A Delta message that leads to this version; None when there is none, or it is on its own topic only."""
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
    expires_at: Annotated[float, msgspec.Meta(ge=0)] | None = msgspec.field(name="ex", default=None)
    """Unix seconds after which a device that checks signatures no longer takes this manifest; None: never."""
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
    outcome: StatusText = msgspec.field(name="o")
    """An `Outcome`; of a newer program `OTHER`, which ends the update as every answer does but a refusal for `rate`."""
    version: Version = msgspec.field(name="b")
    """The newest version when the update was admitted."""
    weight: float = msgspec.field(name="w", default=0.0)
    staleness: Count = msgspec.field(name="a", default=0)
    reason: StatusText | None = msgspec.field(name="r", default=None)
    """A `RefusalReason`; of a newer program `OTHER`, and then its own name begins `detail`."""
    detail: Text = msgspec.field(name="x", default="")
    """One line for a person."""
    payload_digest: Annotated[bytes, msgspec.Meta(max_length=PAYLOAD_DIGEST_BYTES)] = msgspec.field(
        name="p", default=b""
    )
    """First 8 bytes of the SHA-256 of the refused payload, where there is no identity."""
    schema: int = msgspec.field(name="v", default=1)

    def __post_init__(self) -> None:
        for name, told, known in (("reason", self.reason, REASONS), ("outcome", self.outcome, OUTCOMES)):
            if told is None or told in known or told == OTHER:
                continue
            msgspec.structs.force_setattr(self, name, OTHER)
            detail = f"{told}: {self.detail}" if self.detail else told
            msgspec.structs.force_setattr(self, "detail", detail[:TEXT_CHARACTERS_MAX])


class Presence(msgspec.Struct, frozen=True, kw_only=True):
    """Whether a device is there. Retained; the offline form is the device's will."""

    status: StatusText = msgspec.field(name="o")
    """A `Status`, or `OTHER`."""
    firmware: Text = msgspec.field(name="f", default="")
    capability: Texts = msgspec.field(name="c", default_factory=dict)
    """What the device can do, by name."""
    schema: int = msgspec.field(name="v", default=1)

    def __post_init__(self) -> None:
        if self.status not in STATUSES:
            msgspec.structs.force_setattr(self, "status", OTHER)


class Evaluation(msgspec.Struct, frozen=True, kw_only=True):
    """What an evaluator measured of one version on data nobody trains on."""

    task: Name = msgspec.field(name="t")
    device: Name = msgspec.field(name="d")
    version: Version = msgspec.field(name="n")
    digest: Digest = msgspec.field(name="g")
    samples: Count = msgspec.field(name="s")
    metrics: Metrics = msgspec.field(name="m")
    schema: int = msgspec.field(name="v", default=1)


class MeasuredVersion(msgspec.Struct, frozen=True, array_like=True):
    """What one evaluator measured of one version, as a summary has it."""

    version: Version
    evaluator: Name
    accuracy: Annotated[float, msgspec.Meta(ge=0, le=1)]
    at: Annotated[float, msgspec.Meta(ge=0)]
    """Unix seconds at which the version was committed."""


class StalenessBucket(msgspec.Struct, frozen=True, array_like=True):
    """Merged updates whose staleness is `least` or more, up to the next bucket."""

    least: Count
    updates: Count


class SeenDevice(msgspec.Struct, frozen=True, array_like=True):
    """A device and the newest answer to it."""

    device: Name
    outcome: StatusText
    """An `Outcome`, or `OTHER`."""
    staleness: Count
    """Versions; of its newest merged update."""
    at: Annotated[float, msgspec.Meta(ge=0)]
    """Unix seconds of that answer."""
    merged: Count
    """Its updates since the ledger began."""

    def __post_init__(self) -> None:
        if self.outcome not in OUTCOMES:
            msgspec.structs.force_setattr(self, "outcome", OTHER)


class Summary(msgspec.Struct, frozen=True, kw_only=True):
    """The history in short, for whoever looks on and comes late. The newest first; what is older is left out."""

    at: Annotated[float, msgspec.Meta(ge=0)] = msgspec.field(name="at")
    """Unix seconds at which it was made."""
    since: Annotated[float, msgspec.Meta(ge=0)] = msgspec.field(name="a")
    """Unix seconds at which this aggregator started; what no ledger knows counts from here."""
    evaluations: Annotated[tuple[MeasuredVersion, ...], msgspec.Meta(max_length=SUMMARY_EVALUATIONS_MAX)] = (
        msgspec.field(name="e", default=())
    )
    staleness: Annotated[tuple[StalenessBucket, ...], msgspec.Meta(max_length=SUMMARY_BUCKETS_MAX)] = msgspec.field(
        name="h", default=()
    )
    """Of all merged updates since the ledger began."""
    devices: Annotated[tuple[SeenDevice, ...], msgspec.Meta(max_length=SUMMARY_DEVICES_MAX)] = msgspec.field(
        name="k", default=()
    )
    updates_per_minute: Count = msgspec.field(name="r", default=0)
    """Merged in the 60 seconds before `at`."""
    bytes_up: Count = msgspec.field(name="u", default=0)
    """Payloads of updates received: of the merged ones before `since`, of all after it."""
    bytes_down: Count = msgspec.field(name="w", default=0)
    """Payloads published since `since`, each once, however many devices the broker hands it to."""


class AggregatorStatus(msgspec.Struct, frozen=True, kw_only=True):
    """Whether an aggregator is there and what it did. Retained; the offline form is its will."""

    status: StatusText = msgspec.field(name="o")
    """A `Status`, or `OTHER`."""
    version: Version = msgspec.field(name="n")
    counters: Counters = msgspec.field(name="c", default_factory=dict)
    """Since the ledger began: merged, duplicate, refused, devices. While the next version waits for more devices than
    have handed something in: devices_missing, how many."""
    summary: Summary | None = msgspec.field(name="s", default=None)
    """None in the will, and of an aggregator that makes none."""
    schema: int = msgspec.field(name="v", default=1)

    def __post_init__(self) -> None:
        if self.status not in STATUSES:
            msgspec.structs.force_setattr(self, "status", OTHER)


Message = Update | Model | Delta | Manifest | Signed | Receipt | Presence | Evaluation | AggregatorStatus


def has_unknown_status(message: Message) -> bool:
    """Whether it holds a status that only a newer program knows: such a message is read, and never written."""
    return OTHER in {getattr(message, name, None) for name in ("outcome", "reason", "status")}
