"""The one model line of a task, in memory: the version, its master weights, the buffer of the next one, and who was
answered last. One thread changes it. It reads no clock and does no input or output; the ledger is its memory.

Master weights stay float32. What is published is near them (`wire_contract/publication/deltas.py`), and updates are
differences to *that*; because the next version is computed from the master again, what publishing loses never adds up
over versions.
"""

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple, cast

import numpy as np

from aggregator.admission import (
    LastOfDevice,
    Merge,
    Policy,
    Refuse,
    Standing,
    Verdict,
    admit,
    beyond_memory,
    norm_of,
    read_update,
)
from aggregator.ledger.file_format import LedgerError
from aggregator.ledger.ledger import INCARNATIONS_KEPT, Ledger
from aggregator.ledger.pruning import Kept
from aggregator.ledger.records import Batch, DeviceKey, MergedUpdate, RefusedUpdate, VersionRow
from aggregator.merging.fedbuff import Buffer
from aggregator.merging.peers import PEERS_MAX, Claim, Peers
from wire_contract.compression.choice import EncodingChoice, encode_as
from wire_contract.compression.planner import Plan
from wire_contract.encoding import ENCODERS, EncodingName, decode_vector
from wire_contract.errors import DecodeError
from wire_contract.layout import Layout, Vector
from wire_contract.limits import INLINE_BYTES_MAX, KEPT_DELTAS, MOMENT_MAX
from wire_contract.messages import Evaluation, RefusalReason, Update
from wire_contract.publication.deltas import EncodeDelta
from wire_contract.publication.manifest import Announcement, read_model
from wire_contract.publication.release import Shelf, first_shelf, next_shelf
from wire_contract.signatures.envelope import read
from wire_contract.topics import ParsedTopic

DELTA_BYTES = 1_536
"""Default: with updates of 1 to 2 KiB, what half of a dozen devices learned. A larger student may want more of both."""


@dataclass(frozen=True, kw_only=True)
class LineSettings:
    """How updates become versions."""

    task: str
    updates_per_version: int = 4
    """K: a version is due when so many devices have handed something in."""
    version_seconds: float = 60.0
    """T: a version is due this long after the first update in the buffer, also with fewer devices than K."""
    devices_min: int = 2
    """Of so many devices at least a version is made: one of a single device would publish that person's update."""
    server_rate: float = 1.0
    """η of FedBuff."""
    model_encoding: EncodingName = "float16"
    """Of snapshots."""
    delta_encoding: EncodingChoice | None = field(default_factory=lambda: Plan(bytes_max=DELTA_BYTES))
    """Of what leads from one version to the next; None: every version goes whole."""
    delta_message_bytes_max: int = INLINE_BYTES_MAX
    """Of a delta message; a version whose delta is larger goes whole."""
    snapshot_versions: int = KEPT_DELTAS
    """A snapshot is published at least every so many versions."""
    journal_versions_kept: int = 10_000
    """Versions whose updates stay in the journal."""
    policy: Policy = field(default_factory=Policy)

    @property
    def kept(self) -> Kept:
        """How far back the ledger goes."""
        return Kept(journal_versions=self.journal_versions_kept, staleness_max=self.policy.staleness_max)


class Judged(NamedTuple):
    """One update and what became of it."""

    verdict: Verdict
    update: Update | None
    """None: it could not be read."""
    version: int
    """The newest version when it was judged."""


