"""What telemetry costs the aggregator, and what becomes of it when its server is away.

Updates of the default size go through the real service and its real ledger, over the link in memory. A network would
only add time that telemetry has no part in, so this is the strictest place to look: its share is largest here. The
same payloads are merged again and again, each time into a new ledger. InfluxDB and the shim before it are processes of
their own.
"""

import shutil
import socket
import statistics
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, get_args

import numpy as np

from aggregator.admission import Merge, Refuse
from aggregator.ledger.ledger import Ledger
from aggregator.ledger.reading import read_totals
from aggregator.model_line import Judged, LineSettings, opening_shelf, restore, row_of
from aggregator.service import BATCH_DELIVERIES_MAX, Clock, Service, subscriptions
from aggregator.telemetry.collecting import Telemetry
from aggregator.telemetry.condensing import SINGLE_UPDATES_MAX
from aggregator.telemetry.influx import InfluxAccess, InfluxServer
from aggregator.telemetry.lines import LineWriter, Point
from aggregator.telemetry.participation import Contribution
from aggregator.telemetry.recording import Recording
from aggregator.telemetry.schema import MEASUREMENTS
from aggregator.telemetry.spool import Spool
from benchmarks.influxd import BUCKET, TOKEN, InfluxDB, Shim, ShimProcess
from benchmarks.settings import TelemetrySettings
from device_client.settings import UPDATE_BYTES
from wire_contract.codec import decode, encode
from wire_contract.compression.choice import encode_as
from wire_contract.compression.planner import Plan
from wire_contract.layout import Layout, TensorSpec
from wire_contract.link.memory import MemoryBroker, MemoryLink
from wire_contract.messages import Evaluation, RefusalReason, Update
from wire_contract.program.blas_threads import limit_blas_threads
from wire_contract.topics import build

ROOT, TASK = "fedkd/benchmark", "telemetry"
LAYOUT = Layout((TensorSpec("weight", (64, 400)), TensorSpec("bias", (64,))))
"""25,664 parameters, about a student of the tasks here."""
DEVICES = 500
TENSORS = 16
"""Different differences; each update has one of them."""
SPOOL_BYTES_MAX = 1 << 28
CATCH_UP_SECONDS_MAX = 60.0
ALONE_UPDATES = 5_120
"""For telemetry without anything beside it, in batches of one (nothing is condensed) and in full ones."""
FLUSHED_SECONDS = 1.5
"""After which all that was recorded is in the spool."""
STAND_IN = "a stand-in that takes lines and forgets them (influxd is not installed: apt-get install influxdb)"


@dataclass
class Run:
    """One emptying of the queue."""

    updates: int
    seconds: float
    cpu_seconds: float
    """Of this process, telemetry's threads included."""

    @property
    def rate(self) -> float:
        return self.updates / self.seconds


@dataclass
class Load:
    """Payloads for one line, which begins from zero weights."""

    updates: int
    settings: LineSettings = field(default_factory=lambda: LineSettings(task=TASK, updates_per_version=100))
    payloads: list[tuple[str, bytes]] = field(init=False)

    def __post_init__(self) -> None:
        chance = np.random.default_rng(0)
        shelf = opening_shelf(self.settings, LAYOUT, np.zeros(LAYOUT.size, dtype=np.float32), published_at=0.0)
        choice = Plan(bytes_max=UPDATE_BYTES)
        tensors = [
            encode_as(choice, chance.standard_normal(LAYOUT.size).astype(np.float32) * 0.01, LAYOUT, version=0)
            for _ in range(TENSORS)
        ]
        self.payloads = []
        for number in range(self.updates):
            device = f"device-{number % DEVICES:05d}"
            update = Update(
                task=TASK,
                device=device,
                incarnation=b"benchmrk",
                sequence=1 + number // DEVICES,
                base_version=0,
                base_digest=shelf.published.digest,
                layout_fingerprint=LAYOUT.fingerprint,
                samples=200,
                local_steps=10,
                train_seconds=1.5 + number % 7,
                metrics={"loss": 0.5 + 0.01 * (number % 50), "accuracy": 0.8},
                tensors=tensors[number % TENSORS],
            )
            self.payloads.append((build("update", root=ROOT, task=TASK, shard=0, device=device), encode(update)))

    def run(self, telemetry: Telemetry | None) -> Run:
        """Merges all of it into a new ledger; only that is timed."""
        with tempfile.TemporaryDirectory(prefix="fedkd-benchmark-") as folder, ExitStack() as at_the_end:
            path = Path(folder) / "ledger.sqlite3"
            ledger = at_the_end.enter_context(closing(Ledger(path, task=TASK)))
            weights = np.zeros(LAYOUT.size, dtype=np.float32)
            ledger.begin_line(row_of(opening_shelf(self.settings, LAYOUT, weights, published_at=0.0)), LAYOUT, weights)
            line = restore(ledger, self.settings)
            broker = MemoryBroker()
            listens = subscriptions(root=ROOT, task=TASK, shard=0)
            link = at_the_end.enter_context(closing(MemoryLink(broker, "aggregator", subscriptions=listens)))
            for topic, payload in self.payloads:
                broker.publish(topic, payload)
            recording = Recording()
            if telemetry is not None:
                recording = Recording(telemetry.record, queue_depth=lambda: link.waiting, traffic=lambda: link.traffic)
            service = Service(
                line,
                ledger,
                link,
                root=ROOT,
                totals=read_totals(path),
                clock=Clock(monotonic=time.monotonic, unix=time.time),
                pause=time.sleep,
                recording=recording,
            )
            began, cpu_began = time.perf_counter(), time.process_time()
            while link.traffic.messages_in < self.updates or link.waiting:
                service.step()
            done = Run(self.updates, time.perf_counter() - began, time.process_time() - cpu_began)
            assert read_totals(path).merged == self.updates
            return done


