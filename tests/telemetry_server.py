"""A real InfluxDB, for whoever writes to it or reads from it; `benchmarks/influxd.py` says what stands before it."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from benchmarks.influxd import BUCKET, TOKEN, InfluxDB
from tests.broker.mosquitto import free_port, program

__all__ = ["BUCKET", "TOKEN", "InfluxDB", "MakeInfluxDB", "influxdb", "make_influxdb"]

MakeInfluxDB = Callable[[], InfluxDB]


@pytest.fixture
def make_influxdb(tmp_path: Path) -> Iterator[MakeInfluxDB]:
    """Makes servers that are not started yet; all are ended with the test."""
    made: list[InfluxDB] = []

    def make() -> InfluxDB:
        made.append(_new(tmp_path / f"influxdb-{len(made)}"))
        return made[-1]

    yield make
    for server in made:
        server.stop()


@pytest.fixture
def influxdb(make_influxdb: MakeInfluxDB) -> InfluxDB:
    """A running server with an empty bucket."""
    server = make_influxdb()
    server.start()
    return server


def _new(folder: Path) -> InfluxDB:
    found = program("influxd", install="sudo apt-get install influxdb")
    return InfluxDB(folder, program=found, ports=(free_port(), free_port(), free_port()))