class BatchBuilder:
    """Collects what one ledger transaction will write."""

    def __init__(self) -> None:
        self._merged: list[MergedUpdate] = []
        self._refused: list[RefusedUpdate] = []
        self._unremembered: list[RefusalReason] = []
        self._duplicates = 0
        self._evaluations: list[Evaluation] = []

    def take(self, judged: Judged, payload: bytes, *, into_version: int) -> None:
        """One judged update."""
        match judged.verdict:
            case Merge(weight, staleness, norm, scale):
                assert judged.update is not None
                self._merged.append(
                    MergedUpdate(
                        update=judged.update,
                        payload=payload,
                        into_version=into_version,
                        staleness=staleness,
                        weight=weight,
                        scale=scale,
                        norm=norm,
                    )
                )
            case Refuse(reason) as refusal:
                if refusal.seen_before:
                    self._duplicates += 1
                elif judged.update is None or not refusal.is_remembered:
                    self._unremembered.append(reason)
                else:
                    self._refused.append(RefusedUpdate(update=judged.update, reason=reason))
            case _:
                self._duplicates += 1

    def take_evaluation(self, evaluation: Evaluation) -> None:
        """One evaluator's word."""
        self._evaluations.append(evaluation)

    def build(self) -> Batch:
        """What was collected."""
        return Batch(
            merged=tuple(self._merged),
            refused=tuple(self._refused),
            unremembered=tuple(self._unremembered),
            duplicates=self._duplicates,
            evaluations=tuple(self._evaluations),
        )


