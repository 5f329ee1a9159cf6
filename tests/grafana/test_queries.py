"""Every query of every panel and rule, asked of a real InfluxDB that real runs have filled: each returns rows."""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import pytest

from aggregator.telemetry.influx import InfluxAccess, InfluxServer
from aggregator.telemetry.spool import read_spool
from benchmarks.influxd import BUCKET, TOKEN, InfluxDB
from grafana.alerts import RULES, Rule
from grafana.panels import LOWER, NO_SHARE, Expression, Panel, Query
from grafana.rendering import variable_query
from grafana.tables import DASHBOARDS
from tests.aggregator.synthetic import TASK
from tests.broker.mosquitto import Mosquitto, free_port, program
from tests.e2e.small_demo import DEMO_SECONDS_MAX, SmallDemo
from tests.grafana.asking import Span, asked, rows_with_values
from tests.grafana.faulty_run import COHORTS, faulty_run

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(DEMO_SECONDS_MAX + 60)]

QUERIES = {
    f"{dashboard.uid}: {panel.title} {place}": (panel, query)
    for dashboard in DASHBOARDS
    for panel in dashboard.panels
    for place, query in enumerate(panel.queries)
    if isinstance(query, Query)
}
RULE_QUERIES = {
    f"{rule.title} {place}": (rule, step)
    for rule in RULES
    for place, step in enumerate(rule.steps)
    if isinstance(step, Query)
}
NOT_IN_A_DEMO = frozenset(
    {"Refusals by reason", "Devices with refused updates", "Dropped by the broker", "Sessions", "Broker storage"}
    | {"Other metrics"}
)
"""Nothing is refused in a demo, and its embedded broker says nothing in mosquitto's words."""
RATES = frozenset({"Updates per second", "Payload per second"})
"""They take two of the points that an aggregator makes of itself every 10 s; a small demo may be over before."""


class Run(NamedTuple):
    """Of which task, when, and whom evaluators measured."""

    task: str
    span: Span
    cohorts: Sequence[str]


@pytest.fixture(scope="module")
def influx(tmp_path_factory: pytest.TempPathFactory) -> Iterator[InfluxDB]:
    """One server for all of this."""
    found = program("influxd", install="sudo apt-get install influxdb")
    server = InfluxDB(tmp_path_factory.mktemp("influxdb"), program=found, ports=(free_port(), free_port(), free_port()))
    server.start()
    yield server
    server.stop()


