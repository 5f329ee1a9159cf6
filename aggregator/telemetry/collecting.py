"""Telemetry off the critical path: `record` puts points into a bounded queue and returns; two threads do the rest.

The worker converts points to lines, tracks participation, and appends to the spool; the sender sends the spool's oldest
lines to a server, if there is one. Telemetry can neither delay a merge nor make it fail: if the queue or the disk is
full, or the server is unreachable for too long, points are dropped and counted.
"""

import logging
import random
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from threading import Event, Lock, Thread
from typing import NamedTuple

from aggregator.telemetry.influx import Server
from aggregator.telemetry.lines import LineWriter, Point, Value
from aggregator.telemetry.participation import Activity, Participation
from aggregator.telemetry.schema import EVALUATOR
from aggregator.telemetry.sending import REST_SECONDS_MAX, SpoolSender
from aggregator.telemetry.spool import Spool

log = logging.getLogger(__name__)

POINTS_MAX = 20_000
"""Points in memory, with their contributions; one flush period at full load is a fraction of it."""
FLEET_SECONDS = 60.0
"""Chosen: it counts over all devices, up to a million, and the shortest absence that counts as silence is an hour."""
SELF_SECONDS = 10.0
"""As `recording.GAUGE_SECONDS`, so that the dashboard's panels have one shortest bucket."""
_SET_BACK_NS = 1_000_000_000
"""Points of one moment differ by nanoseconds; a clock that is behind the last point by more than this was set back."""
CLOSE_SECONDS_MAX = 2.0
"""Longest wait of `close`, whatever the server does. Chosen: points that are not sent by then stay in the spool."""


class Clocks(NamedTuple):
    """Sources of time and randomness."""

    unix_ns: Callable[[], int] = time.time_ns
    monotonic: Callable[[], float] = time.monotonic
    uniform: Callable[[float, float], float] = random.Random().uniform  # noqa: S311 - spreads retries, guards nothing


class _Told(NamedTuple):
    at_ns: int
    points: Sequence[Point]
    contributions: Sequence[Activity]