class ModelLine:
    """See the module."""

    def __init__(
        self,
        settings: LineSettings,
        shelf: Shelf,
        weights: Vector,
        *,
        digests: Mapping[int, bytes],
        lasts: Mapping[DeviceKey, LastOfDevice],
        contributed: Mapping[str, int],
        claims: Mapping[str, Claim],
        recall: Callable[[DeviceKey], LastOfDevice | None],
        horizon: Callable[[], int],
    ) -> None:
        self.settings = settings
        self.layout = layout = shelf.published.layout
        self.shelf = shelf
        self.weights = weights
        self._digests = dict(digests)
        self._lasts = dict(lasts)
        self._contributed = dict(contributed)
        """The newest version that each device had a part in."""
        self._peers = Peers(claims)
        self._recall = recall
        self._horizon = horizon
        """The version from which on `recall` knows every update that was merged."""
        self._incarnations = Counter(device for device, _ in lasts)
        self._crowded = {device for device, count in self._incarnations.items() if count > INCARNATIONS_KEPT}
        self.buffer = Buffer(layout.size)
        self._difference: Vector = np.empty(layout.size, dtype=np.float32)
        self._standing = self._new_standing()

    @property
    def version(self) -> int:
        """The newest committed version."""
        return self.shelf.version

    @property
    def devices(self) -> int:
        """Devices that were ever answered."""
        return len(self._incarnations)

    def judge(self, topic: ParsedTopic, payload: bytes) -> Judged:
        """Judges one update and, if it is to be merged, takes it into the buffer."""
        policy = self.settings.policy
        update = read_update(topic, payload, self._standing, policy)
        if isinstance(update, Refuse):
            return Judged(update, None, self.version)
        key = (update.device, update.incarnation)
        last, may_be_forgotten = self._last(key)
        verdict: Verdict | None = beyond_memory(update, self._horizon()) if may_be_forgotten else None
        if verdict is None:
            verdict = admit(
                update,
                self._standing,
                policy,
                last,
                self._difference,
                absence=self._absence(update.device),
                slot_norm=self.buffer.norm_of(update.device),
            )
        match verdict:
            case Merge(weight, _, norm, scale):
                self.buffer.add(update.device, self._difference, weight, scale=scale, norm=norm, samples=update.samples)
                self._answered(key, LastOfDevice(update.sequence))
            case Refuse("rate"):  # the same bytes are welcome later, so that they were refused is not remembered
                return Judged(verdict, None, self.version)
            case Refuse(reason, is_remembered=True):
                self._answered(key, LastOfDevice(update.sequence, reason))
        return Judged(verdict, update, self.version)

    def is_due(self, *, waited_seconds: float) -> bool:
        """Whether the next version is due, the first update of the buffer having waited so long."""
        slots, settings = self.buffer.slots, self.settings
        if slots < settings.devices_min:
            return False
        return slots >= settings.updates_per_version or waited_seconds >= settings.version_seconds

    def devices_missing(self, *, waited_seconds: float) -> int:
        """So many more devices must hand something in before the version comes that T would have made by now."""
        if not self.buffer.slots or waited_seconds < self.settings.version_seconds:
            return 0
        return max(0, self.settings.devices_min - self.buffer.slots)

    def next_weights(self) -> Vector:
        """Master weights (layout.size,) of the next version; changes nothing."""
        return self.buffer.merged_onto(self.weights, self.settings.server_rate)

    def next_shelf(self, weights: Vector, *, at: float, encoding: EncodingName | None = None) -> Shelf:
        """How the next version, with master `weights` (layout.size,), is published; changes nothing.

        Raises:
            EncodeError: the weights do not fit the encoding.
        """
        settings = self.settings
        return next_shelf(
            self.shelf,
            weights,
            encoding=encoding or settings.model_encoding,
            encode_delta=_delta_encoder(settings, self.version),
            snapshot_versions=settings.snapshot_versions,
            published_at=at,
            delta_bytes_max=settings.delta_message_bytes_max,
        )

    def advance(self, shelf: Shelf, weights: Vector) -> None:
        """Goes over to a version that the ledger has committed."""
        assert shelf.version == self.version + 1, f"version {shelf.version} after {self.version}"
        self.shelf, self.weights = shelf, weights
        self._digests[shelf.version] = shelf.published.digest
        self._digests.pop(shelf.version - self.settings.policy.staleness_max - 1, None)
        devices = self.buffer.devices
        self._contributed |= dict.fromkeys(devices, shelf.version)
        self._peers.committed(
            {device: Claim(shelf.version, slot.samples, slot.norm) for device, slot in devices.items()}
        )
        self.buffer.clear()
        self._standing = self._new_standing()

    def crowded(self) -> list[str]:
        """Devices with more incarnations than are kept; the ledger is to drop the oldest, then `forget` them."""
        return sorted(self._crowded)

    def forget(self, key: DeviceKey) -> None:
        """Drops an incarnation that the ledger dropped."""
        del self._lasts[key]
        self._count_incarnation(key[0], -1)

    def knows(self, version: int, digest: bytes) -> bool:
        """Whether this version was published here, with these weights."""
        return self._digests.get(version) == digest

    def _absence(self, device: str) -> int:
        """As `staleness.py` has it; a device that was never merged counts once."""
        return self.version + 1 - self._contributed.get(device, self.version)

    def _last(self, key: DeviceKey) -> tuple[LastOfDevice | None, bool]:
        """The newest update of an incarnation, and whether there may have been one that nobody remembers."""
        last = self._lasts.get(key)
        if last is not None or self._incarnations[key[0]] < INCARNATIONS_KEPT:
            return last, False
        last = self._recall(key)  # the incarnation may be one that was forgotten; its late message is a duplicate
        return last, last is None

    def _answered(self, key: DeviceKey, last: LastOfDevice) -> None:
        if key not in self._lasts:
            self._count_incarnation(key[0], 1)
        self._lasts[key] = last

    def _count_incarnation(self, device: str, change: int) -> None:
        self._incarnations[device] += change
        if self._incarnations[device] > INCARNATIONS_KEPT:
            self._crowded.add(device)
        else:
            self._crowded.discard(device)

    def _new_standing(self) -> Standing:
        settings, weight_max = self.settings, self.settings.policy.weight_max
        return Standing(
            settings.task,
            self.version,
            self._digests,
            self.layout,
            norm_of(self.weights),
            usual_samples=self._peers.samples,
            usual_norm=self._peers.slot_norm,
            weight_max=max(1.0, settings.updates_per_version - 1.0) if weight_max is None else weight_max,
        )


def _delta_encoder(settings: LineSettings, version: int) -> EncodeDelta | None:
    choice = settings.delta_encoding
    return None if choice is None else lambda vector, layout: encode_as(choice, vector, layout, version=version)


