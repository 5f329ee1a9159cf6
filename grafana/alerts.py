"""Alert rules, and the file from which Grafana provisions them.

No contact point is provisioned: whom an alert notifies is the operator's choice. All queries of a rule have the same
time range, because Grafana's InfluxQL applies the first query's range to all queries of a request. Annotations contain
no dollar sign, which provisioning would take for an environment variable.
"""

from dataclasses import dataclass
from typing import Any, Literal

from grafana.panels import NO_SHARE, SHARE, Expression, Query
from grafana.rendering import DATASOURCE_UID, letter, panel_ids, target_json
from grafana.tables import DASHBOARDS
from grafana.tables.overview import WAITING

FOLDER = "asyncfedkd"
GROUP = "asyncfedkd"
INTERVAL = "1m"
_BY = '"task", "shard"'
_DAY_SECONDS = 86_400
_SIX_HOURS_SECONDS = 21_600


@dataclass(frozen=True)
class Rule:
    """One alert rule: queries and expressions; the last one is compared with `limit`."""

    uid: str
    title: str
    summary: str
    advice: str
    steps: tuple[Query | Expression, ...]
    operator: Literal["gt", "lt"]
    limit: float
    range_seconds: int
    pending: str
    """How long the condition must hold before the alert fires."""
    severity: Literal["warning", "critical"]
    panel: tuple[str, str]
    """Dashboard and title of the panel that the alert links to."""
    no_data: Literal["Alerting", "OK"] = "OK"


def _query(what: str, measurement: str, group: str, tail: str = "fill(none)", *, where: str = "") -> Query:
    condition = f"{where} AND $timeFilter" if where else "$timeFilter"
    text = f'SELECT {what} FROM "{measurement}" WHERE {condition} GROUP BY {group} {tail}'  # noqa: S608 - no input
    return Query(text)


RULES: tuple[Rule, ...] = (
    Rule(
        "fedkd-no-merge",
        "No merge lately",
        "Task {{ .Labels.task }}, shard {{ .Labels.shard }}: no update was merged for half an hour",
        "Is the aggregator running and connected (Overview)? Are devices online (Fleet)? Is everything refused? A "
        "shard that has merged nothing for a whole day is no longer monitored.",
        # Zero in each bucket without a point: a completely silent shard stays visible for a day.
        (
            _query('sum("merged") AS "merged"', "fedkd_batch", f"time(10m), {_BY}", "fill(0)"),
            Expression("reduce", "A", "last"),
        ),
        "lt",
        1,
        _DAY_SECONDS,
        "30m",
        "critical",
        ("fedkd-overview", "Newest merge"),
        no_data="Alerting",
    ),
    Rule(
        "fedkd-refusals",
        "Refusals rising",
        "Task {{ .Labels.task }}, shard {{ .Labels.shard }}: the share of refused updates is 5 percentage points "
        "above the day's mean",
        "See the reasons and devices on Fleet: new firmware, bases that are too old, or an attack.",
        (
            _query(
                'sum("refused") * 100.0 / (sum("merged") + sum("refused")) AS "refused"',
                "fedkd_batch",
                f"time(15m), {_BY}",
            ),
            Expression("reduce", "A", "last"),
            Expression("reduce", "A", "mean"),
            Expression("math", "$B - $C"),
        ),
        "gt",
        5,
        _DAY_SECONDS,
        "10m",
        "warning",
        ("fedkd-fleet", "Refusals by reason"),
    ),
    Rule(
        "fedkd-spool",
        "Spool growing",
        "Task {{ .Labels.task }}, shard {{ .Labels.shard }}: more than 10,000 telemetry points are waiting in the "
        "spool, or none arrive",
        "Does InfluxDB have disk space and memory, and is the token valid? When the spool is full, the oldest points "
        "are dropped; updates are not affected.",
        # While the server is down there are no points that report it, so empty buckets count as well.
        (
            _query(WAITING, "fedkd_telemetry", f"time(5m), {_BY}"),
            _query('count("spool_bytes") AS "points"', "fedkd_telemetry", f"time(5m), {_BY}", "fill(0)"),
            Expression("reduce", "A", "last"),
            Expression("reduce", "B", "last"),
            Expression("math", "$C > 10000 || $D < 1"),
        ),
        "gt",
        0,
        _SIX_HOURS_SECONDS,
        "10m",
        "warning",
        ("fedkd-aggregator", "Points waiting"),
        no_data="Alerting",
    ),
    Rule(
        "fedkd-worst-cohort",
        "Worst cohort falling",
        "Task {{ .Labels.task }}, cohort {{ .Labels.cohort }}: the main metric, a share such as accuracy, is more than "
        "5 percentage points worse than the day's best",
        "See Learning: is it one cohort or all? Compare staleness, concentration of weight, and the updates merged "
        "into the newest versions.",
        # Per cohort, not the minimum over cohorts, which jumps when a cohort is not measured for a while.
        (
            _query('mean("score") AS "score"', "fedkd_evaluation", 'time(15m), "task", "cohort"', where=SHARE),
            Expression("reduce", "A", "max"),
            Expression("reduce", "A", "last"),
            Expression("math", "$B - $C"),
        ),
        "gt",
        0.05,
        _DAY_SECONDS,
        "30m",
        "warning",
        ("fedkd-learning", "Best and worst cohort"),
    ),
    Rule(
        "fedkd-metric-worse",
        "Main metric getting worse",
        "Task {{ .Labels.task }}, cohort {{ .Labels.cohort }}: the main metric, no share but an error for example, is "
        "more than a tenth worse than the day's best",
        "As for Worst cohort falling. If the metric is near 0 anyway, a tenth of it may be nothing.",
        # The score rises when the metric gets better, whatever its direction. A tenth is chosen, not measured.
        (
            _query('mean("score") AS "score"', "fedkd_evaluation", 'time(15m), "task", "cohort"', where=NO_SHARE),
            Expression("reduce", "A", "max"),
            Expression("reduce", "A", "last"),
            Expression("math", "$B - $C > 0.1 * abs($B)"),
        ),
        "gt",
        0,
        _DAY_SECONDS,
        "30m",
        "warning",
        ("fedkd-learning", "Best and worst cohort"),
    ),
)


