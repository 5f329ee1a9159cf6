"""The events of a device: one per line, as text for people or as JSON for tools.

    {"at": 1763665200.0, "event": "queued", "sequence": 3, "base_version": 7, "bytes": 26144}

`EVENTS` defines them all: name, fields, and text. `at` is in Unix seconds.
"""

import json
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, Protocol, TextIO

from wire_contract.link.traffic import Traffic
from wire_contract.main_metric import ACCURACY, MainMetric

Fields = Mapping[str, Any]
LogFormat = Literal["text", "json"]


class Emit(Protocol):
    """Emits one event of `EVENTS`."""

    def __call__(self, event: str, **fields: object) -> None: ...


@dataclass(frozen=True)
class Event:
    """One row of the table."""

    fields: tuple[str, ...]
    text: Callable[[Fields], str]


def _numbers(metrics: Mapping[str, float]) -> str:
    return ", ".join(f"{name} {value:.4g}" for name, value in sorted(metrics.items()))


def _trained(f: Fields) -> str:
    return f"trained on model {f['base_version']}, round {f['round']}: {f['steps']} steps, {f['seconds']:.1f} s" + (
        f", {_numbers(f['metrics'])}" if f["metrics"] else ""
    )


def _evaluated(f: Fields) -> str:
    """The main metric comes first, with its direction if it is not accuracy."""
    main = MainMetric(f["main_metric"], f["higher_is_better"])
    rest = {name: value for name, value in f["metrics"].items() if name != main.name}
    parts = [_numbers(rest)] if rest else []
    if main.name in f["metrics"]:
        direction = "" if main == ACCURACY else f" ({main.direction})"
        parts.insert(0, f"{main.name} {f['metrics'][main.name]:.4g}{direction}")
    return f"model {f['version']}: {', '.join(parts)}"


def _receipt(f: Fields) -> str:
    if f["outcome"] == "refused":
        return f"update {f['sequence']} refused: {f['reason']}"
    if f["outcome"] == "duplicate":
        return f"update {f['sequence']} is a duplicate: it was merged before"
    return f"update {f['sequence']} merged, staleness {f['staleness']}, weight {f['weight']:.3g}"


EVENTS: Mapping[str, Event] = {
    "started": Event(("task", "device", "pid"), lambda f: f"device {f['device']}, task {f['task']} (pid {f['pid']})"),
    "connected": Event(
        ("session_present",),
        lambda f: "connected" + (", the broker kept the session" if f["session_present"] else ", new session"),
    ),
    "disconnected": Event(("reason",), lambda f: f"not connected: {f['reason']}; retrying"),
    "moved": Event(("line",), lambda f: f"going on with line {f['line']}"),
    "model": Event(("version", "bytes"), lambda f: f"model {f['version']} received (full size {f['bytes']} bytes)"),
    "training": Event(
        ("base_version", "round"), lambda f: f"training on model {f['base_version']}, round {f['round']}"
    ),
    # `loss` and `accuracy` are in `metrics`, too, and null if not measured: readers of older logs know them by name.
    "trained": Event(("base_version", "round", "steps", "seconds", "metrics", "loss", "accuracy"), _trained),
    "queued": Event(
        ("sequence", "base_version", "bytes"),
        lambda f: f"update {f['sequence']} on model {f['base_version']} queued ({f['bytes']} bytes)",
    ),
    "held": Event(("what", "reasons"), lambda f: f"{f['what']} waits: {'; '.join(f['reasons'])}"),
    "released": Event(("what",), lambda f: f"{f['what']} continues"),
    "sent": Event(
        ("sequence", "attempt", "bytes"),
        lambda f: f"update {f['sequence']} sent, attempt {f['attempt']} ({f['bytes']} bytes)",
    ),
    "receipt": Event(("sequence", "outcome", "version", "weight", "staleness", "reason"), _receipt),
    "traffic": Event(
        ("bytes_in", "bytes_out"), lambda f: f"traffic so far: {f['bytes_in']} bytes in, {f['bytes_out']} bytes out"
    ),
    "evaluated": Event(("version", "metrics", "main_metric", "higher_is_better"), _evaluated),
    "warning": Event(("message",), lambda f: f"warning: {f['message']}"),
    "stopped": Event((), lambda _: "stopped"),
}


class EventLog:
    """Writes each event at once, so that a reader of the pipe is up to date.

    A line that cannot be written (the disk of the log is full, the reader of the pipe has gone) is dropped, and the
    program goes on. When lines can be written again, the first one says how many are missing.
    """

    def __init__(self, out: TextIO | None, *, unix: Callable[[], float], log_format: LogFormat) -> None:
        """`out` may be None, as `sys.stdout` is in a program started without standard output."""
        self._out = out
        self._unix = unix
        self._format = log_format
        self._dropped = 0
        self._is_cut = False
        """Whether the last line was written only in part."""

    def __call__(self, event: str, **fields: object) -> None:
        missing = f"{self._dropped} event lines could not be written"
        if self._dropped and self._write(self._line("warning", message=missing)):
            self._dropped = 0
        if not self._write(self._line(event, **fields)):
            self._dropped += 1

    def _line(self, event: str, **fields: object) -> str:
        row = EVENTS[event]
        assert set(fields) == set(row.fields), f"event {event}: fields {sorted(fields)}, not {sorted(row.fields)}"
        if self._format == "json":
            return json.dumps({"at": round(self._unix(), 3), "event": event, **fields}, allow_nan=False)
        return row.text(fields)

    def _write(self, line: str) -> bool:
        """Returns whether all of it was written. Bypasses Python's buffer, which would retry a failed write at any
        time.
        """
        if self._out is None:
            return False
        try:
            descriptor = self._out.fileno()
        except (OSError, ValueError):  # closed, or not a file
            return self._print(self._out, line)
        rest = (("\n" if self._is_cut else "") + line + "\n").encode(self._out.encoding, "backslashreplace")
        try:
            while rest:
                rest = rest[os.write(descriptor, rest) :]
                self._is_cut = True
        except OSError:
            return False
        self._is_cut = False
        return True

    @staticmethod
    def _print(out: TextIO, line: str) -> bool:
        try:
            print(line, file=out, flush=True)
        except (OSError, ValueError):
            return False
        return True


class TrafficReport:
    """Emits `traffic` at most so often, and only if something was sent or received since."""

    def __init__(
        self,
        traffic: Callable[[], Traffic] | None,
        interval_seconds: float,
        *,
        monotonic: Callable[[], float],
        emit: Emit,
    ) -> None:
        """`traffic` returns what the link has carried so far; None: the link does not count it."""
        self._traffic = traffic
        self._interval_seconds = interval_seconds
        self._monotonic = monotonic
        self._emit = emit
        self._last = Traffic()
        self._emitted_at = monotonic()

    def emit(self, *, at_once: bool = False) -> None:
        """Emits the event if it is due; called in every turn."""
        now = self._monotonic()
        if self._traffic is None or not (at_once or now - self._emitted_at >= self._interval_seconds):
            return
        self._emitted_at, traffic = now, self._traffic()
        if traffic != self._last:
            self._last = traffic
            self._emit("traffic", bytes_in=traffic.bytes_in, bytes_out=traffic.bytes_out)
