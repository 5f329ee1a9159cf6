"""Each rule over a day of points in a real InfluxDB: silent while all is well, and firing for its own fault alone."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import pytest

from aggregator.telemetry.influx import InfluxAccess, InfluxServer
from aggregator.telemetry.lines import LineWriter, Point, Value
from benchmarks.influxd import BUCKET, TOKEN, InfluxDB
from grafana.alerts import RULES
from tests.grafana.asking import firing

NOW_SECONDS = 1_800_000_000 + 290
"""Near the end of a bucket: at its beginning it holds nothing yet, which the pending time of each rule covers."""
DAY_SECONDS = 86_400
EVERY_SECONDS = 60


@dataclass(frozen=True)
class Minute:
    """What one minute was like."""

    merged: int = 20
    refused: int = 0
    waiting: int = 50
    accuracies: Mapping[str, float] | None = None
    errors: Mapping[str, float] | None = None
    """By cohort; lower is better."""
    arrived: bool = True
    """Telemetry has reached the server."""


GOOD = Minute(accuracies={"young": 0.9, "old": 0.8})


def points(minute: Minute, number: int) -> Iterator[Point]:
    fields: dict[str, Value] = {"merged": minute.merged, "refused": minute.refused, "duplicate": 0}
    yield Point("fedkd_batch", (), fields)
    recorded = 1_000 * number + minute.waiting
    sent: dict[str, Value] = {
        "recorded_total": recorded,
        "sent_total": 1_000 * number,
        "spool_bytes": minute.waiting * 200,
    }
    dropped = dict.fromkeys(("queue_dropped_total", "spool_dropped_total", "server_dropped_total"), 0)
    yield Point("fedkd_telemetry", (), sent | dropped)
    for cohort, accuracy in (minute.accuracies or {}).items():
        yield evaluation(cohort, number, accuracy, is_share=True)
    for cohort, error in (minute.errors or {}).items():
        yield evaluation(cohort, number, error, is_share=False)


def evaluation(cohort: str, number: int, value: float, *, is_share: bool) -> Point:
    fields: dict[str, Value] = {"device": f"evaluator.{cohort}", "version": number, "metric": value}
    fields |= {"is_share": is_share, "higher_is_better": is_share, "score": value if is_share else -value}
    return Point("fedkd_evaluation", (cohort,), fields)


Day = Callable[[int], Minute]
"""What each minute was like, by the minutes until now."""


def write(influx: InfluxDB, task: str, day: Day) -> None:
    writer = LineWriter(task=task, shard=0)
    lines: list[str] = []
    count = DAY_SECONDS // EVERY_SECONDS
    for number in range(count):
        minute = day(count - 1 - number)
        if not minute.arrived:
            continue
        at_seconds = NOW_SECONDS - (count - 1 - number) * EVERY_SECONDS
        made = (writer.line(point, at_seconds * 10**9) for point in points(minute, number))
        lines += [line for line in made if line is not None]
    InfluxServer(InfluxAccess(url=influx.url, token=TOKEN, org="fedkd", bucket=BUCKET)).write(
        ("\n".join(lines) + "\n").encode()
    )


def lately(minutes: int, then: Minute) -> Day:
    """All was well until so many minutes ago."""
    return lambda ago: then if ago < minutes else GOOD


WELL: Mapping[str, Day] = {
    "all is well": lambda _: GOOD,
    "some refusals all day": lambda _: Minute(merged=18, refused=2, accuracies=GOOD.accuracies),
    "a short burst of telemetry": lately(1, Minute(waiting=9_000, accuracies=GOOD.accuracies)),
    "a cohort that is never measured again": lately(300, Minute(accuracies={"young": 0.9})),
    "it gets better": lambda ago: Minute(accuracies={"young": 0.9 - ago / 3_000, "old": 0.8 - ago / 3_000}),
    "an error falls": lambda ago: Minute(errors={"young": 1_830.0 + ago, "old": 0.2 + ago / 1_000}),
    "an error goes up and down a little": lambda ago: Minute(errors={"young": 0.2 + ago % 3 / 200}),
    "accuracy goes up and down a little": lambda ago: Minute(accuracies={"young": 0.9, "old": 0.8 - ago % 3 / 100}),
}
FAULTS: Mapping[str, tuple[str, Day]] = {
    "only refusals": ("fedkd-no-merge fedkd-refusals", lately(45, Minute(0, 20, accuracies=GOOD.accuracies))),
    "no merge, all else goes on": ("fedkd-no-merge", lately(45, Minute(0, 0, accuracies=GOOD.accuracies))),
    "nothing arrives": ("fedkd-no-merge fedkd-spool", lately(45, Minute(arrived=False))),
    "a tenth is refused": ("fedkd-refusals", lately(20, Minute(18, 2, accuracies=GOOD.accuracies))),
    "the spool grows": ("fedkd-spool", lambda ago: Minute(waiting=50_000 - 50 * ago, accuracies=GOOD.accuracies)),
    "one cohort falls": ("fedkd-worst-cohort", lately(60, Minute(accuracies={"young": 0.95, "old": 0.7}))),
    "an error rises": ("fedkd-metric-worse", lambda ago: Minute(errors={"young": 0.213 if ago < 60 else 0.18})),
    "another cohort becomes the worst": (
        "fedkd-worst-cohort",
        lately(60, Minute(accuracies={"young": 0.6, "old": 0.8})),
    ),
}


def fired(influx: InfluxDB, task: str) -> set[str]:
    return {
        rule.uid
        for rule in RULES
        for labels in firing(influx, rule, NOW_SECONDS * 1_000)
        if labels.get("task") == task or "no data" in labels
    }


@pytest.mark.parametrize("day", WELL.values(), ids=WELL.keys())
def test_nobody_is_called(influxdb: InfluxDB, day: Day) -> None:
    write(influxdb, "well", day)
    assert fired(influxdb, "well") == set()


@pytest.mark.parametrize(("expected", "day"), FAULTS.values(), ids=FAULTS.keys())
def test_the_fault_s_own_rule_fires(influxdb: InfluxDB, expected: str, day: Day) -> None:
    write(influxdb, "faulty", day)
    write(influxdb, "well", lambda _: GOOD)
    assert fired(influxdb, "faulty") == set(expected.split())
    assert fired(influxdb, "well") == set(), "another task's fault is not this one's"


def test_a_server_without_anything_is_a_fault(influxdb: InfluxDB) -> None:
    assert fired(influxdb, "none") == {"fedkd-no-merge", "fedkd-spool"}