def provisioning() -> dict[str, Any]:
    """The content of provisioning/alerting/rules.yaml."""
    group = {
        "orgId": 1,
        "name": GROUP,
        "folder": FOLDER,
        "interval": INTERVAL,
        "rules": [_rule(rule) for rule in RULES],
    }
    return {"apiVersion": 1, "groups": [group]}


def _rule(rule: Rule) -> dict[str, Any]:
    dashboard, panel = rule.panel
    ids = {one.uid: panel_ids(one) for one in DASHBOARDS}
    condition = letter(len(rule.steps))
    threshold = {
        "refId": condition,
        "datasource": {"type": "__expr__", "uid": "__expr__"},
        "type": "threshold",
        "expression": letter(len(rule.steps) - 1),
        "conditions": [{"evaluator": {"type": rule.operator, "params": [rule.limit]}}],
    }
    models = [*(target_json(step, place) for place, step in enumerate(rule.steps)), threshold]
    return {
        "uid": rule.uid,
        "title": rule.title,
        "condition": condition,
        "data": [_data(model, rule.range_seconds) for model in models],
        "dashboardUid": dashboard,
        "panelId": ids[dashboard][panel],
        "noDataState": rule.no_data,
        "execErrState": "Error",
        "for": rule.pending,
        "annotations": {"summary": rule.summary, "description": rule.advice},
        "labels": {"severity": rule.severity, "system": "asyncfedkd"},
        "isPaused": False,
    }


def _data(model: dict[str, Any], range_seconds: int) -> dict[str, Any]:
    is_query = "query" in model
    return {
        "refId": model["refId"],
        "relativeTimeRange": {"from": range_seconds if is_query else 0, "to": 0},
        "datasourceUid": DATASOURCE_UID if is_query else "__expr__",
        "model": model,
    }


def alerts_markdown() -> str:
    """The table of rules in docs/dashboards.md."""
    lines = [
        "## Alert rules",
        "",
        "The rules are in `grafana/provisioning/alerting/rules.yaml`. No contact point is provisioned: until you set",
        "one in Grafana, alerts are only shown there.",
        "",
        "| rule | fires when | what to check |",
        "| --- | --- | --- |",
    ]
    for rule in RULES:
        summary = rule.summary.partition(": ")[2]
        lines.append(f"| {rule.title} | {summary}; for {rule.pending}, {rule.severity} | {rule.advice} |")
    return "\n".join(lines) + "\n"
