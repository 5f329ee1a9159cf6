"""Collects what a finished run measured: from ledger, outboxes, proxies and observer."""

from collections.abc import Sequence
from pathlib import Path

from aggregator.ledger.reading import read_journal, read_newest_weights, read_totals, read_versions
from device_client.task import Data
from simulators.audit.exactly_once import audit_exactly_once
from simulators.audit.observer import Observations
from simulators.demo.connection import Connection
from simulators.demo.monitor import Monitor
from simulators.demo.preparation import PreparedRun
from simulators.reporting.results import DeviceResults, RunResults, WireResults
from simulators.reporting.scores.measuring import scored_examples, seen_images
from simulators.reporting.scores.scored_examples import ScoredExamples
from simulators.reporting.scores.seen_images import SeenImage
from wire_contract.layout import Vector


def collect_results(
    prepared: PreparedRun,
    connection: Connection,
    monitor: Monitor,
    *,
    seed: int,
    ledger: Path,
    teacher_file: Path | None,
    started_at: float,
    stopped_at: float,
) -> RunResults:
    """The results of a run after all its programs have ended."""
    contributions, totals = read_journal(ledger), read_totals(ledger)
    outboxes = [count for device in monitor.devices if (count := device.outbox()) is not None]
    with connection.observer.lock:
        observations = connection.observer.observations
    held_out, weights = prepared.task.held_out(), read_newest_weights(ledger)
    scored = scored_examples(prepared.task, weights, held_out)
    return RunResults(
        task=prepared.task.name,
        seed=seed,
        broker=connection.shown,
        held_out_examples=prepared.held_out_examples,
        held_out_persons=prepared.held_out_persons,
        devices=_devices(prepared, monitor, observations),
        started_at=started_at,
        stopped_at=stopped_at,
        versions={moment.version: moment.committed_at for moment in read_versions(ledger)},
        evaluations=tuple(
            told for told in observations.evaluations if monitor.baselines.main.value_in(told.metrics) is not None
        ),
        contributions=contributions,
        audit=audit_exactly_once(
            outboxes,
            {device.name: device.timeline.refused for device in monitor.devices},
            [(contribution.device, contribution.sequence) for contribution in contributions],
        ),
        duplicates=totals.duplicates,
        refused=totals.refused,
        updates_per_version=prepared.plan.updates_per_version,
        server_rate=prepared.plan.server_rate,
        baselines=monitor.baselines,
        wire=_wire(prepared, observations),
        traffic=tuple(monitor.traffic),
        teacher_bytes=0 if teacher_file is None else teacher_file.stat().st_size,
        scored=scored,
        seen=() if scored is None else _seen(prepared, weights, held_out, scored),
        phases=monitor.seconds_by_stage,
        seconds=monitor.seconds,
    )


def _seen(prepared: PreparedRun, weights: Vector, held_out: Data, scored: ScoredExamples) -> Sequence[SeenImage]:
    """Images of synthetic data only: those of patients do not belong into a report, which is handed on."""
    return seen_images(prepared.task, weights, held_out, scored) if prepared.data.is_synthetic else ()


def _devices(prepared: PreparedRun, monitor: Monitor, observations: Observations) -> tuple[DeviceResults, ...]:
    return tuple(
        DeviceResults(
            name=device.name,
            title=device.profile.title,
            examples=prepared.examples[device.name],
            duty_cycle=device.profile.duty_cycle,
            timeline=device.timeline,
            bytes_up=device.proxy.bytes_up,
            bytes_down=device.proxy.bytes_down,
            update_bytes=observations.by_device[device.name]["update"].size_bytes,
        )
        for device in monitor.devices
    )


def _wire(prepared: PreparedRun, observations: Observations) -> WireResults:
    return WireResults(
        by_kind=dict(observations.by_kind),
        largest_bytes=observations.largest_bytes,
        largest_kind=observations.largest_kind,
        numbers_max=observations.numbers_max,
        foreign_updates=observations.foreign_updates,
        teacher_parameters=prepared.teacher_parameters,
        student_parameters=prepared.layout.size,
    )
