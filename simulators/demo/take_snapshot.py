"""What is to be seen just now, put together for the view."""

from collections.abc import Sequence
from statistics import fmean

from simulators.audit.observer import Sightings
from simulators.demo.devices import Device
from simulators.reporting.baselines import Baselines
from simulators.reporting.snapshot import DeviceRow, Scene


def scene_of(
    stage: str,
    *,
    seconds: float,
    versions_planned: int | None,
    sightings: Sightings | None,
    devices: Sequence[Device],
    baselines: Baselines,
    page_url: str = "",
) -> Scene:
    """One moment. The caller holds the observer's lock."""
    staleness = [value for device in devices for value in device.story.staleness]
    evaluated = [] if sightings is None else sorted(sightings.evaluations, key=lambda told: told.version)
    return Scene(
        stage=stage,
        seconds=seconds,
        version=-1 if sightings is None else sightings.version,
        versions_planned=versions_planned,
        accuracies=[told.metrics["accuracy"] for told in evaluated],
        accuracy_version=evaluated[-1].version if evaluated else None,
        merged=len(staleness),
        duplicates=sum(device.story.duplicates for device in devices),
        refused=sum(len(device.story.refused) for device in devices),
        staleness_mean=fmean(staleness) if staleness else None,
        devices=[_row(device) for device in devices],
        notes=_notes(baselines),
        page_url=page_url,
    )


def _row(device: Device) -> DeviceRow:
    story = device.story
    waiting = max(0, story.made - story.settled)
    detail = ""
    match story.state:
        case "held":
            detail = f" ({story.held_reason})"
        case "offline" | "killed" if waiting:
            detail = f" ({waiting} kept)"
        case _:
            pass
    return DeviceRow(
        name=device.name,
        title=device.character.title,
        state=story.state,
        detail=detail,
        base_version=story.base_version,
        staleness_last=story.staleness[-1] if story.staleness else None,
        waiting=waiting,
        merged=story.merged,
        bytes_up=device.line.bytes_up,
        bytes_down=device.line.bytes_down,
    )


def _notes(baselines: Baselines) -> tuple[str, ...]:
    notes = []
    if (pooled := baselines.pooled()) is not None:
        notes.append(f"pooled data {pooled:.1%}")
    if (alone := baselines.local_mean()) is not None:
        notes.append(f"one person alone {alone:.1%} (mean of {len(baselines.local)})")
    return tuple(notes)
