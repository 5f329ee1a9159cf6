"""Number of series that a large fleet creates in InfluxDB's index."""

import time
from collections.abc import Iterator, Sequence
from typing import get_args

from aggregator.admission import Judged, Merge, Refuse
from aggregator.telemetry.condensing import SINGLE_UPDATES_MAX
from aggregator.telemetry.influx import InfluxAccess, InfluxServer
from aggregator.telemetry.lines import LineWriter, Point
from aggregator.telemetry.participation import Activity
from aggregator.telemetry.recording import Recording
from benchmarks.influxd import BUCKET, TOKEN, InfluxDB
from benchmarks.telemetry.workload import TASK
from wire_contract.message_fields import RefusalReason
from wire_contract.messages import Evaluation


def series_of_fleet(devices: int, server: InfluxDB | None) -> int:
    """Series in the server's index (without a server: among the lines) after points of every device and outcome."""
    lines = list(_lines_of_fleet(devices))
    if server is None:
        return len({line.partition(" ")[0] for line in lines})
    influx = InfluxServer(InfluxAccess(url=server.url, token=TOKEN, org="fedkd", bucket=BUCKET))
    for begin in range(0, len(lines), 5_000):
        influx.write(("\n".join(lines[begin : begin + 5_000]) + "\n").encode())
    return len(server.query("SHOW SERIES"))


def _lines_of_fleet(devices: int) -> Iterator[str]:
    points: list[Point] = []

    def record(some: Sequence[Point], _: Sequence[Activity] = ()) -> None:
        points.extend(some)

    recording = Recording(record)
    reasons = get_args(RefusalReason)
    for number in range(devices):
        device = f"device-{number:06d}"
        verdicts = (Merge(1.0, number % 50, 0.1), Refuse(reasons[number % len(reasons)], ""))
        recording.judged([Judged(verdict, None, number, device, bytes(1_000)) for verdict in verdicts])
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
        if number % SINGLE_UPDATES_MAX == 0:  # so that each device has a point of its own
            recording.batch_committed(2 * SINGLE_UPDATES_MAX, judge_seconds=0, commit_seconds=0, answer_seconds=0)
    recording.batch_committed(devices % SINGLE_UPDATES_MAX, judge_seconds=0, commit_seconds=0, answer_seconds=0)
    writer = LineWriter(task=TASK, shard=0)
    now = time.time_ns()
    for index, point in enumerate(points):
        line = writer.line(point, now + index)
        if line is not None:
            yield line
