"""The messages, as typed values. `codec.py` turns them into bytes and back.

On the wire, every message is a map with short keys, which are given as `name=` of each field. Key `v` is the schema
number of the message kind.

How a reader treats what it does not know, so that older and newer programs work together:

- unknown keys of a map are ignored; optional fields have a default;
- a newer schema number is refused by name; changing the meaning of a field raises the number;
- an unknown value of a *status* field (`Outcome`, `RefusalReason`, `Status`) is read as `OTHER`: the rest of
  the message is still understood, and the reader treats it as an answer without further details;
- an unknown value of a field that says how to decode (a tensor's encoding, a delta's grid, a dtype) is refused, and
  named: without it the numbers mean nothing.
"""

from typing import Annotated

import msgspec

from wire_contract.layout import TensorSpec
from wire_contract.limits import CHUNKS_MAX, KEPT_DELTAS, SIGNATURES_MAX, TENSORS_MAX, TEXT_CHARACTERS_MAX
from wire_contract.line_description import LineDescription
from wire_contract.main_metric import ACCURACY, MainMetric
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
from wire_contract.summary import Summary


class Identity(msgspec.Struct, frozen=True, array_like=True):
    """Identifies one update for ever."""

    device: str
    incarnation: bytes
    sequence: int

    def __str__(self) -> str:
        return f"{self.device}/{self.incarnation.hex()}/{self.sequence}"


class Update(msgspec.Struct, frozen=True, kw_only=True):
    """What one device learned. Receiving it twice must change nothing."""

    task: Name = msgspec.field(name="t")
    device: Name = msgspec.field(name="d")
    incarnation: Incarnation = msgspec.field(name="i")
    """Random, drawn when the device's outbox was created: a reinstalled device is a new incarnation."""
    sequence: Annotated[int, msgspec.Meta(ge=1, le=2**53)] = msgspec.field(name="n")
    """Counts this device's updates within `incarnation`; assigned once, kept across retries."""
    base_version: Version = msgspec.field(name="b")
    """The published version the device started from; staleness is computed from it, never guessed."""
    base_digest: Digest = msgspec.field(name="bd")
    layout_fingerprint: Fingerprint = msgspec.field(name="l")
    samples: Annotated[int, msgspec.Meta(ge=1, le=2**53)] = msgspec.field(name="s")
    local_steps: Count = msgspec.field(name="k")
    """Optimiser steps that led to this update."""
    train_seconds: Annotated[float, msgspec.Meta(ge=0)] = msgspec.field(name="ts")
    """Duration of local training; for telemetry only, never a weight."""
    metrics: Metrics = msgspec.field(name="m", default_factory=dict)
    """What the device measured during training, by name (loss, accuracy)."""
    tensors: Tensors = msgspec.field(name="x")
    """The difference from the base, one entry per tensor of the layout, in its order."""
    schema: int = msgspec.field(name="v", default=1)

    @property
    def identity(self) -> Identity:
        return Identity(self.device, self.incarnation, self.sequence)


class Signature(msgspec.Struct, frozen=True, array_like=True):
    """A signature by one key; `signatures/signing.py` defines the signed bytes."""

    key_id: Annotated[bytes, msgspec.Meta(min_length=KEY_ID_BYTES, max_length=KEY_ID_BYTES)]
    """First 8 bytes of the SHA-256 of the raw public key: tells which key to try, and proves nothing."""
    value: Annotated[bytes, msgspec.Meta(min_length=SIGNATURE_BYTES, max_length=SIGNATURE_BYTES)]
    """Ed25519."""


class Signed(msgspec.Struct, frozen=True, kw_only=True):
    """A manifest or an update with signatures; published instead of the unsigned one, on the same topic."""

    body: bytes = msgspec.field(name="m")
    """The msgpack map of the unsigned message: exactly the bytes that were signed."""
    signatures: Annotated[tuple[Signature, ...], msgspec.Meta(min_length=1, max_length=SIGNATURES_MAX)] = msgspec.field(
        name="sg"
    )
    """Several during a key rotation; one valid signature is enough."""
    schema: Annotated[int, msgspec.Meta(ge=SIGNED_SCHEMA)] = msgspec.field(name="v", default=SIGNED_SCHEMA)


