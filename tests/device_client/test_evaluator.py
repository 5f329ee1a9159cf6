"""The evaluator measures every newest version once, tells it, and never sends anything else."""

import json
from typing import Any

import numpy as np
import pytest

from device_client.downlink import no_model_warning
from device_client.downlink.line_check import OwnLine
from device_client.downlink.model_feed import ModelFeed, models_only
from device_client.evaluator import Evaluator, Measured, publishable
from device_client.events import EVENTS
from device_client.presence import will
from tests.wire_contract.announcements import announce
from wire_contract import codec, topics
from wire_contract.encoding import EncodingName
from wire_contract.errors import LayoutError, LineMismatch, LinkError
from wire_contract.layout import Layout, TensorSpec
from wire_contract.limits import CHUNK_BYTES_MAX
from wire_contract.line_description import LineDescription, describe
from wire_contract.link.memory import MemoryBroker, MemoryLink
from wire_contract.main_metric import ACCURACY, MainMetric
from wire_contract.messages import Evaluation, Presence
from wire_contract.program.command_settings import UsageError
from wire_contract.publication.manifest import Announcement, PublishedVersion

ROOT, TASK, DEVICE = "fedkd/v1", "har", "judge"
OWN, OTHER = describe(("sit", "lie"), {}), describe(("lie", "sit"), {})
SMALL = Layout((TensorSpec("w", (3,)),))
LARGE = Layout((TensorSpec("w", (CHUNK_BYTES_MAX,)),))


def version(
    number: int,
    *,
    layout: Layout = SMALL,
    encoding: EncodingName = "float32",
    description: LineDescription | None = None,
) -> Announcement:
    weights = np.random.default_rng(number).normal(size=layout.size).astype(np.float32)
    return announce(
        weights,
        task=TASK,
        version=number,
        parent=number - 1 if number else None,
        layout=layout,
        encoding=encoding,
        shards=1,
        update_bytes_max=1 << 20,
        published_at=1000.0 + number,
        description=description,
    )


def publish(broker: MemoryBroker, made: Announcement, *, last_chunk: bool = True) -> None:
    number = made.published.version
    chunks = list(enumerate(made.chunks))
    for index, chunk in chunks if last_chunk else chunks[:-1]:
        broker.publish(topics.build("chunk", root=ROOT, task=TASK, version=number, chunk=index), chunk, retain=True)
    broker.publish(topics.build("model", root=ROOT, task=TASK), codec.encode(made.manifest), retain=True)


class Bench:
    """An evaluator at a broker in memory, and somebody who hears everything it says."""

    def __init__(self, broker: MemoryBroker, *, link: MemoryLink | None = None, main: MainMetric = ACCURACY) -> None:
        self.broker = broker
        self.ear = MemoryLink(broker, "ear", subscriptions=("#",))
        self.link = link or MemoryLink(
            broker,
            DEVICE,
            subscriptions=models_only(ROOT, TASK),
            will=will(ROOT, TASK, DEVICE, firmware="f"),
        )
        self.measured: list[int] = []
        self.events: list[tuple[str, dict[str, Any]]] = []
        self.metrics = {"accuracy": 0.5}
        self.evaluator = Evaluator(
            task=TASK,
            device=DEVICE,
            root=ROOT,
            link=self.link,
            measure=self.measure,
            emit=self.emit,
            main=main,
            firmware="f",
            heartbeat=lambda *, trouble="": self.beats.append(trouble),
            own_line=OwnLine(task=TASK, description=OWN, program="evaluator"),
        )
        self.beats: list[str] = []

    def measure(self, published: PublishedVersion) -> Measured:
        if published.layout not in {SMALL, LARGE}:
            raise LayoutError("weights: of another task")
        self.measured.append(published.version)
        return Measured(samples=12, metrics=self.metrics)

    def emit(self, event: str, **fields: object) -> None:
        self.events.append((event, fields))

    def turn(self) -> bool:
        return self.evaluator.turn(0.0)

    def heard(self) -> list[tuple[str, bytes]]:
        """What the evaluator published since the last time."""
        taken = [event for event in self.ear.receive(count=1000, timeout_seconds=0) if hasattr(event, "topic")]
        return [(d.topic, d.payload) for d in taken if "/model" not in d.topic]

    def presence(self) -> str:
        retained = self.broker.retained[topics.build("presence", root=ROOT, task=TASK, device=DEVICE)]
        return codec.decode(retained, Presence).status


