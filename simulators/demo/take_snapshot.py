"""Takes a snapshot of a running demo for the view."""

from collections.abc import Sequence
from statistics import fmean

from simulators.audit.observer import Observations
from simulators.demo.devices import Device
from simulators.reporting.baselines import BaselineResults
from simulators.reporting.nouns import Nouns
from simulators.reporting.snapshot import DeviceRow, Snapshot


def take_snapshot(
    stage: str,
    *,
    seconds: float,
    versions_planned: int | None,
    observations: Observations | None,
    devices: Sequence[Device],
    baselines: BaselineResults,
    page_url: str = "",
    nouns: Nouns,
) -> Snapshot:
    """The current state. The caller holds the observer's lock."""
    staleness = [value for device in devices for value in device.timeline.staleness]
    main = baselines.main
    evaluated = sorted(
        (told.version, value)
        for told in (() if observations is None else observations.evaluations)
        if (value := main.value_in(told.metrics)) is not None
    )
    return Snapshot(
        stage=stage,
        seconds=seconds,
        version=-1 if observations is None else observations.version,
        versions_planned=versions_planned,
        main=main,
        values=[value for _, value in evaluated],
        evaluated_version=evaluated[-1][0] if evaluated else None,
        merged=len(staleness),
        duplicates=sum(device.timeline.duplicates for device in devices),
        refused=sum(len(device.timeline.refused) for device in devices),
        staleness_mean=fmean(staleness) if staleness else None,
        devices=[_row(device) for device in devices],
        notes=_notes(baselines, nouns.owner),
        person=nouns.person,
        page_url=page_url,
    )


def _row(device: Device) -> DeviceRow:
    timeline = device.timeline
    waiting = max(0, timeline.made - timeline.settled)
    detail = ""
    match timeline.state:
        case "held":
            detail = f" ({timeline.held_reason})"
        case "offline" | "killed" if waiting:
            detail = f" ({waiting} waiting)"
        case _:
            pass
    return DeviceRow(
        name=device.name,
        title=device.profile.title,
        state=timeline.state,
        detail=detail,
        base_version=timeline.base_version,
        staleness_last=timeline.staleness[-1] if timeline.staleness else None,
        waiting=waiting,
        merged=timeline.merged,
        bytes_up=device.proxy.bytes_up,
        bytes_down=device.proxy.bytes_down,
    )


def _notes(baselines: BaselineResults, owner: str) -> tuple[str, ...]:
    notes = []
    if (pooled := baselines.pooled()) is not None:
        notes.append(f"pooled data {baselines.text(pooled)}")
    if (alone := baselines.local_mean()) is not None:
        notes.append(f"one {owner} alone {baselines.text(alone)} (mean of {len(baselines.local)})")
    return tuple(notes)
