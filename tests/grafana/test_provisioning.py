"""What Grafana is given at its start: data source, pages, alert rules."""

import re
from typing import Any

import pytest
import yaml

from grafana.__main__ import HOUSE
from grafana.alerts import RULES
from grafana.influxql import check
from grafana.panels import Query
from grafana.rendering import DATASOURCE_UID, dashboard_json
from grafana.tables import DASHBOARDS
from tests.grafana.typed_json import rule_faults

PROVISIONING = HOUSE / "grafana" / "provisioning"


def read(name: str) -> dict[str, Any]:
    made: dict[str, Any] = yaml.safe_load((PROVISIONING / name).read_text())
    assert made["apiVersion"] == 1
    return made


RULES_READ: list[dict[str, Any]] = read("alerting/rules.yaml")["groups"][0]["rules"]


def test_the_data_source_is_the_one_that_panels_and_rules_ask() -> None:
    (source,) = read("datasources/influxdb.yaml")["datasources"]
    assert source["uid"] == DATASOURCE_UID
    assert source["type"] == "influxdb"
    assert source["jsonData"]["httpMode"] == "GET"
    assert source["jsonData"]["httpHeaderName1"] == "Authorization"
    assert source["secureJsonData"] == {"httpHeaderValue1": "Token $GF_INFLUXDB_TOKEN"}


def test_compose_gives_what_is_taken() -> None:
    compose = yaml.safe_load((HOUSE / "compose.yaml").read_text())["services"]
    (source,) = read("datasources/influxdb.yaml")["datasources"]
    grafana, influxdb = compose["grafana"], compose["influxdb"]
    assert "GF_INFLUXDB_TOKEN__FILE" in grafana["environment"]
    assert source["url"] == "http://influxdb:8086"
    assert source["jsonData"]["dbName"] == compose["influxdb-setup"]["environment"]["BUCKET"]
    assert source["jsonData"]["dbName"] == influxdb["environment"]["DOCKER_INFLUXDB_INIT_BUCKET"]
    targets = {one["source"]: one["target"] for one in grafana["volumes"] if isinstance(one, dict)}
    (provider,) = read("dashboards/files.yaml")["providers"]
    assert targets["./grafana/dashboards"] == provider["options"]["path"]
    assert targets["./grafana/provisioning"] == "/etc/grafana/provisioning"


def test_the_pages_come_from_files() -> None:
    (provider,) = read("dashboards/files.yaml")["providers"]
    assert provider["type"] == "file"


def test_there_are_the_five_rules_in_one_group() -> None:
    (group,) = read("alerting/rules.yaml")["groups"]
    assert set(group) == {"orgId", "name", "folder", "interval", "rules"}
    assert re.fullmatch(r"\d+[smh]", group["interval"])
    titles = ["No merge lately", "Refusals rising", "Spool growing", "Worst cohort falling"]
    titles += ["Main metric getting worse"]
    assert [rule["title"] for rule in group["rules"]] == titles


@pytest.mark.parametrize("rule", RULES_READ, ids=lambda rule: rule["uid"])
def test_a_rule_is_what_grafana_s_schema_says(rule: dict[str, Any]) -> None:
    assert rule_faults(rule) == []
    assert len(rule["uid"]) <= 40


@pytest.mark.parametrize("rule", RULES_READ, ids=lambda rule: rule["uid"])
def test_each_step_of_a_rule_rests_on_those_before(rule: dict[str, Any]) -> None:
    known: list[str] = []
    for step in rule["data"]:
        model = step["model"]
        assert step["refId"] == model["refId"]
        assert step["datasourceUid"] == model["datasource"]["uid"]
        if "expression" in model:
            formula = model["type"] == "math"
            used = re.findall(r"\$([A-Z])", model["expression"]) if formula else [model["expression"]]
            assert used
            assert set(used) <= set(known)
        known.append(step["refId"])
    assert rule["condition"] == known[-1]
    assert rule["data"][-1]["model"]["type"] == "threshold"


@pytest.mark.parametrize("rule", RULES_READ, ids=lambda rule: rule["uid"])
def test_a_rule_is_safe_from_grafana_s_habits(rule: dict[str, Any]) -> None:
    ranges = {str(step["relativeTimeRange"]) for step in rule["data"] if step["datasourceUid"] == DATASOURCE_UID}
    assert len(ranges) == 1, "Grafana's InfluxQL takes the first query's range for all"
    assert not any("$" in text for text in rule["annotations"].values()), "provisioning would expand it"
    queries = [step["model"] for step in rule["data"] if step["datasourceUid"] == DATASOURCE_UID]
    assert not any("${" in model["query"] for model in queries), "rules have no variables"


@pytest.mark.parametrize("rule", RULES_READ, ids=lambda rule: rule["uid"])
def test_a_rule_points_at_a_panel(rule: dict[str, Any]) -> None:
    (page,) = [one for one in DASHBOARDS if one.uid == rule["dashboardUid"]]
    assert rule["panelId"] in [panel["id"] for panel in dashboard_json(page)["panels"] if panel["type"] != "row"]


def test_a_wrong_rule_is_seen() -> None:
    first = RULES_READ[0]
    assert rule_faults({**first, "noDataState": "Alarm"})
    assert rule_faults({**first, "forever": "1m"})
    wrong = {**first["data"][-1], "model": {**first["data"][-1]["model"], "conditons": []}}
    assert rule_faults({**first, "data": [*first["data"][:-1], wrong]})


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.uid)
def test_a_rule_asks_for_what_the_schema_has(rule: Any) -> None:
    for step in rule.steps:
        if isinstance(step, Query):
            check(step.text)
