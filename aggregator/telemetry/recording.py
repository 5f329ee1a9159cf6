"""Records the aggregator's events as points, in the service's thread; the only cost there is building the points.

If `record` is None, nothing is built.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from re import sub
from typing import Protocol

import numpy as np

from aggregator.admission import Judged
from aggregator.model_line import ModelLine
from aggregator.telemetry.condensing import UpdatePoints
from aggregator.telemetry.lines import Point, Value
from aggregator.telemetry.participation import Activity
from aggregator.telemetry.schema import (
    ALL_COHORT,
    COHORTS_MAX,
    EVALUATION_METRICS,
    OTHER_COHORT,
    OTHER_METRICS_MAX,
    OTHER_PREFIX,
    RECALL_CLASSES_MAX,
    RECALL_PREFIX,
)
from wire_contract.layout import Vector
from wire_contract.link.traffic import Traffic
from wire_contract.messages import Evaluation
from wire_contract.publication.release import Release

GAUGE_SECONDS = 10.0
"""The interval of mosquitto's $SYS topics, and the shortest bucket of the dashboards (`panels.Panel.interval`): less
often would leave empty buckets, more often is not shown."""


class PointSink(Protocol):
    """Takes points of this moment."""

    def __call__(self, points: Sequence[Point], contributions: Sequence[Activity] = (), /) -> None:
        """`contributions` are all updates behind `points`, including those without a point of their own."""


def _nothing_waits() -> int:
    return 0


@dataclass
class Stopwatch:
    """Measures the steps of a turn, in seconds."""

    monotonic: Callable[[], float]

    def __post_init__(self) -> None:
        self._last = self.monotonic()

    def lap(self) -> float:
        """Time since the previous lap, or since the start."""
        last, self._last = self._last, self.monotonic()
        return self._last - last


class Recording:
    """The recording of one service."""

    def __init__(
        self,
        record: PointSink | None = None,
        *,
        queue_depth: Callable[[], int] = _nothing_waits,
        traffic: Callable[[], Traffic] = Traffic,
        on_connected: Callable[[], None] | None = None,
    ) -> None:
        """Args:
        record: takes points; None: nothing is recorded.
        queue_depth: returns the number of messages in the link's queue.
        traffic: returns the link's traffic counters.
        on_connected: called once, at the first connection.
        """
        self._record = record
        self._queue_depth = queue_depth
        self._traffic = traffic
        self._on_connected = on_connected
        self._updates = UpdatePoints()
        self._evaluations: list[Point] = []
        self._bytes = 0
        self._gauge_at: float | None = None
        self._began_at = 0.0
        self._cohorts: set[str] = set()
        self._recalls = FieldNames(RECALL_PREFIX, RECALL_CLASSES_MAX)
        self._others = FieldNames(OTHER_PREFIX, OTHER_METRICS_MAX)

    def judged(self, judged: Sequence[Judged]) -> None:
        """Adds updates to the current batch."""
        if self._record is None:
            return
        for one in judged:
            self._bytes += len(one.payload)
            self._updates.take(one)

    def evaluated(self, evaluation: Evaluation, *, newest_version: int, size_bytes: int) -> None:
        """Adds an evaluation to the current batch."""
        if self._record is None:
            return
        self._bytes += size_bytes
        fields: dict[str, Value] = {
            "device": evaluation.device,
            "version": evaluation.version,
            "versions_behind": newest_version - evaluation.version,
            "samples": evaluation.samples,
        }
        fields |= {name: evaluation.metrics[name] for name in EVALUATION_METRICS if name in evaluation.metrics}
        fields |= _main_metric(evaluation)
        recalls, others = _by_family(evaluation.metrics)
        fields |= self._recalls.of(recalls) | self._others.of(others)
        self._evaluations.append(Point("fedkd_evaluation", (self._cohort(evaluation.device),), fields))

    def batch_committed(
        self, deliveries: int, *, judge_seconds: float, commit_seconds: float, answer_seconds: float
    ) -> None:
        """Records the current batch, which is committed and answered."""
        if self._record is None:
            return
        updates, evaluations = self._updates, self._evaluations
        fields: dict[str, Value] = {
            "deliveries": deliveries,
            "merged": updates.count("merged"),
            "duplicate": updates.count("duplicate"),
            "refused": updates.count("refused"),
            "evaluations": len(evaluations),
            "bytes": self._bytes,
            "queue_depth": self._queue_depth(),
            "judge_seconds": judge_seconds,
            "commit_seconds": commit_seconds,
            "answer_seconds": answer_seconds,
        }
        self._record([*updates.points(), *evaluations, Point("fedkd_batch", (), fields)], updates.contributions())
        self._updates, self._evaluations, self._bytes = UpdatePoints(), [], 0

    def version_committed(
        self,
        release: Release,
        before: Vector,
        weights: Vector,
        *,
        updates: int,
        devices: int,
        wait_seconds: float,
        encode_seconds: float,
        commit_seconds: float,
        publish_seconds: float,
    ) -> None:
        """Records a version, from the previous master weights (layout.size,) and its own."""
        if self._record is None:
            return
        fields: dict[str, Value] = {
            "version": release.version,
            "updates": updates,
            "devices": devices,
            "wait_seconds": wait_seconds,
            "encode_seconds": encode_seconds,
            "commit_seconds": commit_seconds,
            "publish_seconds": publish_seconds,
            "step_norm": float(np.linalg.norm(weights - before)),
            "weights_norm": float(np.linalg.norm(weights)),
        }
        if release.deltas:
            fields["delta_bytes"] = len(release.deltas[0])
        if release.is_snapshot:
            fields["snapshot_bytes"] = len(release.snapshot)
        self._record([Point("fedkd_version", ("snapshot" if release.is_snapshot else "delta",), fields)])

    def stands(self, line: ModelLine, totals: Mapping[str, int], *, connected: bool, now: float) -> None:
        """Called in each turn, at monotonic second `now`; records the gauges when they are due."""
        if connected and self._on_connected is not None:
            begin, self._on_connected = self._on_connected, None
            begin()
        if self._record is None or (self._gauge_at is not None and now < self._gauge_at):
            return
        if self._gauge_at is None:
            self._began_at = now
        self._gauge_at = now + GAUGE_SECONDS
        traffic = self._traffic()
        fields: dict[str, Value] = {
            "version": line.version,
            "merged_total": totals["merged"],
            "duplicate_total": totals["duplicate"],
            "refused_total": totals["refused"],
            "devices_total": totals["devices"],
            "buffer_updates": line.buffer.updates,
            "buffer_devices": line.buffer.slots,
            "queue_depth": self._queue_depth(),
            "connected": connected,
            "received_messages_total": traffic.messages_in,
            "received_bytes_total": traffic.bytes_in,
            "sent_messages_total": traffic.messages_out,
            "sent_bytes_total": traffic.bytes_out,
            "uptime_seconds": now - self._began_at,
        }
        self._record([Point("fedkd_aggregator", (), fields)])

    def _cohort(self, device: str) -> str:
        _, dot, cohort = device.rpartition(".")
        if not dot or not cohort:
            return ALL_COHORT
        if cohort not in self._cohorts and len(self._cohorts) >= COHORTS_MAX:
            return OTHER_COHORT
        self._cohorts.add(cohort)
        return cohort


def _by_family(metrics: Mapping[str, float]) -> tuple[dict[str, float], dict[str, float]]:
    """The recalls by class, and the metrics that have no field of their own either."""
    recalls, others = {}, {}
    for name, value in metrics.items():
        if name.startswith(RECALL_PREFIX):
            recalls[name.removeprefix(RECALL_PREFIX)] = value
        elif name not in EVALUATION_METRICS:
            others[name] = value
    return recalls, others


def _main_metric(evaluation: Evaluation) -> dict[str, Value]:
    main, value = evaluation.main, evaluation.main_value
    if value is None:
        return {}
    return {
        "metric": value,
        "metric_name": main.name,
        "higher_is_better": main.higher_is_better,
        "is_share": main.is_share_at(value),
        "score": value if main.higher_is_better else -value,
    }


class FieldNames:
    """Fields whose names evaluators choose. Further names than the first `names_max` are not recorded."""

    def __init__(self, prefix: str, names_max: int) -> None:
        self._prefix, self._names_max = prefix, names_max
        self._fields: dict[str, str] = {}

    def of(self, metrics: Mapping[str, float]) -> dict[str, Value]:
        """The fields of these metrics, given by name."""
        found: dict[str, Value] = {}
        for name, value in metrics.items():
            field = self._fields.get(name)
            if field is None and len(self._fields) < self._names_max:
                words = sub(r"[^A-Za-z0-9]+", "_", name).strip("_")[:64]
                field = self._fields[name] = self._prefix + (words or "unnamed")
            if field is not None:
                found[field] = value
        return found
