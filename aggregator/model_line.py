"""The model line of a task in memory: newest version, master weights, buffer of the next version, last answers.

Changed by one thread only. It reads no clock and does no input or output; the ledger makes it durable.

Master weights are float32. The published weights are an encoded approximation of them
(`wire_contract/publication/deltas.py`), and updates are differences to the published ones. Each version is computed
from the master weights, so encoding errors do not accumulate over versions.
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
from aggregator.merging.statistics import RunningStatistics
from wire_contract.compression.choice import EncodingChoice, encode_as
from wire_contract.compression.rate_control import CompressionTarget
from wire_contract.encoding import EncodingName
from wire_contract.layout import Layout, Vector
from wire_contract.limits import INLINE_BYTES_MAX, KEPT_DELTAS
from wire_contract.line_description import LineDescription
from wire_contract.publication.deltas import EncodeDelta
from wire_contract.publication.manifest import Announcement
from wire_contract.publication.release import Release, first_release, next_release
from wire_contract.topics import ParsedTopic

DELTA_BYTES = 1_536
"""Default size of a delta, bytes: with updates of 1 to 2 KiB, enough for what six devices learned. A larger student may
need more of both."""


@dataclass(frozen=True, kw_only=True)
class LineSettings:
    """Settings of a line: how updates become versions, and how versions are published."""

    task: str
    updates_per_version: int = 4
    """K: a version is due when this many devices have contributed. 4 is a fixed guess, as the aggregator does not know
    how many devices there are: two thirds of them is best (`docs/decisions/0037-devices-per-version.md`)."""
    version_seconds: float = 60.0
    """T: a version is due this long after the first buffered update, even with fewer than K devices. Chosen, not
    measured: less makes more versions of fewer devices, more delays what devices have learned."""
    devices_min: int = 2
    """Fewest devices in a version: a version of a single device would publish that person's update."""
    rule: Rule = RULES["fedbuff"]
    """Merging rule."""
    server_rate: float = 1.0
    """η of the merging rule. See `docs/decisions/0037-devices-per-version.md`."""
    model_encoding: EncodingName = "float16"
    """Encoding of snapshots."""
    delta_encoding: EncodingChoice | None = field(default_factory=lambda: CompressionTarget(bytes_max=DELTA_BYTES))
    """Encoding of deltas; None: every version is published as a snapshot."""
    delta_message_bytes_max: int = INLINE_BYTES_MAX
    """Largest delta message; a version with a larger delta is published as a snapshot."""
    snapshot_versions: int = KEPT_DELTAS
    """Versions from one snapshot to the next, at most."""
    journal_versions_kept: int = 10_000
    """Versions whose updates the journal keeps. See `docs/decisions/0051-journal-pruning.md`."""
    policy: AdmissionPolicy = field(default_factory=AdmissionPolicy)


