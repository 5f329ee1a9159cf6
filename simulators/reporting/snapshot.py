"""The state of a run at one moment, as the terminal shows it."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from simulators.reporting.device_timeline import State
from wire_contract.main_metric import ACCURACY, MainMetric


@dataclass(frozen=True, kw_only=True)
class DeviceRow:
    """The state of one device."""

    name: str
    title: str
    state: State
    detail: str
    base_version: int | None
    staleness_last: int | None
    """Staleness of its last merged update."""
    waiting: int
    """Updates in its outbox, without a receipt."""
    merged: int
    bytes_up: int
    bytes_down: int


@dataclass(frozen=True, kw_only=True)
class Snapshot:
    """The state of the run."""

    stage: str
    seconds: float
    version: int
    """Newest published version; -1 before the first."""
    versions_planned: int | None
    """None until the machine's speed has been measured; version 0 is published before that."""
    main: MainMetric = ACCURACY
    values: Sequence[float] = ()
    """The main metric of each evaluated version, the newest last."""
    evaluated_version: int | None = None
    """The version of the newest value."""
    merged: int = 0
    duplicates: int = 0
    refused: int = 0
    staleness_mean: float | None = None
    devices: Sequence[DeviceRow] = ()
    notes: Sequence[str] = field(default_factory=tuple)
    """Short texts for the last line."""
    person: str = "person"
    """Whom examples are of."""
    page_url: str = ""
    """URL of the live page; empty: it is not served."""
