"""The summary in the status: what it counts, how large it gets, how often it goes out, what a restart still knows."""

import string
from collections.abc import Iterator
from pathlib import Path

import pytest
from msgspec import UNSET
from msgspec.structs import replace

from aggregator.admission import Duplicate, Merge, Refuse
from aggregator.ledger.reading import read_history
from aggregator.status import VERSIONS_KEPT, StatusHistory, Tally
from tests.aggregator.stage import STATUS, Stage
from tests.aggregator.synthetic import ROOT, T0, TASK, judged
from wire_contract.codec import decode, encode
from wire_contract.errors import DecodeError
from wire_contract.limits import KIB, NAME_CHARACTERS_MAX, SUMMARY_DEVICES_MAX, SUMMARY_EVALUATIONS_MAX
from wire_contract.main_metric import ACCURACY, MainMetric
from wire_contract.messages import AggregatorStatus, Evaluation
from wire_contract.summary import MeasuredAccuracy, MeasuredVersion, SeenDevice, StalenessBucket, Summary
from wire_contract.topics import build

STATUS_BYTES_MAX = 24 * KIB
MAE = MainMetric("mae", higher_is_better=False)


def evaluation(version: int, value: float, *, judge: str = "judge", main: MainMetric = ACCURACY) -> Evaluation:
    return Evaluation(
        task=TASK,
        device=judge,
        version=version,
        digest=bytes(32),
        samples=10,
        metrics={"loss": 1.0, main.name: value},
        declared=main,
    )


def updates_by_bucket(summary: Summary) -> dict[int, int]:
    return {bucket.least: bucket.updates for bucket in summary.staleness if bucket.updates}


def test_each_outcome_is_counted_where_it_belongs() -> None:
    tally = Tally(StatusHistory(), now=100.0)
    tally.judged([judged("a", Merge(1.0, 0), size_bytes=10)], at=101.0)
    tally.judged([judged("b", Merge(0.5, 7), size_bytes=10)], at=102.0)
    tally.judged([judged("a", Duplicate(), size_bytes=10)], at=103.0)
    tally.judged([judged("c", Refuse("norm", ""), size_bytes=10)], at=104.0)
    tally.judged([judged(None, Refuse("malformed", ""), size_bytes=10)], at=105.0)
    summary = tally.summary(now=106.0, bytes_down=7)
    assert summary.devices == (
        SeenDevice("c", "refused", 0, 104.0, 0),
        SeenDevice("a", "duplicate", 0, 103.0, 1),
        SeenDevice("b", "merged", 7, 102.0, 1),
    )
    assert updates_by_bucket(summary) == {0: 1, 5: 1}
    assert (summary.updates_per_minute, summary.bytes_up, summary.bytes_down) == (2, 50, 7)
    assert (summary.at, summary.since) == (106.0, 100.0)


def test_every_staleness_has_one_bucket() -> None:
    for staleness, least in [(0, 0), (4, 4), (5, 5), (8, 5), (9, 9), (128, 65), (129, 129), (10**9, 129)]:
        tally = Tally(StatusHistory(), now=0.0)
        tally.judged([judged("a", Merge(1.0, staleness), size_bytes=1)], at=0.0)
        assert updates_by_bucket(tally.summary(now=0.0, bytes_down=0)) == {least: 1}


def test_the_rate_is_of_the_last_minute() -> None:
    tally = Tally(StatusHistory(), now=0.0)
    for second in range(600):
        tally.judged([judged("a", Merge(1.0, 0), size_bytes=1)], at=float(second))
    assert tally.summary(now=600.0, bytes_down=0).updates_per_minute == 59
    assert tally.summary(now=630.0, bytes_down=0).updates_per_minute == 29
    assert tally.summary(now=700.0, bytes_down=0).updates_per_minute == 0
    assert len(tally._merged_in_second) == 0


