"""The results of one run, and their summary. Everything here was measured; nothing is planned or assumed."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from statistics import fmean
from typing import Any

from aggregator.ledger.reading import JournalEntry
from simulators.audit.exactly_once import Audit
from simulators.audit.observer import MessageTotals, ObservedEvaluation
from simulators.reporting.baselines import BaselineResults
from simulators.reporting.device_timeline import DeviceTimeline
from simulators.reporting.nouns import Nouns, nouns_of
from simulators.reporting.scores.scored_examples import ScoredExamples
from simulators.reporting.scores.seen_images import SeenImage
from wire_contract.main_metric import MainMetric

MACRO_F1 = "macro_f1"
LAST_VERSIONS = 5
"""Versions in the mean of the main metric at the end of a run."""


@dataclass(frozen=True, kw_only=True)
class DeviceResults:
    """The results of one device."""

    name: str
    title: str
    """A short description of its profile."""
    examples: int
    duty_cycle: float
    timeline: DeviceTimeline
    bytes_up: int
    """TCP payload from the device, counted by its proxy; includes MQTT overhead and retransmissions."""
    bytes_down: int
    update_bytes: int
    """Payload bytes of its updates, counted by the observer."""


@dataclass(frozen=True, kw_only=True)
class WireResults:
    """What was sent through the broker, counted by the observer."""

    by_kind: Mapping[str, MessageTotals]
    largest_bytes: int
    largest_kind: str
    numbers_max: int
    """Largest number of values in one update."""
    foreign_updates: int
    """Updates whose layout is not the student's."""
    teacher_parameters: int
    student_parameters: int

    @property
    def teacher_bytes_min(self) -> int:
        """Size of the teacher at four bits per parameter, the coarsest encoding that keeps every parameter."""
        return self.teacher_parameters // 2

    @property
    def is_student_only(self) -> bool:
        """No payload was large enough for the teacher, and every update had the student's layout."""
        return (
            self.largest_bytes < self.teacher_bytes_min
            and self.foreign_updates == 0
            and self.numbers_max <= self.student_parameters
        )


@dataclass(frozen=True)
class TrafficSample:
    """Bytes sent so far through the proxies of all devices."""

    at: float
    """Unix seconds."""
    bytes_up: int
    bytes_down: int


@dataclass(kw_only=True)
class RunResults:
    """The results of one run."""

    task: str
    seed: int
    broker: str
    held_out_examples: int
    held_out_persons: int
    devices: Sequence[DeviceResults]
    started_at: float
    """Start of the first device, Unix seconds."""
    stopped_at: float
    """End of training, Unix seconds."""
    versions: Mapping[int, float]
    """Commit time of each version, Unix seconds, from the ledger."""
    evaluations: Sequence[ObservedEvaluation]
    """Each has a value of the main metric."""
    contributions: Sequence[JournalEntry]
    audit: Audit
    duplicates: int
    refused: int
    updates_per_version: int
    server_rate: float
    baselines: BaselineResults
    wire: WireResults
    traffic: Sequence[TrafficSample]
    """In chronological order."""
    teacher_bytes: int
    """Size of the teacher's file, which never left the devices."""
    scored: ScoredExamples | None = None
    """What the final model says of held-out examples, for ROC curve, calibration and a table by site; None: not
    measured."""
    seen: Sequence[SeenImage] = ()
    """Some of these examples as the model sees them; empty: none is shown."""
    phases: dict[str, float] = field(default_factory=dict)
    seconds: float = 0.0
    cpu_seconds: float = 0.0
    """CPU time of all programs together; unlike `seconds`, it does not depend on the machine's load."""

    @property
    def main(self) -> MainMetric:
        return self.baselines.main

    @property
    def nouns(self) -> Nouns:
        return nouns_of(self.task)

    def value_of(self, told: ObservedEvaluation) -> float:
        """The main metric of an evaluation."""
        return told.metrics[self.main.name]

    @property
    def value(self) -> float:
        """The main metric of the newest evaluated version."""
        return self.value_of(self.final)

    @property
    def is_share(self) -> bool:
        """Whether all values of the main metric can be shown in percent."""
        alone = [metrics[self.main.name] for metrics in self.baselines.local.values()]
        others = [self.baselines.pooled(), self.baselines.teacher.get(self.main.name)]
        measured = [self.value_of(told) for told in self.evaluations]
        return self.main.is_share_at(*measured, *alone, *(value for value in others if value is not None))

    @property
    def final(self) -> ObservedEvaluation:
        """The evaluation of the newest evaluated version."""
        return max(self.evaluations, key=lambda told: told.version)

    @property
    def missing(self) -> tuple[str, ...]:
        """Names of the baselines that were not measured, for a report."""
        return self.baselines.missing(device.name for device in self.devices)

    @property
    def version(self) -> int:
        return max(self.versions)

    @property
    def staleness(self) -> list[int]:
        return [contribution.staleness for contribution in self.contributions]

    @property
    def bytes_up(self) -> int:
        return sum(device.bytes_up for device in self.devices)

    @property
    def bytes_down(self) -> int:
        return sum(device.bytes_down for device in self.devices)

    @property
    def update_payload_bytes(self) -> float:
        """Mean payload bytes of one update, counted by the observer."""
        flow = self.wire.by_kind.get("update")
        return flow.size_bytes / flow.messages if flow is not None and flow.messages else 0.0

    @property
    def bytes_per_point(self) -> float | None:
        """Bytes per device, up and down, per percentage point gained since the first evaluation; None: no gain, or the
        main metric is no share.
        """
        first = self.value_of(min(self.evaluations, key=lambda told: told.version))
        points = 100 * (self.value - first) * (1 if self.main.higher_is_better else -1)
        if points <= 0 or not self.is_share:
            return None
        return (self.bytes_up + self.bytes_down) / len(self.devices) / points

    def bytes_by(self, at: float) -> float:
        """Bytes per device, up and down, sent by the time `at` (Unix seconds)."""
        past = [sample for sample in self.traffic if sample.at <= at]
        return (past[-1].bytes_up + past[-1].bytes_down) / len(self.devices) if past else 0.0

    def weight_shares(self) -> dict[str, float]:
        """Each device's share of the total merging weight."""
        weights = {device.name: 0.0 for device in self.devices}
        for contribution in self.contributions:
            weights[contribution.device] = weights.get(contribution.device, 0.0) + contribution.weight
        total = sum(weights.values()) or 1.0
        return {name: weight / total for name, weight in weights.items()}

    def merged_by_device(self) -> dict[str, int]:
        merged = {device.name: 0 for device in self.devices}
        for contribution in self.contributions:
            merged[contribution.device] = merged.get(contribution.device, 0) + 1
        return merged

    def value_of_last(self, count: int = LAST_VERSIONS) -> float:
        """Mean of the main metric over the last evaluated versions; it scatters less than the value of the last one."""
        newest = sorted(self.evaluations, key=lambda told: told.version)[-count:]
        return fmean(self.value_of(told) for told in newest)


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 4)


