"""However updates are condensed, totals stay what they were, and each kind keeps its own."""

import math
from collections import Counter
from collections.abc import Sequence
from typing import get_args

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aggregator.admission import Duplicate, Judged, Merge, Refuse, Verdict
from aggregator.telemetry.condensing import SINGLE_UPDATES_MAX, UpdatePoints
from aggregator.telemetry.lines import LineWriter, Point, Tags, Value
from aggregator.telemetry.schema import MEASUREMENTS, UPDATE_METRICS
from wire_contract.message_fields import RefusalReason
from wire_contract.messages import Update


def tags_of(judged: Judged) -> Tags:
    match judged.verdict:
        case Merge():
            return ("merged", "none")
        case Refuse(reason, _, seen_before=False):
            return ("refused", reason)
    return ("duplicate", "none")


def update(device: str, **told: float | dict[str, float]) -> Update:
    fields = {"samples": 1, "local_steps": 1, "train_seconds": 1.0, "base_version": 0, "sequence": 1, **told}
    return Update(
        task="t",
        device=device,
        incarnation=bytes(8),
        base_digest=bytes(32),
        layout_fingerprint=bytes(8),
        tensors=(),
        **fields,
    )


NAMES = st.sampled_from([f"d{number}" for number in range(30)])
AMOUNTS = st.floats(0, 1e6)
VERDICTS: st.SearchStrategy[Verdict] = st.one_of(
    st.builds(Merge, AMOUNTS, st.integers(0, 1_000), AMOUNTS),
    st.builds(Duplicate),
    st.builds(Refuse, st.sampled_from(["norm", "malformed"]), st.just(""), st.booleans()),
)


@st.composite
def arrivals(draw: st.DrawFn) -> Judged:
    device, verdict = draw(NAMES), draw(VERDICTS)
    read = isinstance(verdict, Merge) or draw(st.booleans())
    told = update(
        device,
        samples=draw(st.integers(1, 2**40)),
        local_steps=draw(st.integers(0, 10_000)),
        train_seconds=draw(AMOUNTS),
        metrics=draw(st.dictionaries(st.sampled_from(["loss", "accuracy", "battery_percent", "else"]), AMOUNTS)),
    )
    return Judged(verdict, told if read else None, 7, device, bytes(draw(st.integers(1, 10**4))))


@st.composite
def batches(draw: st.DrawFn) -> Sequence[Judged]:
    """A few, over and over: kinds must get beyond what is told singly."""
    return draw(st.lists(arrivals(), max_size=8)) * draw(st.integers(1, 40))


def condensed(batch: Sequence[Judged]) -> UpdatePoints:
    made = UpdatePoints()
    for one in batch:
        made.take(one)
    return made


def total(points: Sequence[Point], name: str) -> float:
    return math.fsum(float(point.fields.get(name, 0)) for point in points)


@settings(deadline=None)
@given(batches())
def test_totals_over_points_are_totals_over_updates(batch: Sequence[Judged]) -> None:
    points = condensed(batch).points()
    for tags in {point.tags for point in points} | {tags_of(one) for one in batch}:
        of_kind = [point for point in points if point.tags == tags]
        these = [one for one in batch if tags_of(one) == tags]
        merges = [one.verdict for one in these if isinstance(one.verdict, Merge)]
        read = [one.update for one in these if one.update is not None]
        assert total(of_kind, "updates") == len(these)
        assert total(of_kind, "bytes") == sum(len(one.payload) for one in these)
        for name in ("staleness", "weight", "norm"):
            assert total(of_kind, name) == pytest.approx(math.fsum(getattr(one, name) for one in merges))
        for name in ("samples", "local_steps", "train_seconds"):
            assert total(of_kind, name) == pytest.approx(math.fsum(getattr(one, name) for one in read))
        for name in ("staleness", "norm"):
            found = [float(point.fields[name + "_max"]) for point in of_kind if name + "_max" in point.fields]
            assert max(found, default=None) == max((float(getattr(one, name)) for one in merges), default=None)


@settings(deadline=None)
@given(batches())
def test_what_devices_measured_is_the_mean_of_those_that_told_it(batch: Sequence[Judged]) -> None:
    for point in condensed(batch).points():
        if point.fields["updates"] == 1:
            continue
        rest = [one for one in batch if tags_of(one) == point.tags][SINGLE_UPDATES_MAX:]
        assert len(rest) == point.fields["updates"]
        for name in UPDATE_METRICS:
            updates = [one.update for one in rest if one.update is not None]
            told = [one.metrics[name] for one in updates if name in one.metrics]
            assert (name in point.fields) == bool(told)
            if told:
                assert point.fields[name] == pytest.approx(math.fsum(told) / len(told))


@settings(deadline=None)
@given(batches())
def test_points_are_few_have_lines_and_name_whom_they_are_about(batch: Sequence[Judged]) -> None:
    made = condensed(batch)
    points = made.points()
    kinds = {tags_of(one) for one in batch}
    assert len(points) <= len(kinds) * (SINGLE_UPDATES_MAX + 1)
    writer = LineWriter(task="t", shard=0)
    for point in points:
        assert writer.line(point, 1) is not None
        assert ("device" in point.fields) == (point.fields["updates"] == 1)
        assert "base_version" not in point.fields or "device" in point.fields
    for outcome in ("merged", "duplicate", "refused"):
        assert made.count(outcome) == sum(tags_of(one)[0] == outcome for one in batch)  # type: ignore[arg-type]