def test_only_the_newest_evaluations_and_those_whose_moment_is_known() -> None:
    tally = Tally(StatusHistory(), now=0.0)
    for version in range(2_000):
        tally.committed(version, at=float(version))
        tally.evaluated(evaluation(version, 0.5))
    tally.evaluated(evaluation(1_999, 0.75))
    tally.evaluated(evaluation(1_999, 0.25, judge="other"))
    tally.evaluated(evaluation(1_999 - VERSIONS_KEPT, 1.0))
    tally.evaluated(evaluation(5_000, 1.0))
    for odd in (float("nan"), -0.1, 1.1):
        tally.evaluated(evaluation(1_998, odd))
    told = tally.summary(now=0.0, bytes_down=0).evaluations
    assert told[:3] == (
        MeasuredVersion(1_999, "other", 0.25, 1_999.0),
        MeasuredVersion(1_999, "judge", 0.75, 1_999.0),
        MeasuredVersion(1_998, "judge", 0.5, 1_998.0),
    )
    assert len(told) == SUMMARY_EVALUATIONS_MAX
    assert len(tally._evaluations) <= 2 * SUMMARY_EVALUATIONS_MAX
    assert len(tally._committed_at) == VERSIONS_KEPT


def test_the_summary_is_by_the_main_metric_of_the_newest_evaluated_version() -> None:
    tally = Tally(StatusHistory(), now=0.0)
    for version in range(5):
        tally.committed(version, at=float(version))
    tally.evaluated(evaluation(1, 0.5))
    tally.evaluated(evaluation(2, 1_830.0, main=MAE))
    tally.evaluated(evaluation(3, -0.5, main=MAE))
    summary = tally.summary(now=0.0, bytes_down=0)
    assert summary.main == MAE
    assert summary.evaluations == (MeasuredVersion(3, "judge", -0.5, 3.0), MeasuredVersion(2, "judge", 1_830.0, 2.0))
    assert summary.accuracies == (), "a program of the first release takes these for accuracies"
    tally.evaluated(evaluation(1, 0.25, judge="late"))
    assert tally.summary(now=0.0, bytes_down=0).main == MAE, "of the newest version, not of the newest message"
    tally.evaluated(evaluation(4, 0.75))
    summary = tally.summary(now=0.0, bytes_down=0)
    assert (summary.main, [told.value for told in summary.evaluations]) == (ACCURACY, [0.75, 0.25, 0.5])
    assert summary.declared is summary.measured is UNSET, "the bytes are those of the first release"


def test_values_that_no_axis_can_show_are_not_in_the_summary() -> None:
    tally = Tally(StatusHistory(), now=0.0)
    tally.committed(0, at=0.0)
    for odd in (float("nan"), float("inf"), 1.1e100):
        tally.evaluated(evaluation(0, odd, main=MAE))
    told = Evaluation(
        task=TASK, device="judge", version=0, digest=bytes(32), samples=1, metrics={"loss": 1.0}, declared=MAE
    )
    tally.evaluated(told)
    assert tally.summary(now=0.0, bytes_down=0).evaluations == ()
    assert tally.summary(now=0.0, bytes_down=0).main == ACCURACY


@pytest.mark.parametrize("main", [ACCURACY, MainMetric("m" * NAME_CHARACTERS_MAX, higher_is_better=False)])
def test_the_largest_status_stays_below_its_limit(main: MainMetric) -> None:
    letters = (string.ascii_letters + string.digits) * 2
    names = [(letters[n % 62 :] + letters)[: NAME_CHARACTERS_MAX - 4] + f"{n:04}" for n in range(500)]
    tally = Tally(StatusHistory(bytes_up=500 * 2**40), now=1.7e9)
    for n, name in enumerate(names):
        tally.committed(2**52 + n, at=1.7e9 + n / 7)
        tally.evaluated(evaluation(2**52 + n, 1 / (3 + n), judge=name, main=main))
        tally.judged([judged(name, Merge(1.0, 2**40))], at=1.7e9 + n / 7)
        tally.judged([judged(name, Duplicate())], at=1.7e9 + n / 7)
    summary = tally.summary(now=1.7e9 + 100, bytes_down=2**50)
    assert (len(summary.evaluations), len(summary.devices)) == (SUMMARY_EVALUATIONS_MAX, SUMMARY_DEVICES_MAX)
    counters = dict.fromkeys(("merged", "duplicate", "refused", "devices"), 2**53)
    status = AggregatorStatus(status="online", version=2**53, counters=counters, summary=summary)
    assert len(encode(status)) < STATUS_BYTES_MAX
    assert decode(encode(status), AggregatorStatus) == status


