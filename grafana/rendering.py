"""Panels as Grafana's dashboard JSON (schema version 42: Grafana 12 and 13)."""

from collections.abc import Sequence
from typing import Any

from grafana.panels import Dashboard, Expression, Panel, Query

DATASOURCE_UID = "fedkd-influxdb"
SCHEMA_VERSION = 42
TAG = "asyncfedkd"

_INFLUX = {"type": "influxdb", "uid": DATASOURCE_UID}
_EXPRESSION = {"type": "__expr__", "uid": "__expr__"}
_COLUMNS = 24
_LEGEND = {"calcs": ["lastNotNull"], "displayMode": "list", "placement": "bottom", "showLegend": True}


def dashboard_json(dashboard: Dashboard) -> dict[str, Any]:
    """The content of a dashboard's file."""
    return {
        "uid": dashboard.uid,
        "title": dashboard.title,
        "description": dashboard.question,
        "tags": [TAG],
        "timezone": "browser",
        "editable": True,
        "graphTooltip": 1,
        "schemaVersion": SCHEMA_VERSION,
        "refresh": dashboard.refresh,
        "time": {"from": dashboard.time_from, "to": "now"},
        "templating": {"list": _variables(dashboard)},
        "annotations": {"list": []},
        "links": [_link()],
        "panels": _panels(dashboard),
    }


def panel_ids(dashboard: Dashboard) -> dict[str, int]:
    """Panel ids by title."""
    return {one["title"]: one["id"] for one in _panels(dashboard) if one["type"] != "row"}


def letter(place: int) -> str:
    """The letter by which expressions refer to a query."""
    return chr(ord("A") + place)


def _link() -> dict[str, Any]:
    return {
        "type": "dashboards",
        "title": "asyncfedkd",
        "tags": [TAG],
        "asDropdown": False,
        "icon": "dashboard",
        "includeVars": True,
        "keepTime": True,
        "targetBlank": False,
        "tooltip": "",
        "url": "",
    }


def _variables(dashboard: Dashboard) -> list[dict[str, Any]]:
    found = [_tag_variable("task", "fedkd_aggregator"), _tag_variable("shard", "fedkd_aggregator", several=True)]
    if dashboard.has_cohorts:
        found.append(_tag_variable("cohort", "fedkd_evaluation", several=True))
    if dashboard.has_device:
        found.append(
            {
                "type": "textbox",
                "name": "device",
                "label": "device",
                "description": "beginning of a device id, for the last table",
                "query": "",
                "current": {"selected": True, "text": "", "value": ""},
                "options": [],
            }
        )
    return found


def _tag_variable(name: str, measurement: str, *, several: bool = False) -> dict[str, Any]:
    query = variable_query(name, measurement)
    variable: dict[str, Any] = {
        "type": "query",
        "name": name,
        "label": name,
        "datasource": _INFLUX,
        "query": query,
        "refresh": 2,
        "sort": 3 if name == "shard" else 1,
        "multi": several,
        "includeAll": several,
        "options": [],
    }
    if several:
        variable["current"] = {"selected": True, "text": ["All"], "value": ["$__all"]}
    return variable


def variable_query(name: str, measurement: str) -> str:
    """The query for a variable's values."""
    return f'SHOW TAG VALUES FROM "{measurement}" WITH KEY = "{name}"'


def _panels(dashboard: Dashboard) -> list[dict[str, Any]]:
    """Rows from top to bottom, panels from left to right."""
    made: list[dict[str, Any]] = []
    top = 0
    for row in dashboard.rows:
        place = {"h": 1, "w": _COLUMNS, "x": 0, "y": top}
        made.append(
            {"type": "row", "id": len(made) + 1, "title": row.title, "collapsed": False, "gridPos": place, "panels": []}
        )
        top += 1
        left, height = 0, 0
        for panel in row.panels:
            if left + panel.width > _COLUMNS:
                top, left, height = top + height, 0, 0
            place = {"h": panel.height, "w": panel.width, "x": left, "y": top}
            made.append({"id": len(made) + 1, "gridPos": place, **panel_json(panel)})
            left, height = left + panel.width, max(height, panel.height)
        top += height
    return made


def panel_json(panel: Panel) -> dict[str, Any]:
    """A panel without id and position."""
    made: dict[str, Any] = {
        "type": panel.kind,
        "title": panel.title,
        "description": panel.question,
        "datasource": _INFLUX,
        "interval": panel.interval,
        "targets": [target_json(query, place) for place, query in enumerate(panel.queries)],
        "fieldConfig": _field_config(panel),
        "options": _OPTIONS[panel.kind](panel),
    }
    if panel.transformations:
        made["transformations"] = [dict(one) for one in panel.transformations]
    return made


def target_json(query: Query | Expression, place: int) -> dict[str, Any]:
    """A query of a panel or an alert rule."""
    made: dict[str, Any] = {"refId": letter(place)}
    if isinstance(query, Query):
        made |= {
            "datasource": _INFLUX,
            "query": query.text,
            "rawQuery": True,
            "resultFormat": "table" if query.is_table else "time_series",
        }
        if query.alias:
            made["alias"] = query.alias
    else:
        made |= {"datasource": _EXPRESSION, "type": query.kind, "expression": query.text}
        if query.reducer:
            made["reducer"] = query.reducer
            made["settings"] = {"mode": "dropNN"}
    if query.hidden:
        made["hide"] = True
    return made


