"""Points of every measurement with every field, for tests that must not leave one out."""

from aggregator.telemetry.lines import Point, Value
from aggregator.telemetry.schema import MEASUREMENTS, OUTCOME, REASON, FieldType, Measurement

VALUES: dict[FieldType, Value] = {"integer": 7, "float": 0.25, "string": "device-1", "boolean": True}


def full_point(measurement: Measurement, *, number: int = 0) -> Point:
    """Every field has a value; `number` is in the integers."""
    fields: dict[str, Value] = {
        one.name: number if one.type == "integer" else VALUES[one.type] for one in measurement.fields
    }
    fields |= {family.name + "walking": VALUES[family.type] for family in measurement.families}
    return Point(
        measurement.name, tuple(tag.values[0] if tag.values else "all" for tag in measurement.tags[2:]), fields
    )


def update_point(number: int) -> Point:
    """One merged update, told by its version."""
    return Point(
        "fedkd_update", ("merged", "none"), {"device": f"d{number % 7}", "updates": 1, "version": number, "weight": 1.0}
    )


FULL_POINTS = [full_point(measurement) for measurement in MEASUREMENTS.values()]


def series_max() -> int:
    """Series that one aggregator can write, over all measurements; reasons belong to refusals only."""
    total = 0
    for measurement in MEASUREMENTS.values():
        series = 1
        for tag in measurement.tags:
            series *= tag.values_max
        if REASON in measurement.tags:
            refusals = REASON.values_max - 1
            series = refusals + OUTCOME.values_max - 1
        total += series
    return total
