"""Dashboards as data: panels, the question that each one answers, and its InfluxQL queries.

The queries work on InfluxDB 1, 2 (with a database mapping) and 3. Devices and versions are fields, and InfluxQL cannot
group by fields: tables of devices are raw rows, bounded by LIMIT, which Grafana groups.

A point of fedkd_update may represent several updates, and InfluxQL without subqueries cannot compute a weighted mean.
Updates are therefore counted with `sum("updates")`, means are quotients of sums, and SINGLE selects single updates.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

Kind = Literal["stat", "timeseries", "table", "barchart", "xychart", "heatmap"]

SCOPE = '"task" =~ /^${task:regex}$/ AND "shard" =~ /^${shard:regex}$/'
COHORT = '"cohort" =~ /^${cohort:regex}$/'
SINGLE = '"updates" = 1'
"""Points of single updates, which have a device: every update of a quiet system, a sample under load."""
SHARE = '"is_share" = true'
NO_SHARE = '"is_share" = false'
"""The main metric of a task is either; only one of both returns rows, which have the unit of their query."""
HIGHER = '"higher_is_better" = true'
LOWER = '"higher_is_better" = false'
STEP = "time($__interval)"
ROWS_MAX = 5_000
"""Limit of the raw rows that Grafana groups in the browser."""


@dataclass(frozen=True)
class Query:
    """One InfluxQL statement."""

    text: str
    alias: str = ""
    """Name of each series; $col and $tag_NAME are replaced."""
    is_table: bool = False
    hidden: bool = False
    """Used by an expression only, not shown."""


@dataclass(frozen=True)
class Expression:
    """Computed by Grafana's server from the preceding queries."""

    kind: Literal["math", "reduce"]
    text: str
    """A formula, or the letter of the query to reduce."""
    reducer: str = ""
    hidden: bool = False


@dataclass(frozen=True)
class Step:
    """The colour from this value upwards; None: from minus infinity."""

    value: float | None
    colour: str


@dataclass(frozen=True)
class Axes:
    """Axes of an xychart."""

    x: str
    y: str
    x_unit: str = ""
    x_label: str = ""
    lines: bool = False


@dataclass(frozen=True)
class Panel:
    """One panel and the question that it answers."""

    title: str
    question: str
    kind: Kind
    queries: tuple[Query | Expression, ...]
    unit: str = "short"
    """Grafana's name of the unit."""
    width: int = 8
    """In columns; a row has 24."""
    height: int = 7
    """In units of 30 pixels."""
    steps: tuple[Step, ...] = ()
    transformations: tuple[Mapping[str, Any], ...] = ()
    units: tuple[tuple[str, str], ...] = ()
    """Columns or series with another unit: name, unit."""
    share_queries: tuple[str, ...] = ()
    """Letters of queries whose values are shares: in percent, other than those of `unit`."""
    axes: Axes | None = None
    interval: str = "10s"
    """Shortest time bucket: the interval at which the measurement has points."""
    stat_field: str = ""
    """Field that a stat shows if it is not a series."""
    words: tuple[tuple[str, str, str], ...] = ()
    """Values that are shown as text: value, text, colour."""
    y_max: float | None = None
    stacked_bars: bool = False
    decimals: int | None = None


@dataclass(frozen=True)
class Row:
    """Panels under one heading."""

    title: str
    panels: tuple[Panel, ...]


@dataclass(frozen=True)
class Dashboard:
    """One page."""

    uid: str
    title: str
    question: str
    rows: tuple[Row, ...]
    time_from: str = "now-6h"
    refresh: str = "30s"
    has_cohorts: bool = False
    has_device: bool = False

    @property
    def panels(self) -> tuple[Panel, ...]:
        """The panels of all rows."""
        return tuple(panel for row in self.rows for panel in row.panels)