def _field_config(panel: Panel) -> dict[str, Any]:
    defaults: dict[str, Any] = {"unit": panel.unit}
    if panel.decimals is not None:
        defaults["decimals"] = panel.decimals
    if panel.y_max is not None:
        defaults |= {"min": 0, "max": panel.y_max}
    if panel.steps:
        defaults["thresholds"] = {
            "mode": "absolute",
            "steps": [{"value": step.value, "color": step.colour} for step in panel.steps],
        }
        defaults["color"] = {"mode": "thresholds"}
    elif panel.kind == "stat":
        defaults["color"] = {"mode": "fixed", "fixedColor": "blue"}
    else:
        defaults["color"] = {"mode": "palette-classic"}
    if panel.words:
        options = {
            value: {"text": word, "color": colour, "index": place}
            for place, (value, word, colour) in enumerate(panel.words)
        }
        defaults["mappings"] = [{"type": "value", "options": options}]
    defaults["custom"] = _custom(panel)
    overrides = [_unit_of(name, unit) for name, unit in panel.units]
    overrides += [_percent(query) for query in panel.share_queries]
    if panel.axes is not None:
        overrides.append(_unit_of(panel.axes.x, panel.axes.x_unit, label=panel.axes.x_label))
    return {"defaults": defaults, "overrides": overrides}


def _unit_of(name: str, unit: str, *, label: str = "") -> dict[str, Any]:
    properties: list[dict[str, Any]] = [{"id": "unit", "value": unit}]
    if label:
        properties.append({"id": "custom.axisLabel", "value": label})
    return {"matcher": {"id": "byName", "options": name}, "properties": properties}


def _percent(query: str) -> dict[str, Any]:
    """In percent, on an axis from 0 to 100 %."""
    wanted = {"unit": "percentunit", "decimals": 1, "min": 0, "max": 1}
    return {
        "matcher": {"id": "byFrameRefID", "options": query},
        "properties": [{"id": name, "value": value} for name, value in wanted.items()],
    }


def _custom(panel: Panel) -> dict[str, Any]:
    """Custom options that differ from the kind's defaults."""
    if panel.kind == "timeseries" and panel.stacked_bars:
        return {"drawStyle": "bars", "fillOpacity": 80, "lineWidth": 0, "stacking": {"mode": "normal", "group": "A"}}
    if panel.kind == "timeseries":
        # Points are seconds to minutes apart: lines connect over gaps that are short on the scale of interest.
        return {"drawStyle": "line", "lineWidth": 1, "fillOpacity": 8, "showPoints": "auto", "spanNulls": 600_000}
    if panel.kind == "xychart":
        show = "points+lines" if panel.axes is not None and panel.axes.lines else "points"
        return {"show": show, "pointSize": {"fixed": 5}}
    if panel.kind == "table":
        return {"filterable": True}
    return {}


def _stat(panel: Panel) -> dict[str, Any]:
    return {
        "reduceOptions": {
            "values": False,
            "calcs": ["lastNotNull"],
            "fields": f"/^{panel.stat_field}$/" if panel.stat_field else "",
        },
        "graphMode": "none" if panel.stat_field or panel.words else "area",
        "colorMode": "value",
        "justifyMode": "auto",
        "orientation": "auto",
        "textMode": "auto",
    }


def _timeseries(_: Panel) -> dict[str, Any]:
    return {"legend": _LEGEND, "tooltip": {"mode": "multi", "sort": "desc"}}


def _table(_: Panel) -> dict[str, Any]:
    return {"showHeader": True, "cellHeight": "sm"}


def _barchart(_: Panel) -> dict[str, Any]:
    return {
        "orientation": "horizontal",
        "showValue": "always",
        "legend": {**_LEGEND, "showLegend": False},
        "tooltip": {"mode": "single", "sort": "none"},
    }


def _xychart(panel: Panel) -> dict[str, Any]:
    assert panel.axes is not None, panel.title
    return {
        "mapping": "manual",
        "series": [
            {
                "x": {"matcher": {"id": "byName", "options": panel.axes.x}},
                "y": {"matcher": {"id": "byName", "options": panel.axes.y}},
            }
        ],
        "legend": {**_LEGEND, "calcs": []},
        "tooltip": {"mode": "single", "sort": "none"},
    }


def _heatmap(panel: Panel) -> dict[str, Any]:
    return {
        "calculate": True,
        "calculation": {"xBuckets": {"mode": "count", "value": "40"}, "yBuckets": {"mode": "count", "value": "12"}},
        "color": {
            "mode": "scheme",
            "scheme": "Oranges",
            "fill": "dark-orange",
            "scale": "exponential",
            "exponent": 0.5,
            "steps": 64,
            "reverse": False,
        },
        "yAxis": {"unit": panel.unit, "decimals": 0},
        "legend": {"show": True},
        "tooltip": {"mode": "single", "yHistogram": False},
    }


_OPTIONS = {
    "stat": _stat,
    "timeseries": _timeseries,
    "table": _table,
    "barchart": _barchart,
    "xychart": _xychart,
    "heatmap": _heatmap,
}


def markdown(dashboards: Sequence[Dashboard]) -> str:
    """The tables in docs/dashboards.md."""
    lines: list[str] = []
    for dashboard in dashboards:
        lines += [f"## {dashboard.title}", "", dashboard.question, ""]
        for row in dashboard.rows:
            lines += [f"### {row.title}", "", "| panel | what it answers |", "| --- | --- |"]
            lines += [f"| {panel.title} | {panel.question} |" for panel in row.panels]
            lines.append("")
    return "\n".join(lines)
