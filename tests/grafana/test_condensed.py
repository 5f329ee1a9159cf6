"""A busy aggregator's points in a real InfluxDB: panels count updates instead of points, and name whom they can."""

from collections.abc import Sequence

import pytest

from aggregator.admission import Judged, Merge, Refuse
from aggregator.telemetry.condensing import SINGLE_UPDATES_MAX
from aggregator.telemetry.influx import InfluxAccess, InfluxServer
from aggregator.telemetry.lines import LineWriter, Point
from aggregator.telemetry.participation import Activity
from aggregator.telemetry.recording import Recording
from benchmarks.influxd import BUCKET, TOKEN, InfluxDB, Row
from grafana.panels import Query
from grafana.tables import DASHBOARDS
from tests.aggregator.telemetry.test_condensing import update
from tests.grafana.asking import Span, asked, rows_with_values

OVERVIEW, FLEET, LEARNING = "fedkd-overview", "fedkd-fleet", "fedkd-learning"
AT_SECONDS = 1_800_000_000
SIZES = (1, 250, 40)
"""Updates of the batches; what is stale comes in the largest one, as after an outage."""
REFUSED = 90


def staleness(number: int) -> int:
    return 20 + number if 1 <= number < 251 else 1


@pytest.fixture
def busy(influxdb: InfluxDB) -> InfluxDB:
    points: list[Point] = []

    def record(some: Sequence[Point], _: Sequence[Activity] = ()) -> None:
        points.extend(some)

    recording = Recording(record)
    number = 0
    for size in SIZES:
        for _ in range(size):
            told = update(f"device-{number}", train_seconds=float(number))
            merge = Merge(1.0, staleness(number), number / 4)
            recording.judged([Judged(merge, told, 300, told.device, bytes(1_000 + number))])
            number += 1
        recording.batch_committed(size, judge_seconds=0, commit_seconds=0, answer_seconds=0)
    for stranger in range(REFUSED):
        recording.judged([Judged(Refuse("norm", ""), None, 300, f"stranger-{stranger}", bytes(500))])
    recording.batch_committed(REFUSED, judge_seconds=0, commit_seconds=0, answer_seconds=0)
    writer = LineWriter(task="t", shard=0)
    lines = [writer.line(point, AT_SECONDS * 10**9 + place) for place, point in enumerate(points)]
    InfluxServer(InfluxAccess(url=influxdb.url, token=TOKEN, org="fedkd", bucket=BUCKET)).write(
        "".join(f"{one}\n" for one in lines).encode()
    )
    return influxdb


def answers(db: InfluxDB, page: str, title: str, place: int = 0) -> list[Row]:
    """Of one query of a panel."""
    (panel,) = (panel for one in DASHBOARDS if one.uid == page for panel in one.panels if panel.title == title)
    query = panel.queries[place]
    assert isinstance(query, Query)
    span = Span(1_000 * AT_SECONDS - 1_000, 1_000 * AT_SECONDS + 1_000)
    return rows_with_values(db, asked(query.text, span, task=["t"], shard=["0"], device=[""]))


def test_refusals_are_counted_by_updates(busy: InfluxDB) -> None:
    assert [row["sum"] for row in answers(busy, FLEET, "Refusals by reason") if row["sum"]] == [REFUSED]


def test_means_and_largest_are_those_of_all_updates(busy: InfluxDB) -> None:
    numbers = range(sum(SIZES))
    (found,) = answers(busy, OVERVIEW, "Staleness of merged updates")
    assert found["mean"] == pytest.approx(sum(map(staleness, numbers)) / len(numbers))
    assert found["largest"] == max(map(staleness, numbers))
    (found,) = answers(busy, LEARNING, "Norm of updates")
    assert found["mean"] == pytest.approx(sum(numbers) / 4 / len(numbers))
    assert found["largest"] == numbers[-1] / 4
    (found,) = answers(busy, FLEET, "Training time")
    assert found["mean"] == pytest.approx(sum(numbers) / len(numbers))
    (found,) = answers(busy, FLEET, "Size of updates")
    total = sum(1_000 + number for number in numbers) + REFUSED * 500
    assert found["mean"] == pytest.approx(total / (len(numbers) + REFUSED))


@pytest.mark.parametrize("title", ["Furthest behind", "Silent longest", "Devices with refused updates"])
def test_tables_of_devices_have_single_updates(busy: InfluxDB, title: str) -> None:
    rows = answers(busy, FLEET, title)
    assert len(rows) == {"Devices with refused updates": SINGLE_UPDATES_MAX}.get(title, 1 + 2 * SINGLE_UPDATES_MAX)
    assert all(row["device"] for row in rows)


def test_pictures_of_single_updates_have_no_sums(busy: InfluxDB) -> None:
    largest = max(map(staleness, range(sum(SIZES))))
    drawn = answers(busy, LEARNING, "Weight against staleness")
    assert {row["weight"] for row in drawn} == {1.0}
    heat = answers(busy, LEARNING, "Staleness of merged updates")
    assert len(drawn) == len(heat) == 1 + 2 * SINGLE_UPDATES_MAX
    assert max(row["staleness"] for row in drawn + heat) <= largest
    (line,) = answers(busy, OVERVIEW, "Staleness of merged updates", 1)
    assert line["90 %"] <= largest


def test_one_device_s_updates_are_its_own(busy: InfluxDB) -> None:
    rows = answers(busy, FLEET, "Updates of devices whose id begins with the text above")
    assert len(rows) == 1 + 3 * SINGLE_UPDATES_MAX
    assert all(row["device"] for row in rows)
