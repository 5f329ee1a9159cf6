"""Strict reading of JSON against the types of Grafana's own SDK, which are generated from Grafana's schema.

The SDK's `from_json` skips what it does not know and looks at no type; here both are faults.
"""

import enum
import importlib
import types
import typing
import warnings
from collections.abc import Iterator, Mapping
from functools import cache
from typing import Any

with warnings.catch_warnings():
    warnings.simplefilter("ignore", DeprecationWarning)  # the SDK prefers dashboards of the next format
    from grafana_foundation_sdk.cog.variants import Dataquery
    from grafana_foundation_sdk.models import alerting, dashboard, expr

EXPRESSIONS: Mapping[str, type] = {"math": expr.TypeMath, "reduce": expr.TypeReduce, "threshold": expr.TypeThreshold}
INFLUX_QUERY: Mapping[str, Any] = {
    "refId": str,
    "datasource": dashboard.DataSourceRef,
    "query": str,
    "rawQuery": bool,
    "resultFormat": typing.Literal["time_series", "table", "logs"],
    "alias": str,
    "hide": bool,
}
"""Of Grafana's InfluxDB data source, for which the SDK has no type."""
_OF_PROVISIONING = frozenset({"dashboardUid", "panelId"})
"""Of a rule in a file; over the API they are annotations."""


def dashboard_faults(content: Mapping[str, Any]) -> list[str]:
    """What Grafana's schema does not have, or has otherwise."""
    faults = list(_faults(content, dashboard.Dashboard, "dashboard"))
    for panel in content["panels"]:
        if panel["type"] == "row":
            continue
        where = f"panel {panel['title']!r}"
        kind = importlib.import_module(f"grafana_foundation_sdk.models.{panel['type']}")
        faults += _faults(panel["options"], kind.Options, f"{where}.options")
        custom = panel["fieldConfig"]["defaults"]["custom"]
        if custom:
            faults += _faults(custom, kind.FieldConfig, f"{where}.custom")
    return faults


def rule_faults(rule: Mapping[str, Any]) -> list[str]:
    """The same for an alert rule; what its group says for it is put in."""
    of_group = {"folderUID": "", "ruleGroup": "", "orgID": 1}
    own = {name: value for name, value in rule.items() if name not in _OF_PROVISIONING}
    return list(_faults({**own, **of_group}, alerting.Rule, rule["uid"]))


def _faults(value: Any, hint: Any, where: str) -> Iterator[str]:
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if hint in (Any, object):
        return
    if origin in (typing.Union, types.UnionType):
        if value is None and type(None) in arguments:
            return
        found = [list(_faults(value, one, where)) for one in arguments if one is not type(None)]
        if [] not in found:
            yield from min(found, key=len)
    elif origin in (list, dict):
        yield from _faults_within(value, origin, arguments[-1], where)
    elif origin is typing.Literal:
        if value not in arguments:
            yield f"{where} is {value!r}, not one of {arguments}"
    else:
        assert isinstance(hint, type), f"{where}: a kind of type that is not known here, {hint}"
        yield from _faults_of_type(value, hint, where)


def _faults_within(value: Any, kind: type, hint: Any, where: str) -> Iterator[str]:
    if not isinstance(value, kind):
        yield f"{where} is no {kind.__name__}"
        return
    for name, one in value.items() if isinstance(value, dict) else enumerate(value):
        yield from _faults(one, hint, f"{where}.{name}")


def _faults_of_type(value: Any, hint: type, where: str) -> Iterator[str]:
    if hint is Dataquery:
        yield from _target_faults(value, where)
    elif issubclass(hint, enum.Enum):
        if value not in [one.value for one in hint]:
            yield f"{where} is {value!r}, which {hint.__name__} has not"
    elif hint in (str, bool):
        if not isinstance(value, hint):
            yield f"{where} is {value!r}, no {hint.__name__}"
    elif hint in (int, float):
        if isinstance(value, bool) or not isinstance(value, int if hint is int else (int, float)):
            yield f"{where} is {value!r}, no {hint.__name__}"
    elif not isinstance(value, dict):
        yield f"{where} is {value!r}, no {hint.__name__}"
    else:
        yield from _object_faults(value, _fields(hint), where)


def _object_faults(value: Mapping[str, Any], fields: Mapping[str, Any], where: str) -> Iterator[str]:
    for name, one in value.items():
        if name not in fields:
            yield f"{where} has no {name!r}"
        else:
            yield from _faults(one, fields[name], f"{where}.{name}")


def _target_faults(target: Any, where: str) -> Iterator[str]:
    datasource = target.get("datasource", {})
    if datasource.get("type") == "influxdb":
        yield from _object_faults(target, INFLUX_QUERY, where)
    elif datasource.get("type") == "__expr__" and target.get("type") in EXPRESSIONS:
        yield from _object_faults(target, _fields(EXPRESSIONS[target["type"]]), where)
    else:
        yield f"{where} asks nobody known: {datasource}"


@cache
def _fields(cls: type) -> Mapping[str, Any]:
    """JSON names of a class of the SDK, and their types. Python's names differ; `to_json` knows which is which."""
    hints = typing.get_type_hints(cls.__init__)
    hints.pop("return", None)
    marks = {name: object() for name in hints}
    names = {id(mark): name for name, mark in marks.items()}
    made: Mapping[str, Any] = cls(**marks).to_json()
    fields: dict[str, Any] = {}
    for json_name, mark in made.items():
        name = names.get(id(mark))
        fields[json_name] = typing.Literal[mark] if name is None else hints[name]  # a constant, such as "type"
    assert len(fields) >= len(hints)
    return fields