class Telemetry:
    """Accepts points from any thread until it is closed."""

    def __init__(
        self,
        spool: Spool,
        *,
        task: str,
        shard: int,
        server: Server | None = None,
        flush_seconds: float = 1.0,
        participation: Participation | None = None,
        clocks: Clocks | None = None,
        points_max: int = POINTS_MAX,
    ) -> None:
        """Takes ownership of `spool`, and closes it."""
        self._spool = spool
        self._clocks = clocks or Clocks()
        self._flush_seconds = flush_seconds
        self._points_max = points_max
        self._writer = LineWriter(task=task, shard=shard)
        self._participation = participation or Participation()
        self._guard = Lock()
        self._queue: deque[_Told] = deque()
        self._waiting = 0
        self._recorded_before, self._dropped_before = spool.counters.recorded, spool.counters.queue_dropped
        self._recorded = 0
        self._dropped = 0
        self._last_ns = 0
        now = self._clocks.monotonic()
        self._fleet_at, self._self_at = now + FLEET_SECONDS, now + SELF_SECONDS
        self._complained = False
        self._closing = Event()
        self._closed = Event()
        self._wake = Event()
        self._spooled = Event()
        self._sender = (
            None
            if server is None
            else SpoolSender(spool, server, monotonic=self._clocks.monotonic, uniform=self._clocks.uniform)
        )
        self._threads = [Thread(target=self._work, name="telemetry worker", daemon=True)]
        if self._sender is not None:
            self._threads.append(Thread(target=self._send, args=(self._sender,), name="telemetry sender", daemon=True))
        for thread in self._threads:
            thread.start()

    def record(self, points: Sequence[Point], contributions: Sequence[Activity] = ()) -> None:
        """Queues points of this moment, or drops and counts them; never blocks and never raises.

        The sequences must not be changed afterwards.
        """
        count = len(points)
        at_ns = self._clocks.unix_ns()
        with self._guard:  # held only for a few additions
            self._recorded += count
            if self._waiting + count > self._points_max or self._closing.is_set():
                self._dropped += count
                return
            self._waiting += count
            self._queue.append(_Told(at_ns, points, contributions))
            is_half_full = self._waiting > self._points_max // 2
        if is_half_full:
            self._wake.set()

    def close(self) -> None:
        """Spools the queue, tries to send it, and ends within CLOSE_SECONDS_MAX."""
        deadline = time.monotonic() + CLOSE_SECONDS_MAX
        self._closing.set()
        self._wake.set()
        for thread in self._threads:
            thread.join(max(0.0, deadline - time.monotonic()))
        self._closed.set()
        self._spool.close()

    # -- the worker

    def _work(self) -> None:
        closing = False
        while not closing:
            self._wake.wait(self._flush_seconds)
            self._wake.clear()
            closing = self._closing.is_set()
            try:
                self._flush()
            except Exception:
                log.exception("telemetry: a flush failed; its points are lost")
            self._spooled.set()

    def _flush(self) -> None:
        with self._guard:
            taken, self._queue = self._queue, deque()
            self._waiting = 0
            recorded, dropped = self._recorded, self._dropped
        counters = self._spool.counters
        counters.recorded = self._recorded_before + recorded
        counters.queue_dropped = self._dropped_before + dropped
        lines: list[str] = []
        for at_ns, points, contributions in taken:
            for point in points:
                self._add(lines, point, at_ns)
            for contribution in contributions:
                self._participation.contributed(contribution, at_ns / 1e9)
        for point in self._own_points():
            counters.recorded += 1
            self._recorded_before += 1
            self._add(lines, point, self._clocks.unix_ns())
        self._spool.append(lines)

    def _add(self, lines: list[str], point: Point, at_ns: int) -> None:
        # A server keeps one of two points of a series with the same time. A clock that was set back is followed at
        # once: points in the future are worse than one that may be overwritten.
        was_set_back = at_ns < self._last_ns - _SET_BACK_NS
        self._last_ns = at_ns if was_set_back else max(self._last_ns + 1, at_ns)
        try:
            line = self._writer.line(point, self._last_ns)
            self._note(point)
        except (KeyError, TypeError, ValueError):
            line = None
            if not self._complained:
                self._complained = True
                log.exception("telemetry: a point is not in the schema; it and further ones like it are dropped")
        if line is None:
            self._dropped_before += 1
            self._spool.counters.queue_dropped += 1
        else:
            lines.append(line)

    def _note(self, point: Point) -> None:
        if point.measurement == "fedkd_evaluation":
            self._participation.evaluates(str(point.fields["device"]))
        elif point.measurement == "fedkd_presence":
            device = str(point.fields["device"])
            if point.fields.get("role") == EVALUATOR:
                self._participation.evaluates(device)
            else:
                self._participation.present(device, online=point.tags == ("online",))

    def _own_points(self) -> Iterator[Point]:
        now = self._clocks.monotonic()
        if now >= self._fleet_at or self._closing.is_set():
            self._fleet_at = now + FLEET_SECONDS
            yield Point("fedkd_fleet", (), self._participation.figures(self._clocks.unix_ns() / 1e9))
        if now >= self._self_at or self._closing.is_set():
            self._self_at = now + SELF_SECONDS
            yield Point("fedkd_telemetry", (), self._own_fields())

    def _own_fields(self) -> dict[str, Value]:
        counters, sender = self._spool.counters, self._sender
        fields: dict[str, Value] = {f"{name}_total": count for name, count in asdict(counters).items()}
        fields["spool_bytes"] = self._spool.size_bytes
        if sender is not None:
            fields["write_failures_total"] = sender.failures
            if sender.write_seconds is not None:
                fields["write_seconds"] = sender.write_seconds
            if sender.is_up is not None:
                fields["server_up"] = sender.is_up
        return fields

    # -- the sender

    def _send(self, sender: SpoolSender) -> None:
        rest = 0.0
        while not self._closing.is_set():
            self._spooled.wait()
            self._spooled.clear()
            while (rest := self._turn(sender, self._closing)) and not self._closing.wait(rest):
                pass
        self._threads[0].join()
        if not rest:
            self._turn(sender, self._closed)

    def _turn(self, sender: SpoolSender, stop: Event) -> float:
        try:
            return sender.turn(stop)
        except Exception:
            log.exception("telemetry: sending failed")
            return REST_SECONDS_MAX
