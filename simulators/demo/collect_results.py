"""Reads off what a finished run measured: ledger, outboxes, lines, and what the observer saw."""

from pathlib import Path

from aggregator.ledger.reading import read_contributions, read_totals, read_versions
from simulators.audit.exactly_once import balance
from simulators.audit.observer import Sightings
from simulators.demo.connection import Connection
from simulators.demo.monitor import Clockwork
from simulators.demo.preparation import Prepared
from simulators.reporting.results import DeviceRecord, Record, WireRecord


def record_of(
    prepared: Prepared,
    connection: Connection,
    clockwork: Clockwork,
    *,
    seed: int,
    ledger: Path,
    teacher_file: Path | None,
    started_at: float,
    stopped_at: float,
) -> Record:
    """The record of a run whose programs have ended."""
    contributions, totals = read_contributions(ledger), read_totals(ledger)
    outboxes = [count for device in clockwork.devices if (count := device.outbox()) is not None]
    with connection.observer.lock:
        sightings = connection.observer.sightings
    return Record(
        task=prepared.task.name,
        seed=seed,
        broker=connection.shown,
        held_out_examples=prepared.held_out_examples,
        held_out_persons=prepared.held_out_persons,
        devices=_devices(prepared, clockwork, sightings),
        started_at=started_at,
        stopped_at=stopped_at,
        versions={moment.version: moment.committed_at for moment in read_versions(ledger)},
        evaluations=tuple(sightings.evaluations),
        contributions=contributions,
        balance=balance(
            outboxes,
            {device.name: device.story.refused for device in clockwork.devices},
            [(contribution.device, contribution.sequence) for contribution in contributions],
        ),
        duplicates=totals.duplicates,
        refused=totals.refused,
        updates_per_version=prepared.plan.updates_per_version,
        server_rate=prepared.plan.server_rate,
        baselines=clockwork.baselines,
        wire=_wire(prepared, sightings),
        traffic=tuple(clockwork.traffic),
        teacher_bytes=0 if teacher_file is None else teacher_file.stat().st_size,
        phases=clockwork.seconds_by_stage,
        seconds=clockwork.seconds,
    )


def _devices(prepared: Prepared, clockwork: Clockwork, sightings: Sightings) -> tuple[DeviceRecord, ...]:
    return tuple(
        DeviceRecord(
            name=device.name,
            title=device.character.title,
            examples=prepared.examples[device.name],
            duty_cycle=device.character.duty_cycle,
            story=device.story,
            bytes_up=device.line.bytes_up,
            bytes_down=device.line.bytes_down,
            update_bytes=sightings.by_device[device.name]["update"].size_bytes,
        )
        for device in clockwork.devices
    )


def _wire(prepared: Prepared, sightings: Sightings) -> WireRecord:
    return WireRecord(
        by_kind=dict(sightings.by_kind),
        largest_bytes=sightings.largest_bytes,
        largest_kind=sightings.largest_kind,
        numbers_max=sightings.numbers_max,
        foreign_updates=sightings.foreign_updates,
        unreadable=sightings.unreadable,
        teacher_parameters=prepared.teacher_parameters,
        student_parameters=prepared.layout.size,
    )