class Stage:
    """A server, and telemetry that writes to it."""

    def __init__(self, folder: Path, server: InfluxDB | None) -> None:
        self.influxdb = server
        self._shim: Shim | None = None if server is not None else ShimProcess(_free_port(), behind=0)
        self.start()
        port = server.shim.port if server is not None else self._port_of_shim
        influx = InfluxServer(InfluxAccess(url=f"http://127.0.0.1:{port}", token=TOKEN, org="fedkd", bucket=BUCKET))
        self.spool = Spool(folder / "spool", bytes_max=SPOOL_BYTES_MAX)
        self.telemetry = Telemetry(self.spool, task=TASK, shard=0, server=influx)

    @property
    def _port_of_shim(self) -> int:
        assert self._shim is not None
        return self._shim.port

    def start(self) -> None:
        (self.influxdb or self._shim).start()  # type: ignore[union-attr]

    def stop(self) -> None:
        (self.influxdb or self._shim).stop()  # type: ignore[union-attr]

    def close(self) -> None:
        self.telemetry.close()
        self.stop()

    def catch_up(self) -> bool:
        """Whether everything that was recorded is sent or dropped within the time for it."""
        time.sleep(FLUSHED_SECONDS)
        deadline = time.monotonic() + CATCH_UP_SECONDS_MAX
        while time.monotonic() < deadline:
            counters = self.spool.counters
            if counters.recorded == _accounted(self.counts()) and counters.recorded > 0:
                return True
            time.sleep(0.2)
        return False

    def counts(self) -> dict[str, int]:
        counters = self.spool.counters
        return {
            "points_recorded": counters.recorded,
            "points_sent": counters.sent,
            "points_dropped_queue": counters.queue_dropped,
            "points_dropped_spool": counters.spool_dropped,
            "points_dropped_server": counters.server_dropped,
        }


def _accounted(counts: Mapping[str, int]) -> int:
    return sum(count for name, count in counts.items() if name != "points_recorded")


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def _server(folder: Path) -> Iterator[InfluxDB | None]:
    program = shutil.which("influxd")
    if program is None:
        yield None
        return
    server = InfluxDB(
        folder / "influxdb", program=program, ports=(_free_port(), _free_port(), _free_port()), shim_apart=True
    )
    try:
        yield server
    finally:
        server.stop()


