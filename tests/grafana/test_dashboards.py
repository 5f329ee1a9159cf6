"""The files are what the tables say, and Grafana can read them."""

import copy
import importlib
import json
import re
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from aggregator.telemetry.schema import MEASUREMENTS
from grafana.__main__ import HOUSE, files, main
from grafana.influxql import StatementRefused, check
from grafana.panels import Dashboard, Panel, Query
from grafana.tables import DASHBOARDS
from tests.grafana.typed_json import dashboard_faults

PANELS = [(dashboard, panel) for dashboard in DASHBOARDS for panel in dashboard.panels]
IDS = [f"{dashboard.uid}: {panel.title}" for dashboard, panel in PANELS]
FILES = sorted((HOUSE / "grafana" / "dashboards").glob("*.json"))


def statements(panel: Panel) -> list[str]:
    return [query.text for query in panel.queries if isinstance(query, Query)]


def content(path: Path) -> dict[str, Any]:
    made: dict[str, Any] = json.loads(path.read_text())
    return made


def test_the_package_is_this_repository_s() -> None:
    origin = importlib.import_module("grafana").__file__
    assert origin is not None
    assert Path(origin).is_relative_to(HOUSE)


def test_the_files_are_up_to_date(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--check"]) == 0, capsys.readouterr().err
    made = {HOUSE / name for name in files() if name.suffix == ".json"}
    assert made == set(FILES), "a file that no table makes"


def test_other_arguments_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--chek"]) == 2
    assert "--check" in capsys.readouterr().err


def test_there_are_the_four_pages() -> None:
    assert [path.stem for path in FILES] == ["aggregator", "fleet", "learning", "overview"]


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_grafana_s_schema_has_all_that_is_said(path: Path) -> None:
    assert dashboard_faults(content(path)) == []


BREAKS = {
    "a name that is not known": lambda one: one["panels"][1].update(titel="x"),
    "an option that is not known": lambda one: one["panels"][1]["options"].update(graphmode="area"),
    "a style that is not known": lambda one: one["panels"][6]["fieldConfig"]["defaults"]["custom"].update(
        drawStile="bars"
    ),
    "a type": lambda one: one["panels"][1]["gridPos"].update(w="6"),
    "a value that is none of the list": lambda one: one["panels"][1]["options"].update(graphMode="big"),
    "an unknown word of a query": lambda one: one["panels"][1]["targets"][0].update(rawquery=True),
    "a variable": lambda one: one["templating"]["list"][0].update(type="querry"),
}


@pytest.mark.parametrize("change", BREAKS.values(), ids=BREAKS.keys())
def test_and_a_mistake_is_seen(change: Any) -> None:
    broken = copy.deepcopy(content(HOUSE / "grafana/dashboards/overview.json"))
    change(broken)
    assert len(dashboard_faults(broken)) == 1


def test_ids_and_places_are_each_its_own() -> None:
    uids = Counter(content(path)["uid"] for path in FILES)
    assert set(uids.values()) == {1}
    for path in FILES:
        panels = content(path)["panels"]
        assert len({panel["id"] for panel in panels}) == len(panels)
        taken: set[tuple[int, int]] = set()
        for panel in panels:
            place = panel["gridPos"]
            assert place["x"] + place["w"] <= 24
            cells = {
                (x, y)
                for x in range(place["x"], place["x"] + place["w"])
                for y in range(place["y"], place["y"] + place["h"])
            }
            assert not cells & taken, f"{panel['title']} lies on another"
            taken |= cells


def test_titles_are_unique_within_a_page() -> None:
    for dashboard in DASHBOARDS:
        assert set(Counter(panel.title for panel in dashboard.panels).values()) == {1}, dashboard.title


@pytest.mark.parametrize(("dashboard", "panel"), PANELS, ids=IDS)
def test_a_panel_asks_for_what_the_schema_has(dashboard: Dashboard, panel: Panel) -> None:
    assert panel.question.rstrip().endswith((".", "?", ")")), "it says what it is for"
    for text in statements(panel):
        check(text)
        assert "${task:regex}" in text
        assert "${shard:regex}" in text
        assert ("${cohort:regex}" in text) <= dashboard.has_cohorts
        assert ("${device:regex}" in text) <= dashboard.has_device


@pytest.mark.parametrize(("dashboard", "panel"), PANELS, ids=IDS)
def test_columns_that_a_picture_names_are_asked_for(dashboard: Dashboard, panel: Panel) -> None:
    del dashboard
    columns = {"Time"} | {name for text in statements(panel) for name in re.findall(r'"([^"]+)"', text)}
    for transformation in panel.transformations:
        options = transformation["options"]
        match transformation["id"]:
            case "groupBy":
                assert set(options["fields"]) <= columns
                columns = {
                    name if how["operation"] == "groupby" else f"{name} ({how['aggregations'][0]})"
                    for name, how in options["fields"].items()
                }
            case "organize":
                assert set(options["renameByName"]) <= columns
                columns = {options["renameByName"].get(name, name) for name in columns}
            case "sortBy":
                assert options["sort"][0]["field"] in columns
            case "partitionByValues":
                assert set(options["fields"]) <= columns
            case "joinByField":
                assert options["byField"] in columns
            case other:
                pytest.fail(f"{other} is not known here")
    assert {name for name, _ in panel.units} <= columns
    if panel.axes is not None:
        assert {panel.axes.x, panel.axes.y} <= columns
    if panel.stat_field:
        assert panel.stat_field in columns


REFUSED = {
    "no such measurement": 'SELECT "device" FROM "fedkd_updates" WHERE $timeFilter LIMIT 5',
    "no such field": 'SELECT max("stalenes") FROM "fedkd_update" WHERE $timeFilter GROUP BY time(1m)',
    "no such tag": 'SELECT max("staleness") FROM "fedkd_update" WHERE "cohort" = \'a\' AND $timeFilter',
    "a field of another measurement": 'SELECT max("queue_depth") FROM "fedkd_update" WHERE $timeFilter',
    "grouped by a field": 'SELECT count("bytes") FROM "fedkd_update" WHERE $timeFilter GROUP BY "device"',
    "all times": 'SELECT max("staleness") FROM "fedkd_update" GROUP BY time(1m)',
    "unbounded rows": 'SELECT "device", "bytes" FROM "fedkd_update" WHERE $timeFilter',
    "a function of version 1": 'SELECT integral("bytes") FROM "fedkd_update" WHERE $timeFilter',
    "a clause of version 1": 'SELECT max("bytes") FROM "fedkd_update" WHERE $timeFilter GROUP BY "reason" SLIMIT 3',
    "a query of a query": 'SELECT max("n") FROM (SELECT count("bytes") AS "n" FROM "fedkd_update" WHERE $timeFilter)',
    "a name without quotes": 'SELECT max(bytes) FROM "fedkd_update" WHERE $timeFilter',
    "fields that nobody has": 'SELECT mean(/^precision_/) FROM "fedkd_evaluation" WHERE $timeFilter',
}


@pytest.mark.parametrize("text", REFUSED.values(), ids=REFUSED.keys())
def test_a_statement_is_refused(text: str) -> None:
    with pytest.raises(StatementRefused):
        check(text)


def test_all_measurements_are_looked_at() -> None:
    asked = {name for _, panel in PANELS for text in statements(panel) for name in re.findall(r'FROM "([^"]+)"', text)}
    assert asked == set(MEASUREMENTS)


def test_the_page_lists_each_panel() -> None:
    page = (HOUSE / "docs" / "dashboards.md").read_text()
    for _, panel in PANELS:
        assert f"| {panel.title} | {panel.question} |" in page
