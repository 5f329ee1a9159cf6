"""The aggregator's core without ledger, link and clock; payload bytes are counted as on the wire.

Admission, buffer, model line and announcements are the aggregator's own code: an update that the running system would
refuse is refused here too, and payloads have their real size.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from math import inf

from aggregator.admission import AdmissionPolicy, Merge, Verdict
from aggregator.merging.peers import BUDGET_RATIO
from aggregator.merging.staleness import ABSENCE_MAX, SAMPLES_RATIO_MAX, Decay, SampleWeight
from aggregator.model_line import LineSettings, ModelLine, announcement, opening_release
from aggregator.receipts import receipt_for
from wire_contract.codec import encode
from wire_contract.compression.choice import EncodingChoice
from wire_contract.encoding import EncodingName
from wire_contract.layout import Layout, Vector
from wire_contract.limits import INLINE_BYTES_MAX
from wire_contract.publication.manifest import PublishedVersion
from wire_contract.topics import build, parse

ROOT = "fedkd/v1"


@dataclass(frozen=True, kw_only=True)
class Rules:
    """How updates are merged, and how updates and models are encoded."""

    updates_per_version: int = 3
    """K of FedBuff; each version contains at most one update per device."""
    server_rate: float = 0.5
    """η: the share of the mean difference that is applied. Several devices learn the same thing from the same base at
    the same time, and later versions repeat each of these steps: the smaller the share of the devices in a version, the
    smaller η must be, or the model overshoots."""
    decay: Decay = "polynomial"
    sample_weight: SampleWeight = "linear"
    absence_max: int = ABSENCE_MAX
    samples_ratio_max: float = SAMPLES_RATIO_MAX
    slot_norm_ratio: float = BUDGET_RATIO
    weight_max: float | None = None
    """Largest weight of one update; None: K - 1."""
    devices_min: int = 1
    """Minimum number of devices in a version; 1, because no data is private here and a world may have one device."""
    update_encoding: EncodingChoice = "int8"
    error_feedback: bool = True
    """Whether devices send later what an encoding left out; methods published without it are simulated without it."""
    model_encoding: EncodingName = "float16"
    delta_encoding: EncodingChoice | None = None
    """Encoding of the difference between successive versions; None: every version is sent in full."""
    delta_message_bytes_max: int = INLINE_BYTES_MAX
    """A version whose delta is larger is sent in full."""


def unbounded(rules: Rules) -> Rules:
    """The same rules without bounds on the influence of one device, except for the divisor of
    `aggregator/merging/fedbuff.py`.
    """
    return replace(rules, samples_ratio_max=inf, slot_norm_ratio=inf, weight_max=inf)


@dataclass(kw_only=True)
class SimulationState:
    """The state and statistics of a simulation."""

    weights: Vector
    """Weights of the newest version, as published."""
    version: int = 0
    staleness: list[int] = field(default_factory=list)
    """Staleness of each merged update, in order."""
    merged: dict[str, int] = field(default_factory=dict)
    """Number of merged updates by device."""
    refused: dict[str, int] = field(default_factory=dict)
    """Number of refused updates by device; devices without any are absent."""
    scales: dict[str, list[float]] = field(default_factory=dict)
    """By device: the factor that scaled each merged update, in order."""
    seconds: float = 0.0
    """Virtual time so far."""
    bytes_up: dict[str, int] = field(default_factory=dict)
    """MQTT payload bytes of each device's updates."""
    bytes_down: dict[str, int] = field(default_factory=dict)
    """MQTT payload bytes to each device: manifests, models or deltas, receipts."""


class VirtualServer:
    """The aggregator of one model in virtual time."""

    def __init__(self, devices: Sequence[str], initial: Vector, layout: Layout, *, task: str, rules: Rules) -> None:
        """Version 0 has the weights `initial` (layout.size,); its bytes are counted for every device."""
        self._task = task
        self._devices = tuple(devices)
        settings = LineSettings(
            task=task,
            updates_per_version=rules.updates_per_version,
            server_rate=rules.server_rate,
            devices_min=rules.devices_min,
            model_encoding=rules.model_encoding,
            delta_encoding=rules.delta_encoding,
            delta_message_bytes_max=rules.delta_message_bytes_max,
            policy=AdmissionPolicy(
                decay=rules.decay,
                sample_weight=rules.sample_weight,
                absence_max=rules.absence_max,
                samples_ratio_max=rules.samples_ratio_max,
                slot_norm_ratio=rules.slot_norm_ratio,
                weight_max=rules.weight_max,
            ),
        )
        release = opening_release(settings, layout, initial, published_at=0.0)
        self._line = ModelLine(
            settings,
            release,
            initial,
            digests={0: release.published.digest},
            lasts={},
            contributed={},
            claims={},
            recall=lambda _key: None,
            horizon=lambda: 0,
        )
        self.state = SimulationState(
            weights=release.published.weights,
            bytes_up=dict.fromkeys(self._devices, 0),
            bytes_down=dict.fromkeys(self._devices, 0),
        )
        self._count_down()

    @property
    def newest(self) -> PublishedVersion:
        """The newest published version."""
        return self._line.release.published

    def take(self, device: str, payload: bytes) -> Verdict:
        """Judges one update and returns the verdict."""
        topic = parse(build("update", root=ROOT, task=self._task, shard=0, device=device), root=ROOT)
        judged = self._line.judge(topic, payload)
        state = self.state
        if isinstance(judged.verdict, Merge):
            state.staleness.append(judged.verdict.staleness)
            state.merged[device] = state.merged.get(device, 0) + 1
            state.scales.setdefault(device, []).append(judged.verdict.scale)
        else:
            state.refused[device] = state.refused.get(device, 0) + 1
        state.bytes_up[device] += len(payload)
        receipt = receipt_for(judged.verdict, version=judged.version, update=judged.update, payload=payload)
        state.bytes_down[device] += len(encode(receipt))
        return judged.verdict

    def publish_when_due(self) -> bool:
        """Publishes a new version if enough devices have contributed; returns whether it did."""
        if not self._line.is_due(waited_seconds=0.0):
            return False
        step = self._line.next_step()
        release = self._line.next_release(step.weights, at=float(self._line.version + 1))
        self._line.advance(release, step)
        self.state.weights, self.state.version = release.published.weights, release.version
        self._count_down()
        return True

    def _count_down(self) -> None:
        """Every device receives each manifest, at once or later from its session, and what is not inline."""
        announced = announcement(self._line.settings, self._line.release)
        size = len(encode(announced.manifest))
        if announced.manifest.delta is None:
            newest = announced.deltas.get(announced.manifest.version)
            size += sum(map(len, announced.chunks)) if newest is None else len(newest)
        for device in self._devices:
            self.state.bytes_down[device] += size
