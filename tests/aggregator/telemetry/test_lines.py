"""Line protocol: what is written is read back, here and by a real InfluxDB."""

import math
import string
from collections.abc import Sequence

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from aggregator.telemetry.influx import InfluxAccess, InfluxServer
from aggregator.telemetry.lines import (
    TEXT_CHARACTERS_MAX,
    LineWriter,
    Point,
    Value,
    plain_tag,
    plain_text,
    read_line,
)
from aggregator.telemetry.schema import MEASUREMENTS
from tests.aggregator.telemetry.points import FULL_POINTS
from tests.telemetry_server import BUCKET, TOKEN, InfluxDB

AT = 1_700_000_000_000_000_000
NASTY = st.text(st.one_of(st.sampled_from(' ,="\\\n\r\t\x00\u2028é😀'), st.characters()), max_size=40)


def fields() -> st.SearchStrategy[dict[str, Value]]:
    return st.fixed_dictionaries(
        {"firmware": NASTY, "retained": st.booleans()},
        optional={"battery_percent": st.floats(allow_nan=False, allow_infinity=False), "device": NASTY},
    )


@given(task=NASTY, status=NASTY, told=fields())
def test_a_line_is_read_back(task: str, status: str, told: dict[str, Value]) -> None:
    text = LineWriter(task=task, shard=3).line(Point("fedkd_presence", (status,), told), AT)
    assert text is not None
    assert "\n" not in text
    line = read_line(text)
    assert line is not None
    assert (line.measurement, line.at_ns) == ("fedkd_presence", AT)
    assert line.tags == {"task": plain_tag(task), "shard": "3", "status": plain_tag(status)}
    assert line.fields == {name: plain_text(value) if isinstance(value, str) else value for name, value in told.items()}


@given(st.text(max_size=400))
def test_any_text_is_read_or_refused(text: str) -> None:
    read_line(text)


@given(number=st.integers(0, 8))
def test_half_a_line_is_no_line(number: int) -> None:
    text = LineWriter(task="t", shard=0).line(FULL_POINTS[number], AT)
    assert text is not None
    for end in range(text.rindex(" ") + 1):
        assert read_line(text[:end]) is None


def test_every_field_of_the_schema_keeps_its_type() -> None:
    writer = LineWriter(task="t", shard=0)
    for point in FULL_POINTS:
        text = writer.line(point, AT)
        assert text is not None
        line = read_line(text)
        assert line is not None
        assert line.fields == point.fields
        for field in MEASUREMENTS[point.measurement].fields:
            kinds = {"integer": int, "float": float, "string": str, "boolean": bool}
            assert type(line.fields[field.name]) is kinds[field.type]


def test_what_is_no_number_is_left_out_and_an_empty_point_is_no_line() -> None:
    writer = LineWriter(task="t", shard=0)
    point = Point("fedkd_update", ("merged", "none"), {"device": "d", "norm": math.nan, "loss": math.inf, "weight": 1})
    assert (
        writer.line(point, AT) == f'fedkd_update,task=t,shard=0,outcome=merged,reason=none device="d",weight=1.0 {AT}'
    )
    assert writer.line(Point("fedkd_update", ("merged", "none"), {"norm": math.nan}), AT) is None


@pytest.mark.parametrize(
    "point",
    [
        Point("fedkd_other", (), {"device": "d"}),
        Point("fedkd_update", ("merged", "none"), {"colour": 1}),
        Point("fedkd_evaluation", ("all",), {"recall_a b": 1.0}),
    ],
)
def test_what_is_not_in_the_schema_is_an_error(point: Point) -> None:
    with pytest.raises(KeyError):
        LineWriter(task="t", shard=0).line(point, AT)


def test_integers_stay_within_64_bits_and_texts_are_cut() -> None:
    writer = LineWriter(task="t", shard=0)
    text = writer.line(Point("fedkd_presence", ("online",), {"firmware": "x" * 5_000}), AT)
    assert text is not None
    line = read_line(text)
    assert line is not None
    assert line.fields["firmware"] == "x" * TEXT_CHARACTERS_MAX
    assert writer.line(Point("fedkd_update", ("merged", "none"), {"samples": 2**70}), AT) is not None


def _write(server: InfluxDB, lines: Sequence[str]) -> None:
    influx = InfluxServer(InfluxAccess(url=server.url, token=TOKEN, org="fedkd", bucket=BUCKET))
    influx.write(("\n".join(lines) + "\n").encode())


def test_what_servers_read_in_different_ways_is_not_in_tags() -> None:
    assert plain_tag("a\\b\\") == "a_b_"
    assert plain_tag(" \n\x00 ") == "none"
    assert plain_text("a\nb\u2028c\\") == "a b c\\"


def test_a_real_server_reads_back_any_text(influxdb: InfluxDB) -> None:
    alphabet = string.printable + '\x00\x7f\x85\u2028é😀\\\\\\"""   ,,,==='

    @settings(max_examples=15, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
    @given(st.lists(st.tuples(st.text(alphabet, max_size=20), NASTY), min_size=1, max_size=40))
    def law(texts: list[tuple[str, str]]) -> None:
        influxdb.query('DROP MEASUREMENT "fedkd_presence"')
        points = [Point("fedkd_presence", (tag,), {"device": field, "firmware": tag}) for tag, field in texts]
        writer = LineWriter(task="a b,c=d", shard=0)
        lines = [writer.line(point, AT + index) for index, point in enumerate(points)]
        _write(influxdb, [line for line in lines if line is not None])
        rows = influxdb.query("SELECT device, firmware, status, task FROM fedkd_presence")
        found = {row["time"] - AT: (row["device"], row["firmware"], row["status"], row["task"]) for row in rows}
        expected = {
            index: (plain_text(field), plain_text(tag), plain_tag(tag), "a b,c=d")
            for index, (tag, field) in enumerate(texts)
        }
        assert found == expected

    law()


def test_a_real_server_takes_every_measurement(influxdb: InfluxDB) -> None:
    writer = LineWriter(task="t", shard=0)
    lines = [writer.line(point, AT) for point in FULL_POINTS]
    _write(influxdb, [line for line in lines if line is not None])
    for point in FULL_POINTS:
        (row,) = influxdb.query(f'SELECT * FROM "{point.measurement}"')
        assert {name: row[name] for name in point.fields} == point.fields
        keys = influxdb.query(f'SHOW TAG KEYS FROM "{point.measurement}"')
        assert {key["tagKey"] for key in keys} == {tag.name for tag in MEASUREMENTS[point.measurement].tags}
