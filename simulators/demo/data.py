"""The data of a run: the user's, or for task `mammography` without a folder films that are drawn for it."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from device_client.data.faults import DataError
from simulators.demo.settings import DemoSettings

DRAWN = ("mammography", "mammography-efficientnet")
"""The tasks whose data can be drawn."""


@dataclass(frozen=True, kw_only=True)
class DemoData:
    """What the programs of a run read."""

    folder: Path | None
    """None: the task needs none."""
    is_synthetic: bool = False
    """Nobody is on it, so that it can be shown."""
    notes: Mapping[str, str] = field(default_factory=dict)
    """What is special about a device's data, for tables."""


def data_of(settings: DemoSettings, folder: Path) -> DemoData:
    """The data of a run whose files are in `folder`.

    Raises:
        DataError: films cannot be drawn, because pydicom is not installed or the disk is full.
    """
    if settings.task not in DRAWN or settings.data is not None:
        return DemoData(folder=settings.data)
    from simulators.films.trial import HOSPITALS, make_trial  # noqa: PLC0415 — needs pydicom, which is optional

    drawn = folder / "films"
    try:
        make_trial(drawn, seed=settings.seed)
    except OSError as error:
        raise DataError(f"films cannot be drawn into {drawn}: {error.strerror or error}") from None
    return DemoData(
        folder=drawn, is_synthetic=True, notes={hospital.name: hospital.note for hospital in HOSPITALS if hospital.note}
    )