def _metrics(results: RunResults) -> dict[str, Any]:
    """The main metric under its own name, and macro F1 if it was measured.

    The three main values are not rounded: rounding a second time for display could give other digits.
    """
    final, baselines, main = results.final, results.baselines, results.main.name
    found = {
        main: results.value,
        f"{main}_version": final.version,
        f"{main}_mean_last_versions": _rounded(results.value_of_last()),
        f"{main}_centralised": baselines.pooled(),
        f"{main}_local_mean": baselines.local_mean(),
        f"{main}_local": {name: _rounded(metrics[main]) for name, metrics in baselines.local.items()},
        f"{main}_teacher": _rounded(baselines.teacher.get(main)),
    }
    if main != MACRO_F1 and MACRO_F1 in final.metrics:
        found |= {
            MACRO_F1: _rounded(final.metrics[MACRO_F1]),
            f"{MACRO_F1}_centralised": _rounded(baselines.pooled(MACRO_F1)),
            f"{MACRO_F1}_local_mean": _rounded(baselines.local_mean(MACRO_F1)),
        }
    return found


def summary(results: RunResults) -> dict[str, Any]:
    """The content of `summary.json`; values that were not measured are null."""
    baselines, wire, main = results.baselines, results.wire, results.main.name
    staleness = results.staleness or [0]
    return {
        **_metrics(results),
        "task": results.task,
        "metric": main,
        "higher_is_better": results.main.higher_is_better,
        "devices": len(results.devices),
        "versions": results.version,
        "updates_sent": len(results.audit.sent),
        "updates_merged": len(results.audit.merged),
        "duplicates": results.duplicates,
        "refused": results.refused,
        "balanced": results.audit.agrees,
        "missing": list(results.missing),
        "missing_reason": baselines.given_up,
        "held_out_examples": results.held_out_examples,
        "student_parameters": wire.student_parameters,
        "teacher_parameters": wire.teacher_parameters,
        "staleness_mean": round(fmean(staleness), 3),
        "staleness_max": max(staleness),
        "bytes_up": results.bytes_up,
        "bytes_down": results.bytes_down,
        "bytes_per_update": round(results.update_payload_bytes, 1),
        "bytes_per_device": round((results.bytes_up + results.bytes_down) / len(results.devices), 1),
        "bytes_per_point": None if results.bytes_per_point is None else round(results.bytes_per_point, 1),
        "update_bytes": wire.by_kind["update"].size_bytes if "update" in wire.by_kind else 0,
        "largest_payload_bytes": wire.largest_bytes,
        "teacher_bytes": results.teacher_bytes,
        "teacher_on_the_wire": not wire.is_student_only,
        "payload_bytes_by_kind": {kind: flow.size_bytes for kind, flow in sorted(wire.by_kind.items())},
        "updates_by_device": results.merged_by_device(),
        "weight_share_by_device": {name: round(share, 4) for name, share in results.weight_shares().items()},
        "baseline_epochs": baselines.epochs,
        "updates_per_version": results.updates_per_version,
        "server_rate": results.server_rate,
        "seed": results.seed,
        "broker": results.broker,
        "seconds_by_phase": {phase: round(seconds, 1) for phase, seconds in results.phases.items()},
        "cpu_seconds": round(results.cpu_seconds, 1),
        "seconds": round(results.seconds, 1),
    }
