"""What Grafana makes of a statement before it asks, and of a rule's answers before it calls somebody."""

import ast
import math
import re
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from benchmarks.influxd import InfluxDB, Row
from grafana.alerts import Rule
from grafana.panels import Expression, Query

Labels = frozenset[tuple[str, str]]
TAGS = frozenset({"task", "shard", "cohort", "outcome", "reason", "status", "form"})


class Span(NamedTuple):
    """A page's time range, Unix milliseconds."""

    begin_ms: int
    end_ms: int


def asked(text: str, span: Span, *, interval: str = "10s", **variables: Sequence[str]) -> str:
    """The statement as it is sent. Variables are chosen values; `regex` formats them as Grafana does."""
    text = text.replace("$timeFilter", f"time >= {span.begin_ms}ms and time <= {span.end_ms}ms")
    text = text.replace("$__interval", interval)
    for name, values in variables.items():
        escaped = [re.sub(r"([\\^$*+?.()|\[\]{}/])", r"\\\1", value) for value in values]
        formatted = escaped[0] if len(escaped) == 1 else f"({'|'.join(escaped)})"
        text = text.replace(f"${{{name}:regex}}", formatted)
    assert "$" not in text.replace("$/", ""), f"something was not replaced: {text}"
    return text


def rows_with_values(db: InfluxDB, text: str) -> list[Row]:
    """Without those that hold nothing but their time and tags."""
    return [row for row in db.query(text) if any(row[name] is not None for name in set(row) - TAGS - {"time"})]


REDUCERS: Mapping[str, Callable[[Sequence[float]], float]] = {
    "last": lambda values: values[-1],
    "max": max,
    "mean": lambda values: sum(values) / len(values),
    "sum": sum,
}


def firing(db: InfluxDB, rule: Rule, now_ms: int) -> list[dict[str, str]]:
    """Labels of what the rule would call somebody for, once its pending time is over."""
    span = Span(now_ms - 1_000 * rule.range_seconds, now_ms)
    many: dict[str, dict[Labels, list[float]]] = {}
    one: dict[str, dict[Labels, float]] = {}
    for letter, step in zip("ABCDEFG", rule.steps, strict=False):
        if isinstance(step, Query):
            many[letter] = _series(db.query(asked(step.text, span)))
            if not many[letter]:
                return [{"no data": rule.no_data}] if rule.no_data == "Alerting" else []
        elif step.kind == "reduce":
            of_series = {labels: _numbers(values) for labels, values in many[step.text].items()}
            one[letter] = {labels: REDUCERS[step.reducer](values) for labels, values in of_series.items() if values}
        else:
            one[letter] = _formula(step, one)
    over = {"gt": lambda value: value > rule.limit, "lt": lambda value: value < rule.limit}[rule.operator]
    return [dict(labels) for labels, value in one[letter].items() if over(value)]


def _series(rows: Sequence[Row]) -> dict[Labels, list[float]]:
    found: dict[Labels, list[float]] = defaultdict(list)
    for row in rows:
        labels = frozenset((name, row[name]) for name in set(row) & TAGS)
        (column,) = set(row) - TAGS - {"time"}
        found[labels].append(row[column])
    return found


def _numbers(values: Sequence[float | None]) -> list[float]:
    """The reducer's setting dropNN."""
    return [value for value in values if value is not None and math.isfinite(value)]


def _formula(step: Expression, one: Mapping[str, Mapping[Labels, float]]) -> dict[Labels, float]:
    used = re.findall(r"\$([A-Z])", step.text)
    text = step.text.replace("$", "").replace("||", "or").replace("&&", "and")
    code = compile(ast.parse(text, mode="eval"), step.text, "eval")
    common = set.intersection(*(set(one[letter]) for letter in used))
    made: dict[Labels, float] = {}
    for labels in common:
        names: dict[str, Any] = {letter: one[letter][labels] for letter in used}
        made[labels] = float(eval(code, {"__builtins__": {"abs": abs}}, names))
    return made
