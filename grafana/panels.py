"""What a dashboard consists of, as data: panels with the question each answers, and their InfluxQL.

Queries are written for InfluxDB 1, 2 (through a database mapping) and 3 alike. A device or a version is a field, by
which InfluxQL cannot group: tables of devices are raw rows, bounded by LIMIT, which Grafana groups.

A point of fedkd_update may stand for several updates, and InfluxQL without subqueries cannot weigh a mean. So updates
are counted by `sum("updates")`, means are quotients of sums, and single updates are asked for by SINGLE.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

Kind = Literal["stat", "timeseries", "table", "barchart", "xychart", "heatmap"]

SCOPE = '"task" =~ /^${task:regex}$/ AND "shard" =~ /^${shard:regex}$/'
COHORT = '"cohort" =~ /^${cohort:regex}$/'
SINGLE = '"updates" = 1'
"""Updates that are told by themselves, with their device: all of a quiet system, a sample under load."""
STEP = "time($__interval)"
ROWS_MAX = 5_000
"""Of raw rows that Grafana groups in the browser."""


@dataclass(frozen=True)
class Query:
    """One InfluxQL statement."""

    text: str
    alias: str = ""
    """Name of each series; $col and $tag_NAME are replaced."""
    is_table: bool = False
    hidden: bool = False
    """Only an expression uses it."""


@dataclass(frozen=True)
class Expression:
    """Computed by Grafana's server from the queries before it."""

    kind: Literal["math", "reduce"]
    text: str
    """A formula, or the letter of the query to reduce."""
    reducer: str = ""
    hidden: bool = False


@dataclass(frozen=True)
class Step:
    """From this value upwards, this colour; None: from the beginning."""

    value: float | None
    colour: str


@dataclass(frozen=True)
class Axes:
    """Of an xychart."""

    x: str
    y: str
    x_unit: str = ""
    x_label: str = ""
    lines: bool = False


@dataclass(frozen=True)
class Panel:
    """One picture and the question it answers."""

    title: str
    question: str
    kind: Kind
    queries: tuple[Query | Expression, ...]
    unit: str = "short"
    """Grafana's name of it."""
    width: int = 8
    """Of 24 columns."""
    height: int = 7
    """Of 30 pixels."""
    steps: tuple[Step, ...] = ()
    transformations: tuple[Mapping[str, Any], ...] = ()
    units: tuple[tuple[str, str], ...] = ()
    """Columns or series that have another unit."""
    axes: Axes | None = None
    interval: str = "10s"
    """Shortest bucket: as often as the measurement has points."""
    stat_field: str = ""
    """What a stat shows, where that is no series."""
    words: tuple[tuple[str, str, str], ...] = ()
    """Values that are shown as words: value, word, colour."""
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
        """Of all rows."""
        return tuple(panel for row in self.rows for panel in row.panels)


def select(what: str, measurement: str, *, where: str = "", group: str = "", tail: str = "") -> str:
    """A statement in the scope of the page's variables and time range."""
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
    """One value a bucket; `by` is a list of quoted tags."""
    group = f"{STEP}, {by}" if by else STEP
    return Query(select(what, measurement, where=where, group=group, tail=f"fill({fill})"), alias)


def per_update(field: str, name: str) -> str:
    """Mean of a field of fedkd_update that its points sum up."""
    return f'sum("{field}") * 1.0 / sum("updates") AS "{name}"'


def newest(what: str, measurement: str, *, where: str = "", rows: int = ROWS_MAX) -> Query:
    """Raw rows, newest first."""
    return Query(select(what, measurement, where=where, tail=f"ORDER BY time DESC LIMIT {rows}"), is_table=True)


def grouped(fields: Mapping[str, str]) -> Mapping[str, Any]:
    """Grafana's transformation: rows with equal `groupby` fields become one, others by `first`, `count` …."""
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
    """Columns of a table, in this order under these names."""
    order = {name: place for place, name in enumerate(names)}
    return {"id": "organize", "options": {"excludeByName": {}, "indexByName": order, "renameByName": dict(names)}}


def sorted_by(field: str, *, descending: bool) -> Mapping[str, Any]:
    """A table's order."""
    return {"id": "sortBy", "options": {"fields": {}, "sort": [{"field": field, "desc": descending}]}}


GREEN, AMBER, RED = "green", "orange", "red"


def rising_is_bad(amber: float, red: float) -> tuple[Step, ...]:
    """Green below."""
    return (Step(None, GREEN), Step(amber, AMBER), Step(red, RED))
