"""How a run stands at one moment, as the terminal shows it."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from simulators.reporting.device_timeline import State


@dataclass(frozen=True, kw_only=True)
class DeviceRow:
    """One device now."""

    name: str
    title: str
    state: State
    detail: str
    base_version: int | None
    staleness_last: int | None
    """Of its last merged update."""
    waiting: int
    """Updates in its outbox."""
    merged: int
    bytes_up: int
    bytes_down: int


@dataclass(frozen=True, kw_only=True)
class Snapshot:
    """Everything now."""

    stage: str
    seconds: float
    version: int
    """-1 before the first."""
    versions_planned: int | None
    """None until it is known; the aggregator publishes version 0 before that."""
    accuracies: Sequence[float] = ()
    accuracy_version: int | None = None
    merged: int = 0
    duplicates: int = 0
    refused: int = 0
    staleness_mean: float | None = None
    devices: Sequence[DeviceRow] = ()
    notes: Sequence[str] = field(default_factory=tuple)
    """Short facts for the last line."""
    page_url: str = ""
    """Where the same is to be seen in a browser; empty: nowhere."""
