"""What the service does is on record, point for point, and telemetry never changes what it does."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from aggregator.telemetry.collecting import Telemetry
from aggregator.telemetry.condensing import SINGLE_UPDATES_MAX
from aggregator.telemetry.lines import LineWriter, Point
from aggregator.telemetry.participation import Activity
from aggregator.telemetry.recording import GAUGE_SECONDS, Recording
from aggregator.telemetry.schema import COHORTS_MAX, MEASUREMENTS, OTHER_METRICS_MAX, RECALL_CLASSES_MAX
from aggregator.telemetry.spool import Spool
from tests.aggregator.stage import Stage
from tests.aggregator.synthetic import (
    CHUNKED,
    LAYOUT,
    ROOT,
    SETTINGS,
    TASK,
    SyntheticDevice,
    identities,
    newest_weights,
)
from tests.aggregator.telemetry.points import series_max
from wire_contract.codec import encode
from wire_contract.layout import Layout
from wire_contract.main_metric import ACCURACY, MainMetric
from wire_contract.messages import Evaluation
from wire_contract.topics import build

MAIN_FIELDS = ("metric", "metric_name", "higher_is_better", "is_share", "score")


class Recorded:
    """A stage whose service records into a list."""

    def __init__(self, path: Path, layout: Layout = LAYOUT) -> None:
        self.points: list[Point] = []
        self.contributions: list[Activity] = []
        self.stage = Stage(path, replace(SETTINGS, updates_per_version=3), layout)
        self.stage.service._reporter.recording = Recording(
            self.record, queue_depth=lambda: self.stage.link.waiting, traffic=lambda: self.stage.link.traffic
        )

    def record(self, points: Sequence[Point], contributions: Sequence[Activity] = ()) -> None:
        self.points += points
        self.contributions += contributions

    def of(self, measurement: str) -> list[Point]:
        return [point for point in self.points if point.measurement == measurement]

    def evaluate(self, device: str, main: MainMetric = ACCURACY, /, **metrics: float) -> None:
        line = self.stage.line
        told = Evaluation(
            task=TASK,
            device=device,
            version=line.version,
            digest=line.release.published.digest,
            samples=50,
            metrics=metrics,
            declared=main,
        )
        self.stage.mailbox.publish(build("evaluation", root=ROOT, task=TASK, device=device), encode(told))


@pytest.fixture
def recorded(tmp_path: Path) -> Iterator[Recorded]:
    one = Recorded(tmp_path / "ledger.sqlite3")
    yield one
    one.stage.ledger.close()


def test_outcomes_are_points(recorded: Recorded) -> None:
    stage = recorded.stage
    difference = np.full(stage.layout.size, 0.5, dtype=np.float32)
    merged = stage.send(
        stage.device("a"),
        difference=difference,
        metrics={"loss": 0.5, "accuracy": 0.75, "battery_percent": 42.0, "colour": 3.0},
        train_seconds=1.5,
        local_steps=4,
    )
    stage.send(stage.device("a"), merged)
    stage.send(stage.device("b"), base_digest=bytes(32))
    junk = stage.send(stage.device("c"), b"junk")
    stage.step()
    first, twice, strange, unread = recorded.of("fedkd_update")
    assert first.tags == ("merged", "none")
    assert first.fields == {
        "device": "a",
        "updates": 1,
        "version": 0,
        "base_version": 0,
        "staleness": 0,
        "staleness_max": 0,
        "weight": 1.0,
        "norm": pytest.approx(0.5 * stage.layout.size**0.5),
        "norm_max": pytest.approx(0.5 * stage.layout.size**0.5),
        "bytes": len(merged),
        "samples": 10,
        "local_steps": 4,
        "train_seconds": 1.5,
        "loss": 0.5,
        "accuracy": 0.75,
        "battery_percent": 42.0,
        "metric": 0.75,
        "metric_name": "accuracy",
        "is_share": True,
    }
    assert twice.tags == ("duplicate", "none")
    assert strange.tags == ("refused", "unknown_base")
    assert unread.tags == ("refused", "malformed")
    assert unread.fields == {"device": "c", "updates": 1, "version": 0, "bytes": len(junk)}
    assert recorded.contributions == [("a", 1.0), ("a", None), ("b", None), ("c", None)]
    (batch,) = recorded.of("fedkd_batch")
    counts = {name: batch.fields[name] for name in ("deliveries", "merged", "duplicate", "refused", "evaluations")}
    assert counts == {"deliveries": 4, "merged": 1, "duplicate": 1, "refused": 2, "evaluations": 0}
    assert batch.fields["bytes"] == sum(int(point.fields["bytes"]) for point in recorded.of("fedkd_update"))
    assert recorded.points.index(batch) == recorded.points.index(unread) + 1, "after what it is about"


def test_what_was_refused_before_is_a_duplicate(recorded: Recorded) -> None:
    stage = recorded.stage
    refused = stage.send(stage.device("b"), base_digest=bytes(32))
    stage.step()
    stage.send(stage.device("b"), refused)
    stage.step()
    assert [point.tags for point in recorded.of("fedkd_update")] == [("refused", "unknown_base"), ("duplicate", "none")]


def test_a_version_is_a_point(recorded: Recorded) -> None:
    stage = recorded.stage
    before = newest_weights(stage.path)
    for name in ("a", "b"):
        stage.send(stage.device(name))
    stage.step()
    stage.now += 7.0
    stage.send(stage.device("c"))
    stage.step()
    (point,) = recorded.of("fedkd_version")
    after = newest_weights(stage.path)
    assert point.fields["version"] == stage.line.version == 1
    assert (point.fields["updates"], point.fields["devices"]) == (3, 3)
    assert point.fields["wait_seconds"] == 7.0
    assert point.fields["step_norm"] == pytest.approx(float(np.linalg.norm(after - before)), rel=1e-5)
    assert point.fields["weights_norm"] == pytest.approx(float(np.linalg.norm(after)), rel=1e-5)
    assert ("delta_bytes" in point.fields) or ("snapshot_bytes" in point.fields)


def test_evaluations_have_the_cohort_of_their_evaluator(recorded: Recorded) -> None:
    stage = recorded.stage
    recorded.evaluate("evaluator", accuracy=0.9, loss=0.25, **{"recall_standing still": 0.5, "unknown": 1.0})
    recorded.evaluate("evaluator.slow", accuracy=0.5)
    stage.step()
    first, second = recorded.of("fedkd_evaluation")
    assert first.tags == ("all",)
    assert first.fields == {
        "device": "evaluator",
        "version": 0,
        "versions_behind": 0,
        "samples": 50,
        "accuracy": 0.9,
        "loss": 0.25,
        "recall_standing_still": 0.5,
        "other_unknown": 1.0,
        "metric": 0.9,
        "metric_name": "accuracy",
        "higher_is_better": True,
        "is_share": True,
        "score": 0.9,
    }
    assert second.tags == ("slow",)
    (batch,) = recorded.of("fedkd_batch")
    assert batch.fields["evaluations"] == 2


def test_an_evaluation_by_another_main_metric(recorded: Recorded) -> None:
    recorded.evaluate("evaluator", MainMetric("mean error", higher_is_better=False), loss=0.1, **{"mean error": 1830.5})
    recorded.evaluate("evaluator", MainMetric("macro_f1", higher_is_better=True), macro_f1=0.75)
    recorded.evaluate("evaluator", MainMetric("missing", higher_is_better=True), loss=0.1)
    recorded.stage.step()
    error, share, missing = recorded.of("fedkd_evaluation")
    assert {name: error.fields[name] for name in MAIN_FIELDS} | {"other_mean_error": 1830.5} == {
        "metric": 1830.5,
        "metric_name": "mean error",
        "higher_is_better": False,
        "is_share": False,
        "score": -1830.5,
        "other_mean_error": 1830.5,
    }
    assert "accuracy" not in error.fields
    assert [share.fields[name] for name in MAIN_FIELDS] == [0.75, "macro_f1", True, True, 0.75]
    assert not set(MAIN_FIELDS) & set(missing.fields)


def test_cohorts_classes_and_other_metrics_are_bounded(recorded: Recorded) -> None:
    for number in range(100):
        recorded.evaluate(f"evaluator.c{number}", accuracy=0.5, **{f"recall_{number}": 0.5, f"metric {number}": 0.5})
    recorded.stage.step(2)
    points = recorded.of("fedkd_evaluation")
    assert len(points) == 100
    assert {point.tags[0] for point in points} == {*(f"c{number}" for number in range(COHORTS_MAX)), "other"}
    classes = {name for point in points for name in point.fields if name.startswith("recall_")}
    assert len(classes) == RECALL_CLASSES_MAX
    others = {name for point in points for name in point.fields if name.startswith("other_")}
    assert len(others) == OTHER_METRICS_MAX


def test_how_it_stands_is_told_now_and_then(recorded: Recorded) -> None:
    stage = recorded.stage
    stage.send(stage.device("a"))
    stage.step(5)
    stage.now += GAUGE_SECONDS
    stage.step(5)
    stage.broker.stop()
    stage.now += GAUGE_SECONDS
    stage.step()
    first, second, third = recorded.of("fedkd_aggregator")
    assert first.fields["merged_total"] == first.fields["buffer_updates"] == 1
    assert (first.fields["uptime_seconds"], second.fields["uptime_seconds"]) == (0.0, GAUGE_SECONDS)
    assert int(second.fields["received_messages_total"]) == 3, "its own manifest and probe come back"
    assert int(second.fields["sent_bytes_total"]) > 0
    assert (second.fields["connected"], third.fields["connected"]) == (True, False)


def test_watching_begins_once_the_broker_has_let_the_service_in(tmp_path: Path) -> None:
    stage = Stage(tmp_path / "ledger.sqlite3")
    begun: list[bool] = []
    stage.service._reporter.recording = Recording(lambda *_: None, on_connected=lambda: begun.append(True))
    stage.broker.stop()
    stage.step(3)
    assert not begun
    stage.broker.start()
    stage.step(3)
    stage.broker.drop("aggregator")
    stage.step(3)
    assert begun == [True]
    stage.ledger.close()


def test_a_batch_that_was_given_up_is_told_when_it_comes_again(tmp_path: Path) -> None:
    recorded = Recorded(tmp_path / "ledger.sqlite3", layout=CHUNKED)
    stage = recorded.stage
    stage.step()
    stage.fill_disk()
    stage.send(stage.device("a"))
    stage.on_pause = lambda: setattr(stage, "stopping", True)
    stage.step()
    assert stage.pauses
    assert not recorded.of("fedkd_update")
    stage.free_disk()
    stage.stopping = False
    stage.send(stage.device("b"))
    stage.step()
    assert [point.fields["device"] for point in recorded.of("fedkd_update")] == ["b"]
    assert [one.device for one in recorded.contributions] == ["b"]
    (batch,) = recorded.of("fedkd_batch")
    assert batch.fields["bytes"] == recorded.of("fedkd_update")[0].fields["bytes"]
    stage.ledger.close()


def test_a_large_batch_is_a_sample_and_sums(recorded: Recorded) -> None:
    """The aggregator was away: what its devices sent meanwhile is one batch."""
    stage = recorded.stage
    names = [f"device-{number}" for number in range(60)]
    sent = [stage.send(SyntheticDevice(name)) for name in names]
    sent += [stage.send(SyntheticDevice("stranger"), b"junk")]
    stage.step()
    (batch,) = recorded.of("fedkd_batch")
    assert (batch.fields["merged"], batch.fields["refused"]) == (60, 1)
    points = recorded.of("fedkd_update")
    assert len(points) == SINGLE_UPDATES_MAX + 2
    assert sum(int(point.fields["updates"]) for point in points) == len(sent)
    assert sum(int(point.fields["bytes"]) for point in points) == sum(map(len, sent)) == batch.fields["bytes"]
    assert [point.fields["device"] for point in points if point.tags[0] == "refused"] == ["stranger"]
    assert [one.device for one in recorded.contributions] == [*names, "stranger"]
    writer = LineWriter(task=TASK, shard=0)
    assert all(writer.line(point, 1) for point in points)


def test_everything_is_in_the_schema_and_the_series_are_few(recorded: Recorded) -> None:
    stage = recorded.stage
    for number in range(60):
        device = SyntheticDevice(f"device-{number}")
        stage.send(device)
        recorded.evaluate(f"evaluator-{number}.c{number % 30}", accuracy=0.5)
        if number % 5 == 0:
            stage.step()
    writer = LineWriter(task=TASK, shard=0)
    lines = [writer.line(point, 1) for point in recorded.points]
    assert None not in lines
    assert {point.measurement for point in recorded.points} <= set(MEASUREMENTS)
    assert len({(line or "").split(" ")[0] for line in lines}) <= series_max()


def test_telemetry_that_fails_changes_nothing(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """The same updates with telemetry whose disk, queue and points are broken give the same bits and answers."""
    outcomes = []
    for name in ("with", "without"):
        stage = Stage(tmp_path / f"{name}.sqlite3")
        telemetry = None
        if name == "with":
            spool = Spool(tmp_path / "spool", bytes_max=1 << 16)
            spool._file.close()
            telemetry = Telemetry(spool, task="t", shard=0, points_max=3, flush_seconds=0.05)
            stage.service._reporter.recording = Recording(telemetry.record, queue_depth=lambda: 0)
        stage.teach(5)
        outcomes.append((stage.outcomes(), identities(stage.path), newest_weights(stage.path).tobytes()))
        if telemetry is not None:
            telemetry.close()
        stage.ledger.close()
    assert outcomes[0] == outcomes[1]
    assert outcomes[0][0] == ["merged"] * 10
    assert "telemetry" in caplog.text
