"""Checks a dashboard's statement: only names from the telemetry schema, only InfluxQL that InfluxDB 1, 2 and 3 have in
common, and no unbounded result.

Names are written in double quotes, so every word outside of quotes is an InfluxQL keyword or function.
"""

import re

from aggregator.telemetry.schema import MEASUREMENTS, Measurement

FUNCTIONS = frozenset(
    {"count", "first", "last", "max", "mean", "min", "percentile", "sum", "top", "cumulative_sum"}
    | {"non_negative_derivative", "fill", "time"}
)
"""For example, InfluxDB 3 has no INTEGRAL, SLIMIT or INTO."""
_KEYWORDS = frozenset(
    {
        "select",
        "as",
        "from",
        "where",
        "and",
        "group",
        "by",
        "order",
        "desc",
        "limit",
        "time",
        "none",
        "previous",
        "false",
        "true",
    }
)
_FIELDS_WITHOUT_FUNCTION = re.compile(r'^SELECT "[^"]*"(, "[^"]*")* FROM')
_TOKEN = re.compile(
    r"""
    (?P<space>\s+) | (?P<string>'[^']*') | (?P<name>"[^"]*") | (?P<regex>(?<==~\ )/[^/]*/|(?<=\()/[^/]*/)
    | (?P<variable>\$\{?\w+(:\w+)?\}?) | (?P<number>\d+(\.\d+)?[a-z]*) | (?P<word>\w+) | (?P<sign>[-+*/(),<>=!~])
    """,
    re.VERBOSE,
)


class StatementRefused(Exception):
    """With this statement a dashboard would stay empty, or be too slow."""


def check(text: str) -> None:
    """Raises:
    StatementRefused: the text says why.
    """
    measurement = _measurement(text)
    known = {tag.name for tag in measurement.tags} | {field.name for field in measurement.fields}
    known |= set(re.findall(r'AS "([^"]*)"', text)) | {measurement.name}
    for name in re.findall(r'"([^"]*)"', text):
        if name not in known:
            raise StatementRefused(f"{measurement.name} has no tag or field {name!r}: {text}")
    _check_words(text)
    _check_regexes(text, measurement)
    _check_groups(text, measurement)
    _check_bound(text)


def _measurement(text: str) -> Measurement:
    """One measurement, no subqueries: for a query of a filled query, InfluxDB 1.6 returns each row many times."""
    names = re.findall(r'FROM "([^"]*)"', text)
    if len(names) != 1 or names[0] not in MEASUREMENTS or text.count("SELECT ") != 1:
        raise StatementRefused(f"one measurement that the schema has, without subqueries: {text}")
    return MEASUREMENTS[names[0]]


def _check_words(text: str) -> None:
    at = 0
    while at < len(text):
        found = _TOKEN.match(text, at)
        if found is None:
            raise StatementRefused(f"{text[at : at + 20]!r} is not understood: {text}")
        at = found.end()
        word = (found["word"] or "").lower()
        is_function = text[at : at + 1] == "("
        if word and word not in (FUNCTIONS if is_function else _KEYWORDS):
            raise StatementRefused(
                f"{word!r} is a name without quotes, or a function that not all versions have: {text}"
            )


def _check_regexes(text: str, measurement: Measurement) -> None:
    for prefix in re.findall(r"\(/\^([^/]*)/\)", text):
        if prefix not in {family.name for family in measurement.families}:
            raise StatementRefused(f"{measurement.name} has no fields that begin with {prefix!r}: {text}")


def _check_groups(text: str, measurement: Measurement) -> None:
    tags = {tag.name for tag in measurement.tags}
    for clause in re.findall(r"GROUP BY ([^)]*(?:\([^)]*\)[^)]*)*?)(?: fill| ORDER|\)|$)", text):
        for name in re.findall(r'"([^"]*)"', clause):
            if name not in tags:
                raise StatementRefused(f"InfluxQL cannot group by {name!r}, which is a field: {text}")


def _check_bound(text: str) -> None:
    if "$timeFilter" not in text:
        raise StatementRefused(f"it asks for all there ever was: {text}")
    if _FIELDS_WITHOUT_FUNCTION.match(text) and not re.search(r" LIMIT \d+$", text):
        raise StatementRefused(f"raw rows without a LIMIT: {text}")
