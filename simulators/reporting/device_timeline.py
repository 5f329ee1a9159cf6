"""A device's history, from its own event lines and from the outages that the demo caused. Pure.

If several states apply, the most severe is shown: killed before offline before held before training or sending.
"""

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

State = Literal["starting", "training", "waiting", "sending", "held", "offline", "killed", "done"]
OutageKind = Literal["offline", "killed", "held"]
SpanKind = Literal["training", "offline", "killed", "held"]


@dataclass(kw_only=True)
class Span:
    """A period of training or of an outage."""

    kind: SpanKind
    start: float
    """Unix seconds, like all times here."""
    stop: float | None = None
    """None: not over yet."""


@dataclass(kw_only=True)
class DeviceTimeline:
    """The history of one device so far."""

    device: str
    base_version: int | None = None
    """Version of the newest model that the device has."""
    made: int = 0
    """Updates added to the outbox."""
    merged: int = 0
    duplicates: int = 0
    refused: dict[int, str] = field(default_factory=dict)
    """Reason by sequence number."""
    staleness: list[int] = field(default_factory=list)
    """Staleness of each merged update, from its receipt."""
    merges: list[float] = field(default_factory=list)
    """Arrival times of the receipts of merged updates."""
    starts: int = 0
    warnings: list[str] = field(default_factory=list)
    spans: list[Span] = field(default_factory=list)
    is_connected: bool = False
    held_reason: str = ""
    is_training: bool = False
    is_sending: bool = False
    is_done: bool = False

    @property
    def state(self) -> State:
        """The state to show."""
        for kind in ("killed", "offline"):
            if self._open(kind) is not None:
                return kind
        if self.is_done:
            return "done"
        if self.held_reason and self.made > self.settled:
            return "held"
        if self.is_training:
            return "training"
        if not self.is_connected or self.base_version is None:
            return "starting"
        return "sending" if self.is_sending else "waiting"

    @property
    def settled(self) -> int:
        """Updates with a final receipt."""
        return self.merged + self.duplicates + len(self.refused)

    def begin_outage(self, kind: OutageKind, at: float) -> None:
        """Records the start of an outage that the device itself cannot log."""
        if kind == "killed":
            self.end_span("training", at)
            self.is_training = self.is_connected = self.is_sending = False
        if self._open(kind) is None:
            self.spans.append(Span(kind=kind, start=at))

    def end_outage(self, kind: OutageKind, at: float) -> None:
        self.end_span(kind, at)

    def take(self, event: Mapping[str, Any]) -> None:
        """Adds one event of the device; irrelevant events are ignored."""
        act = _ACTS.get(str(event.get("event")))
        if act is not None:
            act(self, event, float(event["at"]))

    def rest(self, at: float) -> None:
        """Training stops; a round in progress is abandoned."""
        self.end_span("training", at)
        self.is_training = False

    def finish(self, at: float) -> None:
        """The run is over: ends all open periods."""
        for span in self.spans:
            if span.stop is None:
                span.stop = at
        self.is_training, self.is_done = False, True

    def _open(self, kind: str) -> Span | None:
        return next((span for span in self.spans if span.kind == kind and span.stop is None), None)

    def end_span(self, kind: str, at: float) -> None:
        span = self._open(kind)
        if span is not None:
            span.stop = max(at, span.start)


def _started(timeline: DeviceTimeline, _event: Mapping[str, Any], _at: float) -> None:
    timeline.starts += 1


def _connected(timeline: DeviceTimeline, _event: Mapping[str, Any], _at: float) -> None:
    timeline.is_connected = True


def _disconnected(timeline: DeviceTimeline, _event: Mapping[str, Any], _at: float) -> None:
    timeline.is_connected = timeline.is_sending = False


def _model(timeline: DeviceTimeline, event: Mapping[str, Any], _at: float) -> None:
    timeline.base_version = int(event["version"])


def _training(timeline: DeviceTimeline, _event: Mapping[str, Any], at: float) -> None:
    timeline.rest(at)  # an abandoned round logs no end
    timeline.is_training = True
    timeline.spans.append(Span(kind="training", start=at))


def _trained(timeline: DeviceTimeline, _event: Mapping[str, Any], at: float) -> None:
    timeline.is_training = False
    timeline.end_span("training", at)


def _queued(timeline: DeviceTimeline, _event: Mapping[str, Any], _at: float) -> None:
    timeline.made += 1


def _sent(timeline: DeviceTimeline, _event: Mapping[str, Any], _at: float) -> None:
    timeline.is_sending = True


def _receipt(timeline: DeviceTimeline, event: Mapping[str, Any], at: float) -> None:
    timeline.is_sending = False
    match event["outcome"]:
        case "merged":
            timeline.merged += 1
            timeline.staleness.append(int(event["staleness"]))
            timeline.merges.append(at)
        case "duplicate":
            timeline.duplicates += 1
        case "refused" if event["reason"] != "rate":  # after a "rate" refusal the device sends again
            timeline.refused[int(event["sequence"])] = str(event["reason"])


def _held(timeline: DeviceTimeline, event: Mapping[str, Any], at: float) -> None:
    match event["what"]:
        case "upload":
            timeline.held_reason = "; ".join(event.get("reasons", ()))
        case "training":  # a round in progress is abandoned, which no other event says
            timeline.rest(at)


def _stopped(timeline: DeviceTimeline, _event: Mapping[str, Any], at: float) -> None:
    timeline.rest(at)


def _warning(timeline: DeviceTimeline, event: Mapping[str, Any], _at: float) -> None:
    timeline.warnings.append(str(event["message"]))


_ACTS: Mapping[str, Callable[[DeviceTimeline, Mapping[str, Any], float], None]] = {
    "started": _started,
    "connected": _connected,
    "disconnected": _disconnected,
    "model": _model,
    "training": _training,
    "trained": _trained,
    "queued": _queued,
    "sent": _sent,
    "receipt": _receipt,
    "held": _held,
    "released": _held,
    "warning": _warning,
    "stopped": _stopped,
}
"""What each event of device_client/events.py changes."""


class EventReader:
    """Reads the complete JSON lines of a growing file, each once. A line truncated by a kill is skipped."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._read_bytes = 0

    def new(self) -> Iterator[Mapping[str, Any]]:
        """The lines since the last call."""
        try:
            with self._path.open("rb") as file:
                file.seek(self._read_bytes)
                content = file.read()
        except FileNotFoundError:
            return
        complete = content[: content.rfind(b"\n") + 1]
        self._read_bytes += len(complete)
        for line in complete.splitlines():
            try:
                event = json.loads(line)
            except ValueError:
                continue
            if isinstance(event, dict):
                yield event