@pytest.fixture
def bench() -> Bench:
    return Bench(MemoryBroker())


def test_a_line_with_other_labels_is_not_measured(bench: Bench) -> None:
    publish(bench.broker, version(0, description=OTHER))
    with pytest.raises(LineMismatch, match=r"this evaluator's classes are \(sit, lie\); the line's are \(lie, sit\)"):
        bench.turn()
    assert bench.measured == []


def test_when_the_line_changes_its_labels_an_evaluator_waits(bench: Bench) -> None:
    publish(bench.broker, version(0, description=OWN))
    assert bench.turn()
    for number in (1, 2):
        publish(bench.broker, version(number, description=OTHER))
        assert not bench.turn()
    assert len([event for event, _ in bench.events if event == "warning"]) == 1
    publish(bench.broker, version(3, description=OWN))
    assert bench.turn()
    assert bench.measured == [0, 3]


def test_each_version_is_measured_told_and_published_once(bench: Bench) -> None:
    for number in (0, 1):
        made = version(number)
        publish(bench.broker, made)
        assert bench.turn()
        assert not bench.turn()
        told = [(topic, codec.decode(payload, Evaluation)) for topic, payload in bench.heard() if "evaluation" in topic]
        ((topic, evaluation),) = told
        assert topic == f"{ROOT}/{TASK}/evaluation/{DEVICE}"
        assert (evaluation.version, evaluation.digest) == (number, made.published.digest)
        assert (evaluation.task, evaluation.device, evaluation.samples) == (TASK, DEVICE, 12)
        assert evaluation.metrics == {"accuracy": 0.5}
    assert bench.measured == [0, 1]
    assert [fields["version"] for event, fields in bench.events if event == "evaluated"] == [0, 1]


def test_of_several_versions_only_the_newest_is_measured(bench: Bench) -> None:
    for number in range(5):
        publish(bench.broker, version(number))
    bench.turn()
    assert bench.measured == [4]


def test_a_model_in_chunks_is_measured_when_it_is_whole(bench: Bench) -> None:
    made = version(3, layout=LARGE)
    assert len(made.chunks) > 1
    publish(bench.broker, made, last_chunk=False)
    assert not bench.turn()
    publish(bench.broker, made)
    assert bench.turn()
    assert bench.measured == [3]


def test_it_says_only_presence_and_evaluations(bench: Bench) -> None:
    publish(bench.broker, version(1))
    bench.evaluator.run(once=True)
    assert {topic.split("/")[3] for topic, _ in bench.heard()} == {"presence", "evaluation"}


def test_presence_on_every_connection_and_at_the_end(bench: Bench) -> None:
    bench.turn()
    assert bench.presence() == "online"
    bench.broker.drop(DEVICE)
    assert bench.presence() == "offline"  # the will
    bench.turn()
    assert bench.presence() == "online"
    bench.broker.stop(lose_state=True)
    bench.broker.start()
    bench.turn()
    assert bench.presence() == "online"
    bench.evaluator.stop()
    bench.evaluator.run(once=False)
    bench.link.close()
    assert bench.presence() == "offline"


def test_once_ends_after_the_first_version_seen(bench: Bench) -> None:
    publish(bench.broker, version(2))
    bench.evaluator.run(once=True)
    assert bench.measured == [2]


def test_what_is_acknowledged_does_not_come_again(bench: Bench) -> None:
    publish(bench.broker, version(1))
    bench.turn()
    assert not bench.broker._sessions[DEVICE].in_flight
    bench.broker.drop(DEVICE)
    bench.turn()  # the retained manifest comes again with the new connection
    assert bench.measured == [1]


def test_a_foreign_layout_is_a_warning_and_the_next_version_counts(bench: Bench) -> None:
    foreign = Layout((TensorSpec("v", (2,)),))
    publish(bench.broker, version(1, layout=foreign))
    assert not bench.turn()
    assert ("warning", {"message": "model 1: weights: of another task"}) in bench.events
    publish(bench.broker, version(2))
    assert bench.turn()
    publish(bench.broker, version(3, layout=foreign))
    with pytest.raises(LayoutError):
        bench.evaluator.run(once=True)


def test_broken_messages_are_warnings(bench: Bench) -> None:
    bench.broker.publish(topics.build("model", root=ROOT, task=TASK), b"nonsense", retain=True)
    bench.broker.publish(topics.build("model", root=ROOT, task=TASK), b"", retain=True)
    assert not bench.turn()
    assert [event for event, _ in bench.events].count("warning") == 1
    publish(bench.broker, version(1))
    assert bench.turn()