def run(settings: TelemetrySettings) -> dict[str, Any]:
    """All figures."""
    limit_blas_threads(1)  # as the aggregator's program
    load = Load(settings.updates)
    with ExitStack() as at_the_end:
        folder = Path(at_the_end.enter_context(tempfile.TemporaryDirectory(prefix="fedkd-benchmark-")))
        server = at_the_end.enter_context(_server(folder))
        stage = at_the_end.enter_context(closing(Stage(folder, server)))
        for warm_up in (None, stage.telemetry):
            load.run(warm_up)
        off, on = _interleaved(load, stage, settings.pairs)
        single = _microseconds_alone(load, stage, batch_updates=1)
        condensed = _microseconds_alone(load, stage, batch_updates=BATCH_DELIVERIES_MAX)
        up, down = _while_down(load, stage, settings.down_seconds)
        caught_up = stage.catch_up()
        stage.telemetry.close()
        counts: dict[str, Any] = stage.counts()
        counts["points_stored"] = None if server is None else _stored(server)
        series = series_of_fleet(settings.fleet, server)
    return {
        "benchmark": "telemetry",
        "server": STAND_IN if server is None else "InfluxDB of influxd on PATH, behind a path shim",
        "link": "in memory",
        "update_bytes": statistics.fmean(len(payload) for _, payload in load.payloads),
        "pairs": settings.pairs,
        "updates_per_run": settings.updates,
        "rate_off": statistics.median(one.rate for one in off),
        "rate_on": statistics.median(one.rate for one in on),
        "rate_ratio_on": _median_ratio(on, off),
        "cpu_ratio_on": statistics.median(a.cpu_seconds / b.cpu_seconds for a, b in zip(off, on, strict=True)),
        "cpu_microseconds_off": _cpu_microseconds(off),
        "cpu_microseconds_on": _cpu_microseconds(on),
        "cpu_microseconds_per_single_update": single,
        "cpu_microseconds_per_condensed_update": condensed,
        "down_seconds": settings.down_seconds,
        "runs_up": len(up),
        "runs_down": len(down),
        "rate_up": statistics.median(one.rate for one in up),
        "rate_down": statistics.median(one.rate for one in down),
        "rate_ratio_down": statistics.median(one.rate for one in down) / statistics.median(one.rate for one in up),
        "cpu_ratio_down": _cpu_microseconds(up) / _cpu_microseconds(down),
        "caught_up": caught_up,
        **counts,
        "devices": settings.fleet,
        "series": series,
    }


def _interleaved(load: Load, stage: Stage, pairs: int) -> tuple[list[Run], list[Run]]:
    """Runs without and with telemetry, in turn; which comes first alternates."""
    off: list[Run] = []
    on: list[Run] = []
    for pair in range(pairs):
        for with_telemetry in (True, False) if pair % 2 else (False, True):
            (on if with_telemetry else off).append(load.run(stage.telemetry if with_telemetry else None))
            stage.catch_up()  # nothing of this run goes on beside the next one
    return off, on


