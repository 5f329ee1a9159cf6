"""The schema keeps its own rules, and the page says what it says."""

from pathlib import Path

from aggregator.telemetry.schema import MEASUREMENTS, OUTCOME, REASON, markdown
from aggregator.telemetry.settings import TelemetrySettings
from tests.aggregator.telemetry.points import series_max

PAGE = Path(__file__).parents[3] / "docs" / "telemetry.md"


def test_the_page_has_the_tables_of_the_schema() -> None:
    begin, end = "<!-- schema -->\n", "<!-- end of schema -->"
    text = PAGE.read_text(encoding="utf-8")
    shown = text[text.index(begin) + len(begin) : text.index(end)]
    assert shown.strip() == markdown().strip(), "put the output of python -m aggregator.telemetry.schema there"


def test_the_page_names_every_setting_and_the_number_of_series() -> None:
    text = PAGE.read_text(encoding="utf-8")
    for name in TelemetrySettings.model_fields:
        said = "no-telemetry" if name == "telemetry" else name.replace("_", "-")
        assert f"`--{said}`" in text
        assert f"`FEDKD_{name.upper()}" in text
    assert f"at most {series_max()} series" in text


def test_no_tag_and_field_share_a_name_and_tags_have_few_values() -> None:
    for measurement in MEASUREMENTS.values():
        names = [tag.name for tag in measurement.tags] + [field.name for field in measurement.fields]
        assert len(names) == len(set(names)), measurement.name
        assert [tag.name for tag in measurement.tags][:2] == ["task", "shard"]
        for tag in measurement.tags:
            assert tag.name not in {"device", "version"}
            assert 1 <= tag.values_max <= 20
            assert tag.values == () or len(tag.values) == tag.values_max


def test_a_field_has_one_type_everywhere() -> None:
    types: dict[str, set[str]] = {}
    for measurement in MEASUREMENTS.values():
        for field in measurement.fields:
            types.setdefault(field.name, set()).add(field.type)
    # A query over several measurements (FROM /fedkd_.*/) wants one type; `uptime_seconds` is the broker's whole number.
    assert {name for name, found in types.items() if len(found) > 1} <= {"uptime_seconds"}


def test_units_stand_last_in_names() -> None:
    for measurement in MEASUREMENTS.values():
        for field in measurement.fields:
            bare = field.name.removesuffix("_total")
            if field.unit == "seconds":
                assert bare.endswith("seconds"), field.name
            if field.unit == "bytes":
                assert bare.endswith("bytes"), field.name
            if field.unit == "percent":
                assert bare.endswith("percent"), field.name
            if field.name.endswith("_total"):
                assert field.type == "integer"


def test_the_series_are_few_whatever_the_number_of_devices() -> None:
    refusals = len(REASON.values) - 1
    assert series_max() == (len(OUTCOME.values) - 1 + refusals) + 1 + 2 + 18 + 2 + 1 + 1 + 1 + 1
    assert series_max() < 1_000 / 20, "some twenty shards stay below a thousand"