def opening_shelf(settings: LineSettings, layout: Layout, weights: Vector, *, published_at: float) -> Shelf:
    """How version 0, with master `weights` (layout.size,), is published.

    Raises:
        EncodeError: the weights cannot be published.
    """
    return first_shelf(
        weights, task=settings.task, layout=layout, encoding=settings.model_encoding, published_at=published_at
    )


def announcement(settings: LineSettings, shelf: Shelf, *, expires_at: float | None = None) -> Announcement:
    """What stands on the broker for the newest version; its manifest is good until `expires_at` (Unix seconds)."""
    policy = settings.policy
    return shelf.announcement(shards=policy.shards, update_bytes_max=policy.update_bytes_max, expires_at=expires_at)


def row_of(shelf: Shelf) -> VersionRow:
    """The ledger's row of the newest version."""
    return VersionRow(
        version=shelf.version,
        parent=shelf.parent,
        digest=shelf.published.digest,
        encoding=shelf.encoding,
        chunks=len(shelf.chunks) if shelf.is_snapshot else None,
        committed_at=shelf.published_at,
        model=shelf.model,
        delta=shelf.deltas[0] if shelf.deltas else None,
    )


def restore(ledger: Ledger, settings: LineSettings) -> ModelLine:
    """The line as the ledger has it: newest weights plus the journal after them, bit for bit; so is what is published.

    Raises:
        LedgerError: the ledger is damaged.
    """
    layout = ledger.layout()
    assert layout is not None, "begin the line first"
    row, weights = ledger.newest()
    shelf = _restore_shelf(ledger, row, layout)
    if weights.size != layout.size:
        raise LedgerError(f"ledger {ledger.path} is damaged: version {row.version} has {weights.size} weights")
    line = ModelLine(
        settings,
        shelf,
        weights,
        digests=ledger.digests(since=row.version - settings.policy.staleness_max),
        lasts=ledger.last_of_devices(),
        contributed=ledger.contributed(since=0, until=row.version),
        claims=ledger.claims(PEERS_MAX, until=row.version),
        recall=ledger.last_merged,
        horizon=ledger.horizon,
    )
    difference = np.empty(layout.size, dtype=np.float32)
    for journalled in ledger.journal(into_version=row.version + 1):
        try:
            decode_vector(read(journalled.payload, Update).tensors, layout, out=difference)
        except DecodeError as error:
            raise LedgerError(f"ledger {ledger.path} is damaged: an update of {journalled.device}: {error}") from None
        line.buffer.add(
            journalled.device,
            difference,
            journalled.weight,
            scale=journalled.scale,
            norm=norm_of(difference) if journalled.norm is None else journalled.norm,
            samples=journalled.samples,
        )
    return line


def _restore_shelf(ledger: Ledger, row: VersionRow, layout: Layout) -> Shelf:
    """In the encoding it was committed with, whatever the settings say now: its digest is what updates name."""
    if row.encoding not in ENCODERS:
        raise LedgerError(f"ledger {ledger.path}: encoding {row.encoding!r} is not known here; update this program")
    snapshot = ledger.newest_snapshot()
    if row.model is None or snapshot.model is None:
        raise LedgerError(f"ledger {ledger.path} is damaged: its newest versions have no model messages")
    try:
        published = read_model(row.model)
    except DecodeError as error:
        raise LedgerError(f"ledger {ledger.path} is damaged: {error}") from None
    if (published.version, published.digest, published.layout) != (row.version, row.digest, layout):
        raise LedgerError(f"ledger {ledger.path} is damaged: the model message of version {row.version} is another's")
    return Shelf(
        published=published,
        parent=row.parent,
        encoding=cast("EncodingName", row.encoding),
        published_at=min(row.committed_at, float(MOMENT_MAX)),  # an older program may have stamped it with any
        model=row.model,
        snapshot_version=snapshot.version,
        snapshot=snapshot.model,
        deltas=tuple(delta for _, delta in ledger.deltas()),
    )