@settings(deadline=None)
@given(batches())
def test_taking_part_is_told_of_every_update(batch: Sequence[Judged]) -> None:
    weights = [one.verdict.weight if isinstance(one.verdict, Merge) else None for one in batch]
    told = Counter(zip([one.device for one in batch], weights, strict=True))
    assert Counter(tuple(one) for one in condensed(batch).contributions()) == told


@given(st.lists(arrivals(), max_size=SINGLE_UPDATES_MAX))
def test_a_quiet_batch_tells_each_update(batch: Sequence[Judged]) -> None:
    points = condensed(batch).points()
    in_order = [one for tags in dict.fromkeys(tags_of(one) for one in batch) for one in batch if tags_of(one) == tags]
    assert [(point.fields["device"], point.tags, point.fields["bytes"]) for point in points] == [
        (one.device, tags_of(one), len(one.payload)) for one in in_order
    ]
    assert {point.fields["updates"] for point in points} <= {1}


def single(number: int, verdict: Verdict) -> Judged:
    return Judged(verdict, update(f"d{number}", base_version=3), 7, f"d{number}", bytes(100))


def test_one_beyond_the_first_is_still_told_by_itself() -> None:
    points = condensed([single(number, Merge(1.0, 4, 0.5)) for number in range(SINGLE_UPDATES_MAX + 1)]).points()
    assert [point.fields["device"] for point in points] == [f"d{number}" for number in range(SINGLE_UPDATES_MAX + 1)]
    assert points[-1].fields == {**points[0].fields, "device": f"d{SINGLE_UPDATES_MAX}"}


def test_a_flood_of_merged_updates_hides_no_refusal_and_reasons_keep_apart() -> None:
    reasons: tuple[RefusalReason, ...] = get_args(RefusalReason)
    batch = [single(number, Merge(1.0, 4, 0.5)) for number in range(200)]
    batch += [single(number, Refuse(reason, "")) for number, reason in enumerate(reasons)]
    batch += [single(number, Refuse("rate", "")) for number in range(100, 200)]
    points = condensed(batch).points()
    refused = [point for point in points if point.tags[0] == "refused"]
    assert {point.tags[1] for point in refused} == set(reasons)
    counts: dict[Value, int] = dict.fromkeys(reasons, 0)
    for point in refused:
        counts[point.tags[1]] += int(point.fields["updates"])
    assert counts == {reason: 101 if reason == "rate" else 1 for reason in reasons}
    assert len(points) == 2 * (SINGLE_UPDATES_MAX + 1) + len(reasons) - 1


def test_sums_of_a_known_batch() -> None:
    batch = [single(number, Merge(2.0, number, 100.0 - number)) for number in range(SINGLE_UPDATES_MAX + 3)]
    *_, rest = condensed(batch).points()
    first = SINGLE_UPDATES_MAX
    assert rest == Point(
        "fedkd_update",
        ("merged", "none"),
        {
            "updates": 3,
            "version": 7,
            "bytes": 300,
            "staleness": 3 * first + 3,
            "staleness_max": first + 2,
            "weight": 6.0,
            "norm": 300.0 - 3 * first - 3,
            "norm_max": 100.0 - first,
            "samples": 3,
            "local_steps": 3,
            "train_seconds": 3.0,
        },
    )


@pytest.mark.parametrize(
    ("metrics", "expected"),
    [
        ({"loss": 0.5, "mae": 2.5}, {"metric": 2.5, "metric_name": "mae", "is_share": False}),
        (
            {"loss": 0.5, "macro_f1": 0.25, "teacher_loss": 1.0, "teacher_macro_f1": 0.5, "battery_percent": 9.0},
            {"metric": 0.25, "metric_name": "macro_f1", "is_share": True},
        ),
        ({"accuracy": 0.5, "else": 1.0}, {"metric": 0.5, "metric_name": "accuracy", "is_share": True}),
        ({"accuracy": 1.5}, {}),
        ({"loss": 0.5, "one": 1.0, "two": 2.0}, {}),
        ({"loss": 0.5, "mae": 1e101}, {}),
        ({"loss": 0.5}, {}),
    ],
)
def test_the_main_metric_of_an_update(metrics: dict[str, float], expected: dict[str, Value]) -> None:
    told = update("d1", metrics=metrics)
    point = condensed([Judged(Merge(1.0, 0), told, 7, "d1", b"x")]).points()[0]
    assert {name: point.fields[name] for name in ("metric", "metric_name", "is_share") if name in point.fields} == (
        expected
    )
    assert set(point.fields) <= {field.name for field in MEASUREMENTS["fedkd_update"].fields}, "devices name no fields"


def test_a_sum_has_the_mean_of_the_most_frequent_main_metric() -> None:
    names = ["mae"] * SINGLE_UPDATES_MAX + ["mae", "odd", "mae"]
    batch = [
        Judged(Merge(1.0, 0), update("d1", metrics={"loss": 1.0, name: float(number)}), 7, "d1", b"x")
        for number, name in enumerate(names)
    ]
    rest = condensed(batch).points()[-1]
    assert (rest.fields["updates"], rest.fields["metric_name"], rest.fields["metric"]) == (3, "mae", 9.0)