def _microseconds_alone(load: Load, stage: Stage, *, batch_updates: int) -> float:
    """CPU of telemetry for each update in batches of that size, until the server has them."""
    payload = load.payloads[0][1]
    judged = Judged(Merge(1.0, 3, 0.1), decode(payload, Update), 7)
    recording = Recording(stage.telemetry.record)
    began = time.process_time()
    for _ in range(ALONE_UPDATES // batch_updates):
        for _ in range(batch_updates):
            recording.judged("device-00000", judged, len(payload))
        recording.batch_committed(batch_updates, judge_seconds=0.1, commit_seconds=0.1, answer_seconds=0.1)
    stage.catch_up()
    return 1e6 * (time.process_time() - began) / ALONE_UPDATES


def _while_down(load: Load, stage: Stage, seconds: float) -> tuple[list[Run], list[Run]]:
    """Runs while the server is there, half before and half after, and while it is stopped."""
    up = _runs_for(load, stage, seconds / 2)
    stage.stop()
    down = _runs_for(load, stage, seconds)
    stage.start()
    stage.catch_up()  # the rush to send what waited is over
    return up + _runs_for(load, stage, seconds / 2), down


def _runs_for(load: Load, stage: Stage, seconds: float) -> list[Run]:
    deadline = time.monotonic() + seconds
    runs = [load.run(stage.telemetry)]
    while time.monotonic() < deadline:
        runs.append(load.run(stage.telemetry))
    return runs


def _median_ratio(some: Sequence[Run], others: Sequence[Run]) -> float:
    """Of neighbours, which met the same weather."""
    return statistics.median(one.rate / other.rate for one, other in zip(some, others, strict=True))


def _cpu_microseconds(runs: Sequence[Run]) -> float:
    return statistics.median(1e6 * one.cpu_seconds / one.updates for one in runs)


def _stored(server: InfluxDB) -> int:
    """Points there, of all measurements: each has a field that all its points have."""
    total = 0
    for measurement in MEASUREMENTS:
        rows = server.query(f'SELECT count(*) FROM "{measurement}"')  # noqa: S608 - names of the schema
        total += max((value for name, value in rows[0].items() if name != "time"), default=0) if rows else 0
    return total


def series_of_fleet(devices: int, server: InfluxDB | None) -> int:
    """Series in the server's index (without one: among the lines) after every device had every outcome."""
    lines = list(_lines_of_fleet(devices))
    if server is None:
        return len({line.partition(" ")[0] for line in lines})
    influx = InfluxServer(InfluxAccess(url=server.url, token=TOKEN, org="fedkd", bucket=BUCKET))
    for begin in range(0, len(lines), 5_000):
        influx.write(("\n".join(lines[begin : begin + 5_000]) + "\n").encode())
    return len(server.query("SHOW SERIES"))


def _lines_of_fleet(devices: int) -> Iterator[str]:
    points: list[Point] = []

    def record(some: Sequence[Point], _: Sequence[Contribution] = ()) -> None:
        points.extend(some)

    recording = Recording(record)
    reasons = get_args(RefusalReason)
    for number in range(devices):
        device = f"device-{number:06d}"
        recording.judged(device, Judged(Merge(1.0, number % 50, 0.1), None, number), 1_000)
        recording.judged(device, Judged(Refuse(reasons[number % len(reasons)], ""), None, number), 1_000)
        points.append(Point("fedkd_presence", ("online",), {"device": device}))
        if number % 100 == 0:
            evaluation = Evaluation(
                task=TASK,
                device=f"e-{number}.c{number}",
                version=number,
                digest=bytes(32),
                samples=1,
                metrics={"loss": 1.0},
            )
            recording.evaluated(evaluation, newest_version=number, size_bytes=100)
        if number % SINGLE_UPDATES_MAX == 0:  # so that each device is named
            recording.batch_committed(2 * SINGLE_UPDATES_MAX, judge_seconds=0, commit_seconds=0, answer_seconds=0)
    recording.batch_committed(devices % SINGLE_UPDATES_MAX, judge_seconds=0, commit_seconds=0, answer_seconds=0)
    writer = LineWriter(task=TASK, shard=0)
    now = time.time_ns()
    for index, point in enumerate(points):
        line = writer.line(point, now + index)
        if line is not None:
            yield line


def table(figures: Mapping[str, Any]) -> str:
    """For people."""
    f = figures
    single, condensed = f["cpu_microseconds_per_single_update"], f["cpu_microseconds_per_condensed_update"]
    stored = "unknown" if f["points_stored"] is None else f"{f['points_stored']:,}"
    return "\n".join(
        [
            f"server: {f['server']}; link: {f['link']}; updates of {f['update_bytes']:.0f} bytes",
            f"telemetry off       {f['rate_off']:10,.0f} updates/s   {f['cpu_microseconds_off']:8.0f} µs CPU each",
            f"telemetry on        {f['rate_on']:10,.0f} updates/s   {f['cpu_microseconds_on']:8.0f} µs CPU each",
            f"  on / off          {f['rate_ratio_on']:10.3f}   (goal 0.97; median of {f['pairs']} pairs)",
            f"  off / on, CPU     {f['cpu_ratio_on']:10.3f}   (the same where other programs disturb the clock)",
            f"telemetry alone     {condensed:10.1f} µs CPU an update in full batches; {single:.1f} in batches of one",
            f"server there        {f['rate_up']:10,.0f} updates/s",
            f"server stopped      {f['rate_down']:10,.0f} updates/s   for {f['down_seconds']:g} s",
            f"  stopped / there   {f['rate_ratio_down']:10.3f}   (goal 0.97)",
            f"  there / st., CPU  {f['cpu_ratio_down']:10.3f}",
            f"points              {f['points_recorded']:,} recorded, {f['points_sent']:,} sent, {stored} stored",
            f"  queue was full    {f['points_dropped_queue']:10,} dropped",
            f"  spool was full    {f['points_dropped_spool']:10,} dropped",
            f"  server refused    {f['points_dropped_server']:10,} dropped",
            f"series              {f['series']:10,}   with {f['devices']:,} devices (goal < 1,000)",
        ]
    )
