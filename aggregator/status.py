"""The summary in the aggregator's status: recent activity for viewers that connect later, and counters.

`StatusHistory` is what the ledger has of it; `Tally` continues from there. Neither reads a clock or a disk. A tally has
one row per device, like the model line; everything else in it is bounded, and so is each summary.
"""

import heapq
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import TYPE_CHECKING

from aggregator.admission import Duplicate, Judged, Merge
from wire_contract.limits import SUMMARY_DEVICES_MAX, SUMMARY_EVALUATIONS_MAX
from wire_contract.main_metric import ACCURACY, MainMetric
from wire_contract.messages import Evaluation
from wire_contract.summary import MeasuredVersion, SeenDevice, StalenessBucket, Summary, evaluation_fields

if TYPE_CHECKING:
    from wire_contract.message_fields import Outcome

BUCKETS = (0, 1, 2, 3, 4, 5, 9, 17, 33, 65, 129)
"""Lower bounds of the histogram's buckets, in versions of staleness."""

RATE_SECONDS = 60
"""The rate is shown per minute."""
VERSIONS_KEPT = 1_024
"""Newest versions whose commit time is kept; evaluations of older ones are not shown. Chosen: evaluations arrive a few
versions late at most; it bounds the memory."""


@dataclass(frozen=True, kw_only=True)
class StatusHistory:
    """Activity before the start, from the ledger; empty for a new one."""

    committed_at: Mapping[int, float] = field(default_factory=dict)
    """Commit time of the newest versions, Unix seconds."""
    main: MainMetric = ACCURACY
    evaluations: Sequence[MeasuredVersion] = ()
    """By the main metric."""
    staleness: Mapping[int, int] = field(default_factory=dict)
    """Number of merged updates by staleness in versions."""
    devices: Sequence[SeenDevice] = ()
    """In the order of their last answers, newest last."""
    merged_at: Sequence[float] = ()
    """Unix seconds of the merges in the last RATE_SECONDS."""
    bytes_up: int = 0
    """Payload bytes of the merged updates."""


@dataclass(kw_only=True)
class Counters:
    """Updates answered since the ledger began."""

    merged: int
    duplicates: int
    refused: int

    def judged(self, judged: Sequence[Judged]) -> None:
        """Counts further updates."""
        for one in judged:
            match one.counts_as:
                case "merged":
                    self.merged += 1
                case "refused":
                    self.refused += 1
                case "duplicate":
                    self.duplicates += 1

    def totals(self) -> dict[str, int]:
        """The counters by outcome."""
        return {"merged": self.merged, "duplicate": self.duplicates, "refused": self.refused}


class Tally:
    """Accumulates recent activity."""

    def __init__(self, history: StatusHistory, *, now: float) -> None:
        """Continues from `history`; `now` and every `at` below are Unix seconds."""
        self._since = now
        self._committed_at = dict(history.committed_at)
        self._main = history.main
        self._evaluations = {(told.version, told.evaluator): (history.main, told) for told in history.evaluations}
        self._staleness: Counter[int] = Counter()
        for staleness, updates in history.staleness.items():
            self._staleness[_bucket_of(staleness)] += updates
        self._devices = {seen.device: seen for seen in history.devices}
        self._merged_in_second = Counter(int(at) for at in history.merged_at)
        self._bytes_up = history.bytes_up

    def judged(self, judged: Sequence[Judged], *, at: float) -> None:
        """Counts updates that were answered."""
        for one in judged:
            self._answered(one, at)

    def _answered(self, judged: Judged, at: float) -> None:
        verdict = judged.verdict
        self._bytes_up += len(judged.payload)
        if isinstance(verdict, Merge):
            self._staleness[_bucket_of(verdict.staleness)] += 1
            self._merged_in_second[int(at)] += 1
            if len(self._merged_in_second) > RATE_SECONDS + 1:
                self._forget_before(at)
        if judged.update is None:
            return
        device = judged.update.device
        before = self._devices.pop(device, None)  # so that it comes last
        staleness, merged = (0, 0) if before is None else (before.staleness, before.merged)
        outcome: Outcome = "duplicate" if isinstance(verdict, Duplicate) else "refused"
        if isinstance(verdict, Merge):
            outcome, staleness, merged = "merged", verdict.staleness, merged + 1
        self._devices[device] = SeenDevice(device, outcome, staleness, at, merged)

    def committed(self, version: int, *, at: float) -> None:
        """Notes the commit time of a new version."""
        self._committed_at[version] = at
        self._committed_at.pop(version - VERSIONS_KEPT, None)

    def evaluated(self, evaluation: Evaluation) -> None:
        """Notes an evaluation of a version of this line. The main metric is that of the newest evaluated version."""
        value, at = evaluation.main_value, self._committed_at.get(evaluation.version)
        if value is None or at is None:
            return
        if evaluation.version >= max((version for version, _ in self._evaluations), default=0):
            self._main = evaluation.main
        told = MeasuredVersion(evaluation.version, evaluation.device, value, at)
        self._evaluations[told.version, told.evaluator] = (evaluation.main, told)
        if len(self._evaluations) > 2 * SUMMARY_EVALUATIONS_MAX:
            newest = heapq.nlargest(SUMMARY_EVALUATIONS_MAX, self._evaluations)
            self._evaluations = {key: self._evaluations[key] for key in newest}

    def summary(self, *, now: float, bytes_down: int) -> Summary:
        """The summary, within its limits."""
        self._forget_before(now)
        self._since = min(self._since, now)
        return Summary(
            at=now,
            since=self._since,
            **evaluation_fields(self._main, self._newest_evaluations()),
            staleness=tuple(StalenessBucket(least, self._staleness[least]) for least in BUCKETS),
            devices=tuple(islice(reversed(self._devices.values()), SUMMARY_DEVICES_MAX)),
            updates_per_minute=sum(self._merged_in_second.values()),
            bytes_up=self._bytes_up,
            bytes_down=bytes_down,
        )

    def _newest_evaluations(self) -> list[MeasuredVersion]:
        """Those by the main metric, newest first."""
        told = [told for main, told in self._evaluations.values() if main == self._main]
        return heapq.nlargest(SUMMARY_EVALUATIONS_MAX, told, key=lambda told: (told.version, told.evaluator))

    def _forget_before(self, now: float) -> None:
        """Drops merges outside the rate's window, including future ones, from before a clock was set back."""
        passed = [second for second in self._merged_in_second if not now - RATE_SECONDS < second <= now + 1]
        for second in passed:
            del self._merged_in_second[second]


def _bucket_of(staleness: int) -> int:
    return max(least for least in BUCKETS if least <= staleness)