def test_messages_of_an_older_subscription_are_thrown_away() -> None:
    broker = MemoryBroker()
    bench = Bench(broker, link=MemoryLink(broker, DEVICE, subscriptions=("#",)))
    broker.publish("elsewhere", b"x")
    publish(broker, version(1))
    assert bench.turn()
    assert not bench.turn()


def test_a_refusal_ends_it_only_before_the_first_connection() -> None:
    broker = MemoryBroker()
    broker.refuse(DEVICE)
    with pytest.raises(UsageError, match="Not authorized"):
        Bench(broker).turn()
    broker.accept(DEVICE)
    bench = Bench(broker)
    bench.turn()
    broker.refuse(DEVICE)
    assert not bench.turn()
    broker.accept(DEVICE)
    publish(broker, version(1))
    assert bench.turn()


def test_an_absent_broker_is_told_once(bench: Bench) -> None:
    bench.turn()
    bench.broker.stop()
    for _ in range(5):
        bench.turn()
    reasons = [fields["reason"] for event, fields in bench.events if event == "disconnected"]
    assert len(reasons) == len(set(reasons)) > 0
    assert bench.beats[-1] == f"no connection to the broker: {reasons[0]}", "live, and not ready"


def test_a_link_that_died_ends_it(bench: Bench) -> None:
    bench.link.die()
    with pytest.raises(LinkError):
        bench.evaluator.run(once=False)


def test_metrics_that_the_contract_does_not_take_stay_here(bench: Bench) -> None:
    bench.metrics = {"accuracy": 0.25, "loss": float("nan")} | {f"recall_{index}": 1.0 for index in range(400)}
    publish(bench.broker, version(1))
    bench.turn()
    (payload,) = [payload for topic, payload in bench.heard() if "evaluation" in topic]
    metrics = codec.decode(payload, Evaluation).metrics
    assert metrics["accuracy"] == 0.25
    assert "loss" not in metrics
    assert publishable({"inf": float("inf")}) == {}


def test_the_main_metric_is_declared_and_comes_first() -> None:
    bench = Bench(MemoryBroker(), main=MainMetric("mae", higher_is_better=False))
    bench.metrics = {f"error_{index}": 1.0 for index in range(400)} | {"mae": 0.213}
    publish(bench.broker, version(1))
    bench.turn()
    (payload,) = [payload for topic, payload in bench.heard() if "evaluation" in topic]
    evaluation = codec.decode(payload, Evaluation)
    assert (evaluation.main, evaluation.main_value) == (MainMetric("mae", higher_is_better=False), 0.213)
    (fields,) = [fields for name, fields in bench.events if name == "evaluated"]
    assert EVENTS["evaluated"].text(fields).startswith("model 1: mae 0.213 (lower is better), error_0 1, ")
    assert json.loads(json.dumps(fields))["main_metric"] == "mae"


def test_accuracy_needs_no_explanation(bench: Bench) -> None:
    bench.metrics = {"a": 1.0, "accuracy": 0.5}
    publish(bench.broker, version(1))
    bench.turn()
    (fields,) = [fields for name, fields in bench.events if name == "evaluated"]
    assert EVENTS["evaluated"].text(fields) == "model 1: accuracy 0.5, a 1"


def test_the_feed_knows_why_there_is_no_connection() -> None:
    broker = MemoryBroker()
    broker.stop()
    events: list[str] = []
    link = MemoryLink(broker, "x", subscriptions=models_only(ROOT, TASK))
    feed = ModelFeed(link, task=TASK, root=ROOT, emit=lambda event, **_: events.append(event))
    assert feed.newest(timeout_seconds=0.0) is None
    assert "cannot be reached" in (feed.trouble or "")
    broker.start()
    publish(broker, version(4))
    newest = feed.newest(timeout_seconds=0.0)
    assert newest is not None
    assert newest.published.version == 4
    assert feed.trouble is None


def test_it_says_once_what_it_is_waiting_for(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(no_model_warning, "WAIT_SECONDS", 0.0)
    for _ in range(5):
        bench.turn()
    (said,) = [str(fields["message"]) for name, fields in bench.events if name == "warning"]
    assert f"no usable manifest is retained on {ROOT}/{TASK}/model" in said