@pytest.mark.parametrize(
    "summary",
    [
        Summary(at=float("inf"), since=0.0),
        Summary(at=0.0, since=0.0, accuracies=(MeasuredAccuracy(1, "judge", 0.5, float("inf")),)),
        Summary(at=0.0, since=0.0, accuracies=(MeasuredAccuracy(1, "judge", 1.5, 0.0),)),
        Summary(at=0.0, since=0.0, declared=MAE, measured=(MeasuredVersion(1, "judge", 0.5, float("inf")),)),
        Summary(at=0.0, since=0.0, declared=MAE, measured=(MeasuredVersion(1, "judge", float("nan"), 0.0),)),
        Summary(at=0.0, since=0.0, declared=MAE, measured=(MeasuredVersion(1, "judge", -1.1e100, 0.0),)),
        Summary(at=0.0, since=0.0, declared=MainMetric("m" * 65, higher_is_better=True)),
        Summary(at=0.0, since=0.0, declared=MainMetric("", higher_is_better=True)),
        Summary(at=0.0, since=0.0, devices=(SeenDevice("a", "merged", 0, float("inf"), 1),)),
        Summary(at=0.0, since=0.0, devices=(SeenDevice("a/b", "merged", 0, 0.0, 1),)),
        Summary(at=0.0, since=0.0, staleness=(StalenessBucket(0, 1),) * 17),
        Summary(at=0.0, since=0.0, updates_per_minute=-1),
    ],
)
def test_a_summary_out_of_its_limits_is_refused(summary: Summary) -> None:
    with pytest.raises(DecodeError):
        decode(encode(AggregatorStatus(status="online", version=0, summary=summary)), AggregatorStatus)


@pytest.fixture
def stage(tmp_path: Path) -> Iterator[Stage]:
    made = Stage(tmp_path / "ledger.sqlite3")
    yield made
    made.ledger.close()


def taught(stage: Stage, main: MainMetric = ACCURACY) -> Summary:
    """Three versions, all evaluated, and what the status says of them."""
    for version in range(1, 4):
        stage.teach(1)
        told = evaluation(version, version / 10, judge="evaluator", main=main)
        told = replace(told, digest=stage.line.release.published.digest)
        stage.mailbox.publish(build("evaluation", root=ROOT, task=TASK, device="evaluator"), encode(told))
        stage.step()
        stage.now += 2.0
    stage.send(stage.device("a"), base_digest=bytes(32))
    stage.step()
    return summary_of(stage)


def summary_of(stage: Stage) -> Summary:
    assert stage.status.summary is not None
    return stage.status.summary


@pytest.mark.parametrize("main", [ACCURACY, MAE])
def test_the_status_tells_the_history_and_goes_on_after_a_restart(stage: Stage, main: MainMetric) -> None:
    before = taught(stage, main)
    assert before.main == main
    assert [(told.version, told.value) for told in before.evaluations] == [(3, 0.3), (2, 0.2), (1, 0.1)]
    assert [told.at for told in before.evaluations] == [T0 + 1_004.0, T0 + 1_002.0, T0 + 1_000.0]
    assert [(seen.device, seen.outcome, seen.merged) for seen in before.devices] == [
        ("a", "refused", 3),
        ("b", "merged", 3),
    ]
    stage.crash()
    stage.now += 5.0
    history = read_history(stage.path, now=T0 + stage.now)
    assert Tally(history, now=T0 + stage.now).summary(now=T0 + stage.now, bytes_down=0).evaluations
    stage.start(history=history)
    stage.step()
    after = summary_of(stage)
    assert (after.main, after.evaluations) == (main, before.evaluations)
    assert after.staleness == before.staleness
    assert after.devices == before.devices
    assert after.updates_per_minute == before.updates_per_minute == 6
    assert after.since > before.since
    refused_bytes = before.bytes_up - after.bytes_up
    assert 0 < refused_bytes < after.bytes_up, "the ledger has the bytes of merged updates only"


def test_statuses_are_bounded_in_number_and_the_last_word_comes(stage: Stage) -> None:
    stage.step()
    seen: list[bytes] = []
    for _ in range(20):  # ten versions a second
        stage.teach(1)
        stage.now += 0.1
        if stage.broker.retained[STATUS] not in seen:
            seen.append(stage.broker.retained[STATUS])
    assert len(seen) <= 2
    stage.now += 2.0
    stage.step()
    assert stage.status.version == stage.line.version == 20
    quiet = stage.broker.retained[STATUS]
    stage.now += 2.0
    stage.step()
    assert stage.broker.retained[STATUS] == quiet, "nothing new, nothing said"
    stage.now += 120.0
    stage.step()
    assert summary_of(stage).updates_per_minute == 0