def select(what: str, measurement: str, *, where: str = "", group: str = "", tail: str = "") -> str:
    """A statement restricted to the page's variables and time range."""
    conditions = [SCOPE, *([where] if where else []), "$timeFilter"]
    parts = [f'SELECT {what} FROM "{measurement}" WHERE', " AND ".join(conditions)]  # noqa: S608 - no input
    if group:
        parts.append(f"GROUP BY {group}")
    if tail:
        parts.append(tail)
    return " ".join(parts)


def series(
    what: str, measurement: str, *, by: str = "", where: str = "", fill: str = "none", alias: str = "$col"
) -> Query:
    """One value per time bucket; `by` is a list of quoted tags."""
    group = f"{STEP}, {by}" if by else STEP
    return Query(select(what, measurement, where=where, group=group, tail=f"fill({fill})"), alias)


def main_metric(what: str, *, by: str = "", where: str = "", alias: str = "$col") -> tuple[Query, Query]:
    """The main metric of evaluations over time; the first query (A) is for shares."""
    conditions = [" AND ".join([*([where] if where else []), condition]) for condition in (SHARE, NO_SHARE)]
    first, second = (series(what, "fedkd_evaluation", by=by, where=one, alias=alias) for one in conditions)
    return first, second


def worst_and_best(worst: str, best: str, *, where: str = "") -> tuple[Query, Query, Query]:
    """The worst and the best cohort by the direction of the main metric; the first query (A) is for shares.

    Args:
        worst: name of that series; empty: leave it out.
        best: likewise.
        where: a condition.
    """

    def one(lowest: str, highest: str, *conditions: str) -> Query:
        parts = [f'{what}("metric") AS "{name}"' for what, name in (("max", highest), ("min", lowest)) if name]
        joined = " AND ".join([*([where] if where else []), *conditions])
        return series(", ".join(parts), "fedkd_evaluation", where=joined)

    return one(worst, best, HIGHER, SHARE), one(worst, best, HIGHER, NO_SHARE), one(best, worst, LOWER)


def per_update(field: str, name: str) -> str:
    """Mean per update of a field of fedkd_update that holds sums."""
    return f'sum("{field}") * 1.0 / sum("updates") AS "{name}"'


def newest(what: str, measurement: str, *, where: str = "", rows: int = ROWS_MAX) -> Query:
    """Raw rows, newest first."""
    return Query(select(what, measurement, where=where, tail=f"ORDER BY time DESC LIMIT {rows}"), is_table=True)


def grouped(fields: Mapping[str, str]) -> Mapping[str, Any]:
    """Grafana's groupBy transformation: merges rows with equal `groupby` fields; `first`, `count` … for others."""
    return {
        "id": "groupBy",
        "options": {
            "fields": {
                name: {"operation": "groupby", "aggregations": []}
                if how == "groupby"
                else {"operation": "aggregate", "aggregations": [how]}
                for name, how in fields.items()
            }
        },
    }


def renamed(names: Mapping[str, str]) -> Mapping[str, Any]:
    """Selects the order and the names of a table's columns."""
    order = {name: place for place, name in enumerate(names)}
    return {"id": "organize", "options": {"excludeByName": {}, "indexByName": order, "renameByName": dict(names)}}


def without(*names: str) -> Mapping[str, Any]:
    """Hides columns of a table, which may still sort it."""
    excluded = dict.fromkeys(names, True)
    return {"id": "organize", "options": {"excludeByName": excluded, "indexByName": {}, "renameByName": {}}}


def sorted_by(field: str, *, descending: bool) -> Mapping[str, Any]:
    """Sorts a table."""
    return {"id": "sortBy", "options": {"fields": {}, "sort": [{"field": field, "desc": descending}]}}


GREEN, AMBER, RED = "green", "orange", "red"


def rising_is_bad(amber: float, red: float) -> tuple[Step, ...]:
    """Thresholds; green below `amber`."""
    return (Step(None, GREEN), Step(amber, AMBER), Step(red, RED))