class ModelLine:
    """One task's line; see the module."""

    def __init__(
        self,
        settings: LineSettings,
        release: Release,
        weights: Vector,
        *,
        digests: Mapping[int, bytes],
        lasts: Mapping[DeviceKey, LastOfDevice],
        contributed: Mapping[str, int],
        claims: Mapping[str, Claim],
        recall: Callable[[DeviceKey], LastOfDevice | None],
        horizon: Callable[[], int],
        description: LineDescription | None = None,
    ) -> None:
        self.settings = settings
        self.layout = layout = release.published.layout
        self.release = release
        self.weights = weights
        self.description = description
        """What the student's outputs and fixed buffers are; None: not known."""
        self._digests = dict(digests)
        self._lasts = dict(lasts)
        self._contributed = dict(contributed)
        """Newest version that each device contributed to."""
        self._peers = Peers(claims)
        self._recall = recall
        self._horizon = horizon
        """First version from which on `recall` finds every merged update."""
        self._incarnations = Counter(device for device, _ in lasts)
        self._crowded = {device for device, count in self._incarnations.items() if count > INCARNATIONS_KEPT}
        self.buffer = Buffer(
            settings.rule.begin(layout.weights_size, settings.server_rate),
            RunningStatistics(layout.channels, settings.server_rate) if layout.has_statistics else None,
        )
        self._difference: Vector = np.empty(layout.size, dtype=np.float32)
        self.next_line: str | None = None
        """Name of the line that follows this one."""
        self.is_closed = False
        self._standing = self._new_standing()

    @property
    def version(self) -> int:
        """The newest committed version."""
        return self.release.version

    @property
    def devices(self) -> int:
        """Number of devices that were ever answered."""
        return len(self._incarnations)

    def judge(self, topic: ParsedTopic, payload: bytes) -> Judged:
        """Judges one update and, if it is accepted, adds it to the buffer."""
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
            case Merge(weight, staleness, norm, scale, statistics_norm, statistics_scale):
                self.buffer.add(
                    Contribution(
                        device=update.device,
                        unclipped=self._difference[: self.layout.weights_size],
                        weight=weight,
                        scale=scale,
                        norm=norm,
                        samples=update.samples,
                        base_version=update.base_version,
                        staleness=staleness,
                        statistics=self._difference[self.layout.weights_size :],
                        statistics_norm=statistics_norm or 0.0,
                        statistics_scale=statistics_scale,
                    )
                )
                self._answered(key, LastOfDevice(update.sequence))
            case Refuse("rate"):  # the device will resend the same bytes, so this refusal is not stored
                return Judged(verdict, None, self.version, topic.device, payload)
            case Refuse(reason, is_remembered=True):
                self._answered(key, LastOfDevice(update.sequence, reason))
        return Judged(verdict, update, self.version, topic.device, payload)

    def is_due(self, *, waited_seconds: float) -> bool:
        """Whether the next version is due; `waited_seconds` is the age of the oldest buffered update."""
        slots, settings = self.buffer.slots, self.settings
        if slots < settings.devices_min:
            return False
        is_old = waited_seconds >= settings.version_seconds
        return slots >= settings.updates_per_version or is_old or self.is_closed

    def devices_missing(self, *, waited_seconds: float) -> int:
        """Devices still missing for a version that is overdue by T but has fewer than `devices_min`."""
        if not self.buffer.slots or self.is_closed or waited_seconds < self.settings.version_seconds:
            return 0
        return max(0, self.settings.devices_min - self.buffer.slots)

    def next_step(self) -> Step:
        """Master weights (layout.size,) of the next version, and the rule's state with it; changes nothing."""
        return self.buffer.step(self.weights)

    def next_release(self, weights: Vector, *, at: float, encoding: EncodingName | None = None) -> Release:
        """What is published of the next version, which has master `weights` (layout.size,); changes nothing.

        Raises:
            EncodeError: a weight is out of the encoding's range.
        """
        settings = self.settings
        return next_release(
            self.release,
            weights,
            encoding=encoding or settings.model_encoding,
            encode_delta=_delta_encoder(settings, self.version),
            snapshot_versions=settings.snapshot_versions,
            published_at=at,
            delta_bytes_max=settings.delta_message_bytes_max,
        )

    def advance(self, release: Release, step: Step) -> None:
        """Moves on to a version that the ledger has committed."""
        assert release.version == self.version + 1, f"version {release.version} after {self.version}"
        self.release, self.weights = release, step.weights
        self._digests[release.version] = release.published.digest
        self._digests.pop(release.version - self.settings.policy.staleness_max - 1, None)
        devices = self.buffer.devices
        self._contributed |= dict.fromkeys(devices, release.version)
        self._peers.committed(
            {
                device: Claim(release.version, slot.samples, slot.norm, slot.statistics_norm)
                for device, slot in devices.items()
            }
        )
        self.buffer.restore(step.state)
        self._standing = self._new_standing()

    def crowded(self) -> list[str]:
        """Devices with too many incarnations: the ledger deletes the oldest, which are then passed to `forget`."""
        return sorted(self._crowded)

    def forget(self, key: DeviceKey) -> None:
        """Drops an incarnation that the ledger has deleted."""
        del self._lasts[key]
        self._count_incarnation(key[0], -1)

    def close(self) -> None:
        """Refuses new updates from now on. What is buffered becomes the last version, if it has enough devices."""
        self.is_closed = True
        self._standing = self._new_standing()

    def knows(self, version: int, digest: bytes) -> bool:
        """Whether this line has published this version with this digest."""
        return self._digests.get(version) == digest

    def _absence(self, device: str) -> int:
        """Versions since the device last contributed (`merging/staleness.py`); 1 if it never has."""
        return self.version + 1 - self._contributed.get(device, self.version)

    def _last(self, key: DeviceKey) -> tuple[LastOfDevice | None, bool]:
        """Newest answered update of an incarnation, and whether one may exist that neither memory nor journal has."""
        last = self._lasts.get(key)
        if last is not None or self._incarnations[key[0]] < INCARNATIONS_KEPT:
            return last, False
        last = self._recall(key)  # a late message of a forgotten incarnation is a duplicate
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
            norm_of(self.weights[: self.layout.weights_size]),
            usual_samples=self._peers.samples,
            usual_norm=self._peers.slot_norm,
            weight_max=max(1.0, settings.updates_per_version - 1.0) if weight_max is None else weight_max,
            is_closed=self.is_closed,
            statistics=self.weights[self.layout.weights_size :] if self.layout.has_statistics else None,
            usual_statistics_norm=self._peers.statistics_norm,
        )


def _delta_encoder(settings: LineSettings, version: int) -> EncodeDelta | None:
    choice = settings.delta_encoding
    return None if choice is None else lambda vector, layout: encode_as(choice, vector, layout, version=version)


def opening_release(settings: LineSettings, layout: Layout, weights: Vector, *, published_at: float) -> Release:
    """What is published of version 0, which has master `weights` (layout.size,).

    Raises:
        EncodeError: a weight is out of the encoding's range.
    """
    return first_release(
        weights, task=settings.task, layout=layout, encoding=settings.model_encoding, published_at=published_at
    )


def announcement(
    settings: LineSettings,
    release: Release,
    *,
    expires_at: float | None = None,
    next_line: str | None = None,
    closed: bool = False,
    description: LineDescription | None = None,
) -> Announcement:
    """The retained messages of the newest version; its manifest expires at `expires_at` (Unix seconds)."""
    policy = settings.policy
    return release.announcement(
        shards=policy.shards,
        update_bytes_max=policy.update_bytes_max,
        expires_at=expires_at,
        next_line=next_line,
        closed=closed,
        description=description,
    )