class Model(msgspec.Struct, frozen=True, kw_only=True):
    """A published version as a whole, the same bits for everybody."""

    task: Name = msgspec.field(name="t")
    version: Version = msgspec.field(name="n")
    parent: Version | None = msgspec.field(name="p")
    """The version that this one follows; None for an initial model."""
    layout: Annotated[tuple[TensorSpec, ...], msgspec.Meta(max_length=TENSORS_MAX)] = msgspec.field(name="l")
    tensors: Tensors = msgspec.field(name="x")
    digest: Digest = msgspec.field(name="d")
    """SHA-256 of the decoded float32 weights."""
    schema: int = msgspec.field(name="v", default=1)


class Delta(msgspec.Struct, frozen=True, kw_only=True):
    """The step from the version before (`version` - 1), bit by bit; `publication/deltas.py` says how."""

    task: Name = msgspec.field(name="t")
    version: Annotated[int, msgspec.Meta(ge=1, le=2**53)] = msgspec.field(name="n")
    parent_digest: Digest = msgspec.field(name="pd")
    """Digest of the weights to which it must be added."""
    digest: Digest = msgspec.field(name="d")
    """Digest of the resulting weights."""
    grid: Grid = msgspec.field(name="e")
    """The encoding to which the sum is rounded, so that a snapshot holds this version exactly."""
    tensors: Tensors = msgspec.field(name="x")
    schema: int = msgspec.field(name="v", default=1)


class Manifest(msgspec.Struct, frozen=True, kw_only=True):
    """Announces a version and how to get it. Retained.

    - the delta from the version before, inline;
    - earlier deltas, each on a retained topic of its own;
    - a snapshot of this version, or of one from which the deltas lead here: inline if there is no delta and it fits,
      else in retained chunks.

    A reader that does not know deltas takes the snapshot, and is a few versions behind at most.
    """

    task: Name = msgspec.field(name="t")
    version: Version = msgspec.field(name="n")
    parent: Version | None = msgspec.field(name="p")
    digest: Digest = msgspec.field(name="d")
    """SHA-256 of the decoded float32 weights: the base digest of updates that start here."""
    layout_fingerprint: Fingerprint = msgspec.field(name="l")
    encoding: Text = msgspec.field(name="e", default="")
    """For people and telemetry; the model message itself says how to decode each tensor."""
    snapshot: Version | None = msgspec.field(name="sv", default=None)
    """The version of the snapshot; None: this version."""
    size_bytes: Count = msgspec.field(name="s")
    """Size of the snapshot: its model message, all chunks together."""
    chunk_digests: Annotated[tuple[Digest, ...], msgspec.Meta(max_length=CHUNKS_MAX)] = msgspec.field(
        name="c", default=()
    )
    """SHA-256 of each chunk, in order; empty if the snapshot is inline."""
    inline: bytes | None = msgspec.field(name="x", default=None)
    delta: bytes | None = msgspec.field(name="dx", default=None)
    """The delta message that leads to this version; None if there is none, or it is only on its own topic."""
    delta_sizes: Annotated[tuple[Count, ...], msgspec.Meta(max_length=KEPT_DELTAS)] = msgspec.field(
        name="ds", default=()
    )
    """Sizes of the retained deltas: to this version, to the one before it, and so on."""
    shards: Annotated[int, msgspec.Meta(ge=1, le=65_536)] = msgspec.field(name="h", default=1)
    """Devices publish to shard CRC-32(device) mod shards."""
    update_bytes_max: Annotated[int, msgspec.Meta(ge=1)] = msgspec.field(name="u")
    """The aggregator refuses larger updates."""
    published_at: Annotated[float, msgspec.Meta(ge=0)] = msgspec.field(name="at")
    """Unix seconds at which the version was committed."""
    expires_at: Annotated[float, msgspec.Meta(ge=0)] | None = msgspec.field(name="ex", default=None)
    """Unix seconds after which devices that check signatures no longer accept this manifest; None: never."""
    next_line: Name | None = msgspec.field(name="nl", default=None)
    """The line that follows this one (`lines.py`), for devices with its student; None: this is the newest."""
    closed: bool = msgspec.field(name="cl", default=False)
    """Whether this line has ended: its aggregator refuses further updates."""
    line: LineDescription | None = msgspec.field(name="ln", default=None)
    """What the student's outputs and fixed buffers are; None, and then not written: the line began before there were
    descriptions."""
    schema: int = msgspec.field(name="v", default=2)

    @property
    def snapshot_version(self) -> int:
        """The version of the snapshot."""
        return self.version if self.snapshot is None else self.snapshot


