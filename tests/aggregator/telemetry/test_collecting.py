"""From `record` to a real InfluxDB: in order, counted, bounded, and never in the way."""

import itertools
import logging
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from aggregator.admission import Judged, Merge, Refuse
from aggregator.telemetry import collecting
from aggregator.telemetry.collecting import CLOSE_SECONDS_MAX, Telemetry
from aggregator.telemetry.condensing import SINGLE_UPDATES_MAX
from aggregator.telemetry.influx import InfluxAccess, InfluxServer, LinesRefused, NotAllowed, Server, ServerAway
from aggregator.telemetry.lines import Point, read_line
from aggregator.telemetry.participation import gini
from aggregator.telemetry.recording import Recording
from aggregator.telemetry.spool import SPOOL_BYTES_MIN, Spool, read_counters, read_spool
from tests.aggregator.telemetry.points import FULL_POINTS, update_point
from tests.telemetry_server import BUCKET, TOKEN, InfluxDB

PATIENCE_SECONDS = 60.0
"""Only a failing test waits so long."""


def until(true: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not true():
        assert time.monotonic() < deadline, f"still waiting: {what}"
        time.sleep(0.01)


class StandIn:
    """A server that does as it is told."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.error: Exception | None = None
        self.bad = ""
        self.attempts = 0
        self.answers = threading.Event()
        self.answers.set()

    def write(self, lines: bytes) -> None:
        self.attempts += 1
        self.answers.wait()
        if self.error is not None:
            raise self.error
        if self.bad and self.bad in lines.decode():
            raise LinesRefused("answers 400: unable to parse")
        self.lines += lines.decode().splitlines()

    @property
    def versions(self) -> list[int]:
        read = [read_line(line) for line in self.lines]
        return [int(line.fields["version"]) for line in read if line is not None and line.measurement == "fedkd_update"]


Make = Callable[..., Telemetry]


@pytest.fixture
def make(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Make]:
    monkeypatch.setattr(collecting, "CLOSE_SECONDS_MAX", PATIENCE_SECONDS)  # a busy machine costs no points here
    made: list[Telemetry] = []

    def new(server: Server | None = None, *, bytes_max: int = 1 << 24, **settings: Any) -> Telemetry:
        spool = Spool(tmp_path / "spool", bytes_max=bytes_max)
        made.append(Telemetry(spool, task="t", shard=0, server=server, **{"flush_seconds": 0.02, **settings}))
        return made[-1]

    yield new
    monkeypatch.undo()
    for telemetry in made:
        telemetry.close()


def spooled_versions(folder: Path) -> list[int]:
    read = [read_line(text) for text in read_spool(folder)]
    return [int(line.fields["version"]) for line in read if line is not None and line.measurement == "fedkd_update"]


def test_without_a_server_the_points_are_in_the_spool(make: Make, tmp_path: Path) -> None:
    telemetry = make()
    for number in range(500):
        telemetry.record([update_point(number)])
    telemetry.record(FULL_POINTS)
    telemetry.close()
    assert spooled_versions(tmp_path / "spool")[:500] == list(range(500))
    counters = read_counters(tmp_path / "spool")
    on_disk = list(read_spool(tmp_path / "spool"))
    assert counters.recorded == len(on_disk)
    assert (counters.queue_dropped, counters.spool_dropped, counters.sent) == (0, 0, 0)


def test_no_two_points_have_one_moment(make: Make, tmp_path: Path) -> None:
    moments = iter([5, 5, 4, 3, *[6] * 1_000])
    clocks = telemetry_clocks(unix_ns=lambda: next(moments))
    telemetry = make(clocks=clocks)
    for number in range(4):
        telemetry.record([update_point(number), update_point(10 + number)])
    telemetry.close()
    read = [read_line(text) for text in read_spool(tmp_path / "spool")]
    at = [line.at_ns for line in read if line is not None]
    assert len(at) >= 8
    assert all(later > earlier for earlier, later in itertools.pairwise(at))


def test_a_flood_is_few_points_and_the_fleet_knows_every_device(make: Make, tmp_path: Path) -> None:
    telemetry = make(flush_seconds=60.0)
    recording = Recording(telemetry.record)
    for number in range(500):
        verdict = Merge(float(number), staleness=1, norm=0.5) if number % 2 else Refuse("norm", "")
        recording.judged([Judged(verdict, None, 7, f"device-{number}", bytes(100))])
    recording.batch_committed(500, judge_seconds=0, commit_seconds=0, answer_seconds=0)
    telemetry.close()
    lines = [line for line in map(read_line, read_spool(tmp_path / "spool")) if line is not None]
    updates = [line for line in lines if line.measurement == "fedkd_update"]
    assert len(updates) == 2 * (SINGLE_UPDATES_MAX + 1)
    (fleet,) = (line.fields for line in lines if line.measurement == "fedkd_fleet")
    assert (fleet["devices_known"], fleet["devices_contributing"]) == (500, 250)
    weights = [float(number) if number % 2 else 0.0 for number in range(500)]
    assert fleet["weight_gini"] == pytest.approx(gini(weights))
    counters = read_counters(tmp_path / "spool")
    assert counters.recorded == len(lines), "what is no point is not counted as one"


def telemetry_clocks(**changes: Any) -> Any:
    from aggregator.telemetry.collecting import Clocks  # noqa: PLC0415

    return Clocks()._replace(**changes)


def test_a_full_queue_drops_and_counts_and_never_waits(make: Make, tmp_path: Path) -> None:
    telemetry = make(points_max=10, flush_seconds=60.0)
    telemetry._wake.set = lambda: None  # type: ignore[method-assign] # the worker sleeps
    for number in range(50):
        telemetry.record([update_point(number)])
    del telemetry._wake.set
    telemetry.close()
    assert spooled_versions(tmp_path / "spool") == list(range(10))
    counters = read_counters(tmp_path / "spool")
    assert counters.queue_dropped == 40
    assert counters.recorded == 50 + 2  # two of its own at the end


def test_all_reaches_a_server_that_was_away_in_order(make: Make) -> None:
    server = StandIn()
    server.error = ServerAway("cannot be reached")
    telemetry = make(server, clocks=telemetry_clocks(uniform=lambda _, high: min(high, 0.01)))
    for number in range(3_000):
        telemetry.record([update_point(number)])
    until(lambda: server.attempts >= 3, "it tries again")
    assert not server.lines
    server.error = None
    until(lambda: len(server.versions) == 3_000, "all are sent")
    assert server.versions == list(range(3_000))


def test_a_server_that_is_away_is_told_once(make: Make, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    server = StandIn()
    server.error = ServerAway("cannot be reached")
    telemetry = make(server, clocks=telemetry_clocks(uniform=lambda _, high: min(high, 0.01)))
    telemetry.record([update_point(1)])
    until(lambda: server.attempts >= 5, "it tries again")
    server.error = None
    until(lambda: bool(server.lines), "it is sent")
    telemetry.close()
    said = [record.getMessage() for record in caplog.records]
    assert said == [
        "telemetry server cannot be reached; points wait in the spool",
        "telemetry is being sent again",
    ]


def test_a_restart_sends_what_is_left_and_not_all_again(make: Make) -> None:
    first, second = StandIn(), StandIn()
    telemetry = make(first)
    for number in range(100):
        telemetry.record([update_point(number)])
    until(lambda: len(first.versions) == 100, "all are sent")
    first.error = ServerAway("cannot be reached")
    for number in range(100, 150):
        telemetry.record([update_point(number)])
    telemetry.close()
    assert make(second)
    until(lambda: len(second.versions) == 50, "the rest is sent")
    assert second.versions == list(range(100, 150))


def test_a_bad_line_costs_itself_only(make: Make, caplog: pytest.LogCaptureFixture, tmp_path: Path) -> None:
    server = StandIn()
    server.bad = "version=77i"
    telemetry = make(server, flush_seconds=0.2)
    telemetry.record([update_point(number) for number in range(200)])
    until(lambda: len(server.versions) >= 199, "the others are sent")
    telemetry.close()
    assert server.versions[:199] == [number for number in range(200) if number != 77]
    assert read_counters(tmp_path / "spool").server_dropped == 1
    (record,) = caplog.records
    assert "answers 400" in record.getMessage()
    assert "1 points dropped" in record.getMessage()
    assert "version=77i" in record.getMessage()


def test_very_many_bad_lines_take_a_bounded_number_of_writes(make: Make, tmp_path: Path) -> None:
    server = StandIn()
    server.bad = "fedkd"
    telemetry = make(server, flush_seconds=0.2)
    telemetry.record([update_point(number) for number in range(2_000)])
    until(lambda: read_counters(tmp_path / "spool").server_dropped >= 2_000, "all are dropped")
    assert server.attempts < 200


def test_a_token_that_is_refused_is_told_once_and_tried_slowly(
    make: Make, caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    rests: list[float] = []
    server = StandIn()
    server.error = NotAllowed("answers 401: unauthorized access")

    def uniform(low: float, high: float) -> float:
        rests.append(high)
        return 0.0001 if len(rests) < 3 else low

    telemetry = make(server, clocks=telemetry_clocks(uniform=uniform))
    telemetry.record([update_point(1)])
    until(lambda: server.attempts >= 3, "it tries again")
    telemetry.close()
    (record,) = caplog.records
    assert "answers 401" in record.getMessage()
    assert "check its token" in record.getMessage()
    assert rests[:2] == [1.0, 1.0], "of a minute, not of the bound that doubles"
    assert read_counters(tmp_path / "spool").server_dropped == 0
    assert spooled_versions(tmp_path / "spool") == [1], "nothing is lost for it"


def test_close_is_bounded_while_the_server_hangs(make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(collecting, "CLOSE_SECONDS_MAX", CLOSE_SECONDS_MAX)
    server = StandIn()
    server.answers.clear()
    telemetry = make(server)
    telemetry.record([update_point(1)])
    until(lambda: server.attempts > 0, "it is being sent")
    telemetry.record([update_point(2)])
    until(lambda: read_counters(tmp_path / "spool").recorded >= 2, "it is spooled")
    telemetry.close()
    assert not server.answers.is_set(), "it hangs still"
    assert telemetry._threads[1].is_alive()
    assert spooled_versions(tmp_path / "spool") == [1, 2]
    server.answers.set()
    telemetry._threads[1].join(PATIENCE_SECONDS)
    assert read_counters(tmp_path / "spool").sent == 0, "an answer after that changes nothing on disk"


def test_a_point_that_the_schema_does_not_know_costs_itself_only(make: Make, tmp_path: Path) -> None:
    telemetry = make()
    telemetry.record([Point("fedkd_unknown", (), {"x": 1}), Point("fedkd_update", (), {"version": 1})])
    until(lambda: read_counters(tmp_path / "spool").queue_dropped == 2, "it is counted")
    telemetry.record([update_point(2)])
    telemetry.close()
    assert spooled_versions(tmp_path / "spool") == [2]


# -- a real server


def influx(server: InfluxDB, token: str = TOKEN) -> InfluxServer:
    return InfluxServer(InfluxAccess(url=server.url, token=token, org="fedkd", bucket=BUCKET))


def test_a_real_server_that_goes_and_comes_back_has_every_point(make: Make, influxdb: InfluxDB) -> None:
    telemetry = make(influx(influxdb), clocks=telemetry_clocks(uniform=lambda _, high: min(high, 0.05)))
    telemetry.record([update_point(number) for number in range(1_000)])
    until(lambda: influxdb.count("fedkd_update", "version") == 1_000, "the first are there")
    influxdb.stop()
    for number in range(1_000, 6_000):
        telemetry.record([update_point(number)])
    sender = telemetry._sender
    assert sender is not None
    until(lambda: sender.failures > 1, "it has noticed")
    influxdb.start()
    until(lambda: influxdb.count("fedkd_update", "version") == 6_000, "all are there")
    rows = influxdb.query("SELECT version FROM fedkd_update ORDER BY time")
    assert [row["version"] for row in rows] == list(range(6_000))


def test_what_does_not_fit_while_a_real_server_is_away_is_counted(
    make: Make, influxdb: InfluxDB, tmp_path: Path
) -> None:
    influxdb.stop()
    telemetry = make(
        influx(influxdb),
        bytes_max=SPOOL_BYTES_MIN,
        # Its clock stands still, so that it has no points of its own to tell in between.
        clocks=telemetry_clocks(uniform=lambda _, high: min(high, 0.05), monotonic=lambda: 0.0),
    )
    for begin in range(0, 5_000, 100):
        telemetry.record([update_point(number) for number in range(begin, begin + 100)])
    until(lambda: read_counters(tmp_path / "spool").recorded == 5_000, "all are spooled")
    influxdb.start()
    until(lambda: influxdb.shim.writes > 0 and telemetry._spool.read(100) is None, "the rest is sent")
    there = [row["version"] for row in influxdb.query("SELECT version FROM fedkd_update ORDER BY time")]
    assert there == list(range(there[0], 5_000))
    assert read_counters(tmp_path / "spool").spool_dropped == there[0] > 0


def test_a_wrong_token_and_a_wrong_bucket_are_refused_by_a_real_server(influxdb: InfluxDB) -> None:
    with pytest.raises(NotAllowed, match="401"):
        influx(influxdb, token="other").write(b"m f=1 1\n")
    with pytest.raises(NotAllowed, match=r"404.*database not found"):
        InfluxServer(InfluxAccess(url=influxdb.url, token=TOKEN, org="fedkd", bucket="other")).write(b"m f=1 1\n")


def test_what_a_real_server_says_of_bad_lines_and_of_trouble(influxdb: InfluxDB) -> None:
    server = influx(influxdb)
    with pytest.raises(LinesRefused, match="unable to parse"):
        server.write(b"no line\n")
    server.write(b"m f=1 1\n")
    with pytest.raises(LinesRefused, match="field type conflict"):
        server.write(b'm f="text" 2\n')
    influxdb.shim.status = 413
    with pytest.raises(LinesRefused) as refused:
        server.write(b"m f=1 1\n")
    assert refused.value.too_large
    for status in (429, 500, 503):
        influxdb.shim.status = status
        with pytest.raises(ServerAway) as away:
            server.write(b"m f=1 1\n")
        assert not isinstance(away.value, NotAllowed)
    influxdb.stop()
    with pytest.raises(ServerAway, match="cannot be reached"):
        server.write(b"m f=1 1\n")