def write(influx: InfluxDB, lines: Sequence[str]) -> Span:
    """As the aggregator does."""
    server = InfluxServer(InfluxAccess(url=influx.url, token=TOKEN, org="fedkd", bucket=BUCKET))
    server.write("".join(line + "\n" for line in lines).encode())
    stamps = [int(line.rpartition(" ")[2]) // 1_000_000 for line in lines]
    return Span(min(stamps), max(stamps) + 1)


@pytest.fixture(scope="module")
def demo(influx: InfluxDB, small_demo: SmallDemo) -> Run:
    """What the demo left in its folder."""
    assert small_demo.code == 0, small_demo.error
    span = write(influx, list(read_spool(small_demo.out / "run" / "ledger.sqlite3.telemetry")))
    return Run("physiotherapy", span, ("all",))


@pytest.fixture(scope="module")
def faulty(influx: InfluxDB, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Run]:
    """A run in which everything that a panel can show happens."""
    folder = tmp_path_factory.mktemp("faulty")
    broker = Mosquitto(folder / "mosquitto", lines=["sys_interval 1"])
    broker.start()
    try:
        yield Run(TASK, write(influx, faulty_run(folder, broker)), COHORTS)
    finally:
        broker.kill()


def rows_of(influx: InfluxDB, run: Run, panel: Panel, query: Query) -> int:
    text = asked(
        query.text,
        run.span,
        interval=panel.interval,
        task=[run.task],
        shard=["0"],
        cohort=list(run.cohorts),
        device=[""],
    )
    return len(rows_with_values(influx, text))


@pytest.mark.parametrize(
    "name",
    [
        name
        for name, (panel, query) in QUERIES.items()
        if panel.title not in NOT_IN_A_DEMO | RATES and not any(one in query.text for one in (NO_SHARE, LOWER))
    ],
)
def test_a_panel_has_rows_after_a_demo(influx: InfluxDB, demo: Run, name: str) -> None:
    assert rows_of(influx, demo, *QUERIES[name]) > 0


@pytest.mark.parametrize("name", QUERIES)
def test_a_panel_has_rows_after_a_run_with_faults(influx: InfluxDB, faulty: Run, name: str) -> None:
    assert rows_of(influx, faulty, *QUERIES[name]) > 0


@pytest.mark.parametrize("name", RULE_QUERIES)
def test_a_rule_has_rows(influx: InfluxDB, faulty: Run, name: str) -> None:
    rule: Rule
    rule, query = RULE_QUERIES[name]
    del rule
    assert rows_with_values(influx, asked(query.text, faulty.span))


@pytest.mark.parametrize(("tag", "measurement"), [("task", "fedkd_aggregator"), ("shard", "fedkd_aggregator")])
def test_a_variable_has_choices(influx: InfluxDB, faulty: Run, tag: str, measurement: str) -> None:
    found = {row["value"] for row in influx.query(variable_query(tag, measurement))}
    assert {"task": faulty.task, "shard": "0"}[tag] in found


def test_cohorts_are_choices(influx: InfluxDB, faulty: Run) -> None:
    found = {row["value"] for row in influx.query(variable_query("cohort", "fedkd_evaluation"))}
    assert found >= set(faulty.cohorts)


def test_another_task_is_not_seen(influx: InfluxDB, faulty: Run) -> None:
    other = faulty._replace(task="another")
    assert not any(rows_of(influx, other, *one) for one in QUERIES.values())


def test_the_worst_cohort_is_the_lowest_of_them(influx: InfluxDB, faulty: Run) -> None:
    panel, query = QUERIES["fedkd-overview: Worst cohort 0"]
    text = asked(query.text, faulty.span, interval=panel.interval, task=[faulty.task], shard=["0"])
    worst = [row["worst"] for row in rows_with_values(influx, text)]
    assert worst[0] == pytest.approx(0.3)
    assert worst[-1] == pytest.approx(0.3 + 11 / 30)


def test_the_worst_cohort_is_the_highest_of_them_if_lower_is_better(influx: InfluxDB, faulty: Run) -> None:
    panel, query = QUERIES["fedkd-learning: Best and worst cohort 2"]
    text = asked(
        query.text, faulty.span, interval=panel.interval, task=[faulty.task], shard=["0"], cohort=list(faulty.cohorts)
    )
    first = rows_with_values(influx, text)[0]
    assert first["worst"] == first["best"] == pytest.approx(2.0 - (0.4 - 2 / 10))
    assert 'max("metric") AS "worst", min("metric") AS "best"' in query.text


def test_bytes_per_point_is_what_was_sent_for_what_was_gained(influx: InfluxDB, faulty: Run) -> None:
    names = [f"fedkd-learning: Bytes per percentage point {place}" for place in range(2)]
    texts = [
        asked(QUERIES[name][1].text, faulty.span, interval="10s", task=[faulty.task], shard=["0"], cohort=COHORTS)
        for name in names
    ]
    (sent,), accuracies = (influx.query(text) for text in texts)
    (total,) = influx.query(f'SELECT sum("bytes") AS "bytes" FROM "fedkd_update" WHERE "task" = \'{TASK}\'')
    assert sent["bytes"] == total["bytes"] > 0
    found = [row["metric"] for row in accuracies]
    assert max(found) - min(found) == pytest.approx(11 / 30, abs=0.02)
    formula = [one for one in QUERIES[names[0]][0].queries if isinstance(one, Expression)][-1]
    assert formula.text == "$C / (($D - $E) * 100)"