class Receipt(msgspec.Struct, frozen=True, kw_only=True):
    """The aggregator's answer to one update. The device keeps the update until it arrives."""

    incarnation: Annotated[bytes, msgspec.Meta(max_length=INCARNATION_BYTES)] = msgspec.field(name="i", default=b"")
    """Empty if the update could not be decoded; `payload_digest` identifies it then."""
    sequence: Count = msgspec.field(name="n", default=0)
    outcome: StatusText = msgspec.field(name="o")
    """An `Outcome`, or `OTHER` from a newer program. Every answer settles the update, except a refusal for `rate`."""
    version: Version = msgspec.field(name="b")
    """The newest version when the update was admitted."""
    weight: float = msgspec.field(name="w", default=0.0)
    staleness: Count = msgspec.field(name="a", default=0)
    reason: StatusText | None = msgspec.field(name="r", default=None)
    """A `RefusalReason`, or `OTHER` from a newer program, whose own word then begins `detail`."""
    detail: Text = msgspec.field(name="x", default="")
    """One line for a person."""
    payload_digest: Annotated[bytes, msgspec.Meta(max_length=PAYLOAD_DIGEST_BYTES)] = msgspec.field(
        name="p", default=b""
    )
    """First 8 bytes of the SHA-256 of the refused payload, if there is no identity."""
    schema: int = msgspec.field(name="v", default=1)

    def __post_init__(self) -> None:
        for name, value, known in (("reason", self.reason, REASONS), ("outcome", self.outcome, OUTCOMES)):
            if value is None or value in known or value == OTHER:
                continue
            msgspec.structs.force_setattr(self, name, OTHER)
            detail = f"{value}: {self.detail}" if self.detail else value
            msgspec.structs.force_setattr(self, "detail", detail[:TEXT_CHARACTERS_MAX])


class Presence(msgspec.Struct, frozen=True, kw_only=True):
    """Whether a device is online. Retained; the offline form is the device's will."""

    status: StatusText = msgspec.field(name="o")
    """A `Status`, or `OTHER`."""
    firmware: Text = msgspec.field(name="f", default="")
    capability: Texts = msgspec.field(name="c", default_factory=dict)
    """What the device supports, by name."""
    schema: int = msgspec.field(name="v", default=1)

    def __post_init__(self) -> None:
        if self.status not in STATUSES:
            msgspec.structs.force_setattr(self, "status", OTHER)


class Evaluation(msgspec.Struct, frozen=True, kw_only=True):
    """What an evaluator measured for one version, on held-out data."""

    task: Name = msgspec.field(name="t")
    device: Name = msgspec.field(name="d")
    version: Version = msgspec.field(name="n")
    digest: Digest = msgspec.field(name="g")
    samples: Count = msgspec.field(name="s")
    metrics: Metrics = msgspec.field(name="m")
    declared: MainMetric | msgspec.UnsetType = msgspec.field(name="mm", default=msgspec.UNSET)
    """The main metric. Accuracy is not declared, so that its messages are those of the first release."""
    schema: int = msgspec.field(name="v", default=1)

    def __post_init__(self) -> None:
        if self.declared == ACCURACY:
            msgspec.structs.force_setattr(self, "declared", msgspec.UNSET)

    @property
    def main(self) -> MainMetric:
        """The main metric."""
        return self.declared or ACCURACY

    @property
    def main_value(self) -> float | None:
        """The value of the main metric; None if it is missing or cannot be shown."""
        return self.main.value_in(self.metrics)


class AggregatorStatus(msgspec.Struct, frozen=True, kw_only=True):
    """Whether an aggregator is online, and its counters. Retained; the offline form is its will."""

    status: StatusText = msgspec.field(name="o")
    """A `Status`, or `OTHER`."""
    version: Version = msgspec.field(name="n")
    counters: Counters = msgspec.field(name="c", default_factory=dict)
    """Since the ledger was created: merged, duplicate, refused, devices. While the next version lacks updates of enough
    devices, also devices_missing: how many more it needs."""
    summary: Summary | None = msgspec.field(name="s", default=None)
    """None in the will, and from an aggregator that makes no summary."""
    schema: int = msgspec.field(name="v", default=1)

    def __post_init__(self) -> None:
        if self.status not in STATUSES:
            msgspec.structs.force_setattr(self, "status", OTHER)


Message = Update | Model | Delta | Manifest | Signed | Receipt | Presence | Evaluation | AggregatorStatus


def has_unknown_status(message: Message) -> bool:
    """Whether it has a status that only a newer program knows. Such a message may be read, but is never written."""
    return OTHER in {getattr(message, name, None) for name in ("outcome", "reason", "status")}
