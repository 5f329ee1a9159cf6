"""The cost of telemetry for the aggregator, also while its server is stopped.

Updates of the default size go through the real service and ledger over the in-memory link. A network would only add
time that has nothing to do with telemetry, so telemetry's share is largest here. The same payloads are merged
repeatedly, each time into a new ledger. InfluxDB and the shim in front of it are separate processes.
"""

import statistics
import tempfile
import time
from collections.abc import Sequence
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

from aggregator.admission import Judged, Merge
from aggregator.service import BATCH_DELIVERIES_MAX
from aggregator.telemetry.recording import Recording
from benchmarks.settings import TelemetrySettings
from benchmarks.telemetry.backend import Backend, influxdb, points_stored
from benchmarks.telemetry.series import series_of_fleet
from benchmarks.telemetry.workload import TimedRun, Workload
from wire_contract.codec import decode
from wire_contract.messages import Update
from wire_contract.program.blas_threads import limit_blas_threads

ALONE_UPDATES = 5_120
"""Updates for measuring telemetry alone, in batches of one (nothing is condensed) and in full batches."""
STAND_IN = "a stand-in that takes lines and forgets them (influxd is not installed: apt-get install influxdb)"


def run(settings: TelemetrySettings) -> dict[str, Any]:
    """Measures; returns the figures."""
    limit_blas_threads(1)  # as the aggregator does
    load = Workload(settings.updates)
    with ExitStack() as at_the_end:
        folder = Path(at_the_end.enter_context(tempfile.TemporaryDirectory(prefix="fedkd-benchmark-")))
        server = at_the_end.enter_context(influxdb(folder))
        backend = at_the_end.enter_context(closing(Backend(folder, server)))
        for warm_up in (None, backend.telemetry):
            load.run(warm_up)
        off, on = _interleaved(load, backend, settings.pairs)
        single = _microseconds_alone(load, backend, batch_updates=1)
        condensed = _microseconds_alone(load, backend, batch_updates=BATCH_DELIVERIES_MAX)
        up, down = _while_down(load, backend, settings.down_seconds)
        caught_up = backend.catch_up()
        backend.telemetry.close()
        counts: dict[str, Any] = backend.counts()
        counts["points_stored"] = None if server is None else points_stored(server)
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


def _interleaved(load: Workload, backend: Backend, pairs: int) -> tuple[list[TimedRun], list[TimedRun]]:
    """Alternates runs without and with telemetry; which comes first alternates as well."""
    off: list[TimedRun] = []
    on: list[TimedRun] = []
    for pair in range(pairs):
        for with_telemetry in (True, False) if pair % 2 else (False, True):
            (on if with_telemetry else off).append(load.run(backend.telemetry if with_telemetry else None))
            backend.catch_up()  # no work of this run overlaps with the next one
    return off, on


def _microseconds_alone(load: Workload, backend: Backend, *, batch_updates: int) -> float:
    """CPU time of telemetry per update, in batches of this size, until the server has the points."""
    payload = load.payloads[0][1]
    judged = Judged(Merge(1.0, 3, 0.1), decode(payload, Update), 7, "device-00000", payload)
    recording = Recording(backend.telemetry.record)
    began = time.process_time()
    for _ in range(ALONE_UPDATES // batch_updates):
        for _ in range(batch_updates):
            recording.judged([judged])
        recording.batch_committed(batch_updates, judge_seconds=0.1, commit_seconds=0.1, answer_seconds=0.1)
    backend.catch_up()
    return 1e6 * (time.process_time() - began) / ALONE_UPDATES


def _while_down(load: Workload, backend: Backend, seconds: float) -> tuple[list[TimedRun], list[TimedRun]]:
    """Runs while the server is up (half before, half after) and while it is stopped."""
    up = _runs_for(load, backend, seconds / 2)
    backend.stop()
    down = _runs_for(load, backend, seconds)
    backend.start()
    backend.catch_up()  # the spooled points are sent
    return up + _runs_for(load, backend, seconds / 2), down


def _runs_for(load: Workload, backend: Backend, seconds: float) -> list[TimedRun]:
    deadline = time.monotonic() + seconds
    runs = [load.run(backend.telemetry)]
    while time.monotonic() < deadline:
        runs.append(load.run(backend.telemetry))
    return runs


def _median_ratio(some: Sequence[TimedRun], others: Sequence[TimedRun]) -> float:
    """Median ratio of neighbouring runs, which had the same conditions."""
    return statistics.median(one.rate / other.rate for one, other in zip(some, others, strict=True))


def _cpu_microseconds(runs: Sequence[TimedRun]) -> float:
    return statistics.median(1e6 * one.cpu_seconds / one.updates for one in runs)
