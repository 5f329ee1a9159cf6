r"""Converts points to InfluxDB line protocol and back. No I/O.

    measurement,tag=value,… field=1i,other=0.5,text="…" 1700000000000000000

Escaping is InfluxDB's: a backslash before `,` `=` and space in tags, before `"` and `\` in strings. Characters
that it cannot carry are replaced first: control characters, because a point must stay one line, and a backslash in a
tag, which servers interpret differently.
"""

import math
import re
from collections.abc import Callable, Mapping
from typing import NamedTuple

from aggregator.telemetry.schema import MEASUREMENTS, FieldType

Value = int | float | str | bool
Tags = tuple[str, ...]
"""Tag values, in the order of the schema."""

Write = Callable[[Value], str]
"""Formats one field; empty if the value cannot be written."""

TEXT_CHARACTERS_MAX = 256
"""Longer text is cut."""
_INTEGER_MAX = 2**63 - 1
"""InfluxDB's integers are signed and have 64 bits."""
_HEADS_MAX = 4_096
"""Measurement-and-tag prefixes that are cached: a hundred times the series that one aggregator writes (39), so the
bound is never reached unless the tags are wrong."""

_UNWRITABLE = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff\ufffe\uffff]")
_PLAIN = re.compile(r"[A-Za-z0-9_.\-]{0,64}")
"""Characters of device ids, which need no escaping."""
_ESCAPED_IN_TAGS = re.compile(r"([,= ])")
_ESCAPED_IN_STRINGS = re.compile(r'(["\\])')


class Point(NamedTuple):
    """One point of a measurement."""

    measurement: str
    tags: Tags
    """Tag values, in addition to task and shard, which every point of this process has."""
    fields: Mapping[str, Value]


class ParsedPoint(NamedTuple):
    """A point that was read back."""

    measurement: str
    tags: dict[str, str]
    fields: dict[str, Value]
    at_ns: int
    """Unix nanoseconds."""


def plain_text(text: str) -> str:
    """`text` as a string field stores it."""
    return _UNWRITABLE.sub(" ", text[:TEXT_CHARACTERS_MAX])


def plain_tag(text: str) -> str:
    """`text` as a tag stores it; never empty."""
    return plain_text(text).replace("\\", "_").strip() or "none"


class LineWriter:
    """Writes lines for one task and shard."""

    def __init__(self, *, task: str, shard: int) -> None:
        self._common = (task, str(shard))
        self._heads: dict[tuple[str, Tags], str] = {}
        self._writers = {
            measurement.name: {field.name: _WRITERS[field.type](field.name) for field in measurement.fields}
            for measurement in MEASUREMENTS.values()
        }

    def line(self, point: Point, at_ns: int) -> str | None:
        """The point as a line without line end; None if none of its fields has a value that can be written.

        Raises:
            KeyError: the schema has no such measurement or field.
        """
        writers = self._writers[point.measurement]
        parts = []
        for name, value in point.fields.items():
            write = writers.get(name) or self._family_writer(point.measurement, name)
            text = write(value)
            if text:
                parts.append(text)
        if not parts:
            return None
        return f"{self._head(point)} {','.join(parts)} {at_ns}"

    def _family_writer(self, measurement: str, name: str) -> Write:
        for family in MEASUREMENTS[measurement].families:
            if re.fullmatch(re.escape(family.name) + r"[A-Za-z0-9_]+", name):
                return _WRITERS[family.type](name)
        raise KeyError(f"{measurement} has no field {name!r}")

    def _head(self, point: Point) -> str:
        key = (point.measurement, point.tags)
        head = self._heads.get(key)
        if head is None:
            names = [tag.name for tag in MEASUREMENTS[point.measurement].tags]
            pairs = zip(names, (*self._common, *point.tags), strict=True)
            tags = [name + "=" + _ESCAPED_IN_TAGS.sub(r"\\\1", plain_tag(value)) for name, value in pairs]
            head = ",".join([point.measurement, *tags])
            if len(self._heads) < _HEADS_MAX:
                self._heads[key] = head
        return head


def _string(text: str) -> str:
    if _PLAIN.fullmatch(text):
        return text
    return _ESCAPED_IN_STRINGS.sub(r"\\\1", plain_text(text))


def _integer(name: str) -> Write:
    return lambda value: f"{name}={min(int(value), _INTEGER_MAX)}i"


def _float(name: str) -> Write:
    def write(value: Value) -> str:
        number = float(value)
        return f"{name}={number!r}" if math.isfinite(number) else ""

    return write


def _text(name: str) -> Write:
    return lambda value: f'{name}="{_string(str(value))}"'


def _boolean(name: str) -> Write:
    return lambda value: f"{name}={'true' if value else 'false'}"


_WRITERS: Mapping[FieldType, Callable[[str], Write]] = {
    "integer": _integer,
    "float": _float,
    "string": _text,
    "boolean": _boolean,
}


_FIELD = re.compile(r'([^=]+)=(?:"((?:[^"\\]|\\.)*)"|([^", ]+))(,|$)')


def read_line(text: str) -> ParsedPoint | None:
    """Parses a line that this program wrote; None if it is incomplete."""
    try:
        head, rest = _split_unescaped(text)
        fields, _, stamp = rest.rpartition(" ")
        measurement, *pairs = re.split(r"(?<!\\),", head)
        tags = {}
        for pair in pairs:
            name, value = re.split(r"(?<!\\)=", pair, maxsplit=1)
            tags[name] = re.sub(r"\\([,= ])", r"\1", value)
        return ParsedPoint(measurement, tags, _read_fields(fields), int(stamp))
    except ValueError:
        return None


def _split_unescaped(text: str) -> tuple[str, str]:
    found = re.search(r"(?<!\\) ", text)
    if found is None:
        raise ValueError("no fields")
    return text[: found.start()], text[found.end() :]


def _read_fields(text: str) -> dict[str, Value]:
    fields: dict[str, Value] = {}
    at = 0
    while at < len(text):
        found = _FIELD.match(text, at)
        if found is None or (found[4] == "," and found.end() == len(text)):
            raise ValueError("a field that is none")
        name, string, other, _ = found.groups()
        fields[name] = re.sub(r"\\(.)", r"\1", string) if string is not None else _read_value(other)
        at = found.end()
    if not fields:
        raise ValueError("no fields")
    return fields


def _read_value(text: str) -> Value:
    if text in {"true", "false"}:
        return text == "true"
    if text.endswith("i"):
        return int(text[:-1])
    return float(text)
