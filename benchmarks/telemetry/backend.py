"""Telemetry with its server: an InfluxDB that can be stopped and started, or a stand-in where influxd is missing."""

import shutil
import socket
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from aggregator.telemetry.collecting import Telemetry
from aggregator.telemetry.influx import InfluxAccess, InfluxServer
from aggregator.telemetry.schema import MEASUREMENTS
from aggregator.telemetry.spool import Spool
from benchmarks.influxd import BUCKET, TOKEN, InfluxDB, Shim, ShimProcess
from benchmarks.telemetry.workload import TASK

SPOOL_BYTES_MAX = 1 << 28
"""Four times the default, so that nothing is dropped while the server is stopped under load."""
CATCH_UP_SECONDS_MAX = 60.0
"""Chosen: twice the longest pause between attempts to send (30 s)."""
FLUSHED_SECONDS = 1.5
"""After this time, all recorded points are in the spool. 1.5 flush intervals."""


class Backend:
    """A telemetry server, and the telemetry that writes to it."""

    def __init__(self, folder: Path, server: InfluxDB | None) -> None:
        self.influxdb = server
        self._shim: Shim | None = None if server is not None else ShimProcess(free_port(), behind=0)
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
        """Waits until every recorded point is sent or dropped; returns whether that happened in time."""
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


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def influxdb(folder: Path) -> Iterator[InfluxDB | None]:
    program = shutil.which("influxd")
    if program is None:
        yield None
        return
    server = InfluxDB(
        folder / "influxdb", program=program, ports=(free_port(), free_port(), free_port()), shim_apart=True
    )
    try:
        yield server
    finally:
        server.stop()


def points_stored(server: InfluxDB) -> int:
    """Points stored in all measurements; each measurement has a field that all its points have."""
    total = 0
    for measurement in MEASUREMENTS:
        rows = server.query(f'SELECT count(*) FROM "{measurement}"')  # noqa: S608 - names of the schema
        total += max((value for name, value in rows[0].items() if name != "time"), default=0) if rows else 0
    return total
