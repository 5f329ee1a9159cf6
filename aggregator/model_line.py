"""The one model line of a task, in memory: the version, its master weights, the buffer of the next one, and who was
answered last. One thread changes it. It reads no clock and does no input or output; the ledger is its memory.

Master weights stay float32. What is published is near them (`wire_contract/publication/deltas.py`), and updates are
differences to *that*; because the next version is computed from the master again, what publishing loses never adds up
over versions.
"""

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np

from aggregator.admission import (
    INCARNATIONS_KEPT,
    AdmissionPolicy,
    DeviceKey,
    Judged,
    LastOfDevice,
    Merge,
    Refuse,
    Standing,
    Verdict,
    admit,
    beyond_memory,
    norm_of,
    read_update,
)
from aggregator.merging.buffer import Buffer
from aggregator.merging.peers import Claim, Peers
from aggregator.merging.rule import Contribution, Rule, Step
from aggregator.merging.rules import RULES
from wire_contract.compression.choice import EncodingChoice, encode_as
from wire_contract.compression.rate_control import CompressionTarget
from wire_contract.encoding import EncodingName
from wire_contract.layout import Layout, Vector
from wire_contract.limits import INLINE_BYTES_MAX, KEPT_DELTAS
from wire_contract.publication.deltas import EncodeDelta
from wire_contract.publication.manifest import Announcement
from wire_contract.publication.release import Release, first_release, next_release
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
    rule: Rule = RULES["fedbuff"]
    """How updates become the weights of a version."""
    server_rate: float = 1.0
    """η of the rule."""
    model_encoding: EncodingName = "float16"
    """Of snapshots."""
    delta_encoding: EncodingChoice | None = field(default_factory=lambda: CompressionTarget(bytes_max=DELTA_BYTES))
    """Of what leads from one version to the next; None: every version goes whole."""
    delta_message_bytes_max: int = INLINE_BYTES_MAX
    """Of a delta message; a version whose delta is larger goes whole."""
    snapshot_versions: int = KEPT_DELTAS
    """A snapshot is published at least every so many versions."""
    journal_versions_kept: int = 10_000
    """Versions whose updates stay in the journal."""
    policy: AdmissionPolicy = field(default_factory=AdmissionPolicy)


class ModelLine:
    """See the module."""

    def __init__(
        self,
        settings: LineSettings,
        shelf: Release,
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
        self.buffer = Buffer(settings.rule.begin(layout.size, settings.server_rate))
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
            return Judged(update, None, self.version, topic.device, payload)
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
            case Merge(weight, staleness, norm, scale):
                self.buffer.add(
                    Contribution(
                        device=update.device,
                        difference=self._difference,
                        weight=weight,
                        scale=scale,
                        norm=norm,
                        samples=update.samples,
                        base_version=update.base_version,
                        staleness=staleness,
                    )
                )
                self._answered(key, LastOfDevice(update.sequence))
            case Refuse("rate"):  # the same bytes are welcome later, so that they were refused is not remembered
                return Judged(verdict, None, self.version, topic.device, payload)
            case Refuse(reason, is_remembered=True):
                self._answered(key, LastOfDevice(update.sequence, reason))
        return Judged(verdict, update, self.version, topic.device, payload)

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

    def next_step(self) -> Step:
        """Master weights (layout.size,) of the next version, and what the rule then remembers; changes nothing."""
        return self.buffer.step(self.weights)

    def next_shelf(self, weights: Vector, *, at: float, encoding: EncodingName | None = None) -> Release:
        """How the next version, with master `weights` (layout.size,), is published; changes nothing.

        Raises:
            EncodeError: the weights do not fit the encoding.
        """
        settings = self.settings
        return next_release(
            self.shelf,
            weights,
            encoding=encoding or settings.model_encoding,
            encode_delta=_delta_encoder(settings, self.version),
            snapshot_versions=settings.snapshot_versions,
            published_at=at,
            delta_bytes_max=settings.delta_message_bytes_max,
        )

    def advance(self, shelf: Release, step: Step) -> None:
        """Goes over to a version that the ledger has committed."""
        assert shelf.version == self.version + 1, f"version {shelf.version} after {self.version}"
        self.shelf, self.weights = shelf, step.weights
        self._digests[shelf.version] = shelf.published.digest
        self._digests.pop(shelf.version - self.settings.policy.staleness_max - 1, None)
        devices = self.buffer.devices
        self._contributed |= dict.fromkeys(devices, shelf.version)
        self._peers.committed(
            {device: Claim(shelf.version, slot.samples, slot.norm) for device, slot in devices.items()}
        )
        self.buffer.restore(step.state)
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


def opening_shelf(settings: LineSettings, layout: Layout, weights: Vector, *, published_at: float) -> Release:
    """How version 0, with master `weights` (layout.size,), is published.

    Raises:
        EncodeError: the weights cannot be published.
    """
    return first_release(
        weights, task=settings.task, layout=layout, encoding=settings.model_encoding, published_at=published_at
    )


def announcement(settings: LineSettings, shelf: Release, *, expires_at: float | None = None) -> Announcement:
    """What stands on the broker for the newest version; its manifest is good until `expires_at` (Unix seconds)."""
    policy = settings.policy
    return shelf.announcement(shards=policy.shards, update_bytes_max=policy.update_bytes_max, expires_at=expires_at)
