"""Reports of the aggregator's work: status topic, telemetry, the file for Prometheus, and the log.

All observers get the same sequence of judgements, after the ledger has committed them and the devices are answered.
Observers decide nothing, and a failing one never costs an update.
"""

import logging
from collections.abc import Callable, Sequence
from typing import Literal

from aggregator.admission import Judged, Refuse
from aggregator.evaluations import Evaluated
from aggregator.ledger.reading import Totals
from aggregator.metrics_file import Figures, MetricsFile
from aggregator.model_line import ModelLine
from aggregator.publishing.publication import Publication
from aggregator.publishing.status_publisher import StatusPublisher
from aggregator.status import Counters, StatusHistory, Tally
from aggregator.telemetry.recording import Recording
from wire_contract.layout import Vector
from wire_contract.messages import AggregatorStatus

log = logging.getLogger(__name__)


class Reporter:
    """The observers of one service."""

    def __init__(
        self,
        line: ModelLine,
        publication: Publication,
        *,
        monotonic: Callable[[], float],
        unix: Callable[[], float],
        totals: Totals,
        history: StatusHistory | None = None,
        recording: Recording | None = None,
        metrics: MetricsFile | None = None,
    ) -> None:
        """`totals` and `history` are those of the ledger when it was opened."""
        self._line = line
        self._publication = publication
        self._monotonic, self._unix = monotonic, unix
        self.counters = Counters(merged=totals.merged, duplicates=totals.duplicates, refused=totals.refused)
        self.tally = Tally(history or StatusHistory(), now=unix())
        self.tally.committed(line.version, at=line.release.published_at)
        self.recording = recording or Recording()
        self._metrics = metrics
        self._logged_missing = False
        self.status_publisher = StatusPublisher(publication.publisher.status)

    def answered(
        self,
        judged: Sequence[Judged],
        evaluated: Sequence[Evaluated],
        *,
        deliveries: int,
        judge_seconds: float,
        commit_seconds: float,
        answer_seconds: float,
    ) -> None:
        """A batch is committed, acknowledged and answered."""
        if not judged and not evaluated:
            return
        self.counters.judged(judged)
        self.tally.judged(judged, at=self._unix())
        self.recording.judged(judged)
        _log_refusals(judged)
        for one in evaluated:
            self.tally.evaluated(one.evaluation)
            self.recording.evaluated(one.evaluation, newest_version=self._line.version, size_bytes=one.size_bytes)
        self.recording.batch_committed(
            deliveries, judge_seconds=judge_seconds, commit_seconds=commit_seconds, answer_seconds=answer_seconds
        )

    def version_published(
        self,
        before: Vector,
        *,
        updates: int,
        devices: int,
        wait_seconds: float,
        encode_seconds: float,
        commit_seconds: float,
        publish_seconds: float,
    ) -> None:
        """The line has a new version; `before` are the previous version's master weights (layout.size,)."""
        release = self._line.release
        self.tally.committed(release.version, at=release.published_at)
        self.recording.version_committed(
            release,
            before,
            self._line.weights,
            updates=updates,
            devices=devices,
            wait_seconds=wait_seconds,
            encode_seconds=encode_seconds,
            commit_seconds=commit_seconds,
            publish_seconds=publish_seconds,
        )
        log.info("version %d: %d updates of %d devices", release.version, updates, devices)

    def turn(self, *, devices_missing: int) -> None:
        """Publishes the status and writes gauges and metrics, each when it is due."""
        self._log_missing(devices_missing)
        now, connected = self._monotonic(), self._publication.is_online
        if connected and self.status_publisher.is_due(now):
            self.status_publisher.publish(self.status("online", devices_missing=devices_missing), now=now)
        totals = self._totals()
        self.recording.stands(self._line, totals, connected=connected, now=now)
        if self._metrics is not None:
            figures = Figures(
                version=self._line.version,
                committed_at=self._line.release.published_at,
                waiting_devices=self._line.buffer.slots,
                counters=totals,
                connected=connected,
            )
            self._metrics.stands(figures, now=now)

    def _log_missing(self, devices: int) -> None:
        """Once per version that too few devices have contributed to."""
        if devices and not self._logged_missing:
            log.warning(
                "version %d waits for %d more device%s: %d contributed, and --devices-min is %d, so that no version "
                "consists of a single person's update",
                self._line.version + 1,
                devices,
                "" if devices == 1 else "s",
                self._line.buffer.slots,
                self._line.settings.devices_min,
            )
        self._logged_missing = bool(devices)

    def publish_status(self, *, devices_missing: int) -> None:
        """Publishes the status even if unchanged: the retained one may be missing, or another aggregator's."""
        status = self.status("online", devices_missing=devices_missing)
        self.status_publisher.publish(status, now=self._monotonic(), anyway=True)

    def farewell(self, *, devices_missing: int) -> None:
        """Publishes the status `offline`; without a connection the will has done so."""
        if self._publication.is_online:
            self._publication.publisher.status(self.status("offline", devices_missing=devices_missing))

    def status(self, status: Literal["online", "offline"], *, devices_missing: int = 0) -> AggregatorStatus:
        """The status as of now."""
        summary = self.tally.summary(now=self._unix(), bytes_down=self._publication.publisher.published_bytes)
        counters = self._totals() | ({"devices_missing": devices_missing} if devices_missing else {})
        return AggregatorStatus(status=status, version=self._line.version, counters=counters, summary=summary)

    def _totals(self) -> dict[str, int]:
        strangers = self._publication.strangers
        found = {"strangers": strangers} if strangers else {}
        return {**found, **self.counters.totals(), "devices": self._line.devices}


def _log_refusals(judged: Sequence[Judged]) -> None:
    for one in judged:
        match one.verdict:
            case Refuse(reason, detail, seen_before=False):
                log.warning("refused an update of %s: %s, %s", one.device, reason, detail)
