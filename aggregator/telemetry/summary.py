"""Prints the content of a spool: counts, time spans, drops and newest values; or all of it as CSV."""

import csv
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import TextIO

from aggregator.telemetry.lines import ParsedPoint, Value, read_line
from aggregator.telemetry.schema import MEASUREMENTS, Measurement
from aggregator.telemetry.settings import TelemetrySummarySettings
from aggregator.telemetry.spool import read_counters, read_spool
from wire_contract.files.permissions import private_opener
from wire_contract.program.command_settings import UsageError
from wire_contract.program.plain_text import csv_cell, printable

_NS = 1_000_000_000


@dataclass
class MeasurementSummary:
    """Content of one measurement."""

    points: int = 0
    updates: int = 0
    """Number of updates behind the points, if they describe updates."""
    series: set[tuple[str, ...]] = field(default_factory=set)
    first_ns: int = 0
    newest: ParsedPoint | None = None

    def add(self, line: ParsedPoint) -> None:
        if not self.points:
            self.first_ns = line.at_ns
        self.points += 1
        if line.measurement == "fedkd_update":
            self.updates += int(line.fields.get("updates", 0))
        self.series.add(tuple(line.tags.values()))
        self.newest = line


def show_telemetry(settings: TelemetrySummarySettings) -> None:
    """Prints the summary, or writes a CSV file if requested.

    Raises:
        UsageError: there is no such measurement, or the file cannot be written.
        SpoolError: there is no such spool.
    """
    if settings.measurement is not None and settings.measurement not in MEASUREMENTS:
        known = ", ".join(MEASUREMENTS)
        raise UsageError(f"--measurement {settings.measurement}: is unknown; known are {known}")
    if settings.csv is not None:
        with _output(settings.csv) as file:
            rows = write_csv(_lines(settings), file, settings.measurement)
        if str(settings.csv) != "-":
            print(f"{rows} points written to {settings.csv}")
        return
    for text in summary(settings):
        print(text)


def summary(settings: TelemetrySummarySettings) -> Iterator[str]:
    """The lines of the summary."""
    found: dict[str, MeasurementSummary] = {}
    for line in _lines(settings):
        found.setdefault(line.measurement, MeasurementSummary()).add(line)
    counters = read_counters(settings.folder)
    yield f"spool        {settings.folder}: {sum(one.points for one in found.values())} points"
    yield f"recorded     {counters.recorded} points since the spool was created, {counters.sent} sent to a server"
    yield (
        f"dropped      {counters.queue_dropped} points, queue in memory full; {counters.spool_dropped} spool full or "
        f"truncated; {counters.server_dropped} refused by the server"
    )
    for name in MEASUREMENTS:
        one = found.get(name)
        if one is None or one.newest is None:
            continue
        yield ""
        points = f"{one.points} points" + (f" of {one.updates} updates" if one.updates else "")
        yield (
            f"{name}: {points} in {len(one.series)} series, "
            f"{_time(one.first_ns, 'seconds')} to {_time(one.newest.at_ns, 'seconds')}"
        )
        units = _units(MEASUREMENTS[name])
        values = [*one.newest.tags.items(), *one.newest.fields.items()]
        shown = [f"{printable(label)} {_shown(value)} {units.get(label, '')}".rstrip() for label, value in values]
        yield f"  newest: {', '.join(shown)}"


def write_csv(lines: Iterator[ParsedPoint], file: TextIO, measurement: str | None) -> int:
    """Writes one row per point, with a column for each tag and field of the schema; returns the number of rows."""
    chosen = list(MEASUREMENTS.values()) if measurement is None else [MEASUREMENTS[measurement]]
    columns = ["time", "time_ns", "measurement", *_columns(chosen)]
    # Names of a family's members are not known in advance; they share one column.
    writer = csv.DictWriter(file, columns, extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    rows = 0
    for line in lines:
        row: dict[str, Value] = {**line.tags, **line.fields}
        for family in MEASUREMENTS[line.measurement].families:
            members = {name: value for name, value in line.fields.items() if name.startswith(family.name)}
            row[family.name + "*"] = " ".join(f"{name}={value}" for name, value in members.items())
        row = {name: csv_cell(value) if isinstance(value, str) else value for name, value in row.items()}
        row |= {"time": _time(line.at_ns, "microseconds"), "time_ns": line.at_ns, "measurement": line.measurement}
        writer.writerow(row)
        rows += 1
    return rows


def _lines(settings: TelemetrySummarySettings) -> Iterator[ParsedPoint]:
    for text in read_spool(settings.folder):
        line = read_line(text)
        if line is not None and line.measurement in MEASUREMENTS and settings.measurement in {None, line.measurement}:
            yield line


def _columns(measurements: list[Measurement]) -> list[str]:
    tags = [tag.name for measurement in measurements for tag in measurement.tags]
    fields = [one.name for measurement in measurements for one in measurement.fields]
    families = [family.name + "*" for measurement in measurements for family in measurement.families]
    return list(dict.fromkeys([*tags, *fields, *families]))


def _units(measurement: Measurement) -> dict[str, str]:
    """Units by field; a field whose name ends with its unit needs none."""
    return {one.name: one.unit for one in measurement.fields if one.unit and not one.name.endswith(one.unit)}


def _time(at_ns: int, precision: str) -> str:
    at = datetime.fromtimestamp(at_ns // _NS, tz=UTC).replace(microsecond=at_ns % _NS // 1_000)
    return at.isoformat(timespec=precision)


def _shown(value: Value) -> str:
    return f"{value:.4g}" if isinstance(value, float) else printable(str(value))


@contextmanager
def _output(path: Path) -> Iterator[TextIO]:
    if str(path) == "-":
        yield sys.stdout
        return
    try:
        with open(path, "w", encoding="utf-8", newline="", opener=private_opener) as file:
            yield file
    except OSError as error:
        raise UsageError(f"--csv {path}: {error.strerror}") from None
