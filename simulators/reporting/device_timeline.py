"""What happened to each device, told from its own event lines and from what was done to it. Pure.

The state that is shown is what matters most to somebody who looks on: dead before offline before held before busy.
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
    """Something that lasted."""

    kind: SpanKind
    start: float
    """Unix seconds, as all moments here."""
    stop: float | None = None
    """None: it still lasts."""


@dataclass(kw_only=True)
class DeviceTimeline:
    """One device so far."""

    device: str
    base_version: int | None = None
    """Of the newest model that the device has."""
    made: int = 0
    """Updates put into the outbox."""
    merged: int = 0
    duplicates: int = 0
    refused: dict[int, str] = field(default_factory=dict)
    """Sequence to reason."""
    staleness: list[int] = field(default_factory=list)
    """Of each merged update, as its receipt said."""
    merges: list[float] = field(default_factory=list)
    """When each receipt of a merge came."""
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
        """What somebody who looks on should see."""
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
        """Updates whose fate the device knows."""
        return self.merged + self.duplicates + len(self.refused)

    def begin_outage(self, kind: OutageKind, at: float) -> None:
        """Something begins that the device cannot tell itself."""
        if kind == "killed":
            self.end_span("training", at)
            self.is_training = self.is_connected = self.is_sending = False
        if self._open(kind) is None:
            self.spans.append(Span(kind=kind, start=at))

    def end_outage(self, kind: OutageKind, at: float) -> None:
        self.end_span(kind, at)

    def take(self, event: Mapping[str, Any]) -> None:
        """One event line of the device; what is not of interest here changes nothing."""
        act = _ACTS.get(str(event.get("event")))
        if act is not None:
            act(self, event, float(event["at"]))

    def rest(self, at: float) -> None:
        """It trains no longer; a round that was under way is given up."""
        self.end_span("training", at)
        self.is_training = False

    def finish(self, at: float) -> None:
        """The run is over."""
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
    timeline.rest(at)  # a round that was given up says nothing of its end
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
        case "refused" if event["reason"] != "rate":  # a rate refusal is sent again
            timeline.refused[int(event["sequence"])] = str(event["reason"])


def _held(timeline: DeviceTimeline, event: Mapping[str, Any], at: float) -> None:
    match event["what"]:
        case "upload":
            timeline.held_reason = "; ".join(event.get("reasons", ()))
        case "training":  # a round under way is given up, which is told by nothing else
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
"""What each event of device_client/events.py means here."""


class EventReader:
    """The complete JSON lines of a growing file, each once. A line cut short by a kill is skipped."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._read_bytes = 0

    def new(self) -> Iterator[Mapping[str, Any]]:
        """Those since the last call."""
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
