"""What the observer makes of each message, and over a real link what it says of a broker."""

import socket

import numpy as np
import pytest

from simulators.audit.observer import Observations, Observer, Unreachable, subscriptions
from tests.waiting import eventually
from wire_contract import codec, topics
from wire_contract.encoding import encode_vector
from wire_contract.layout import Layout, TensorSpec
from wire_contract.link.memory import MemoryBroker, MemoryLink
from wire_contract.link.mqtt import MqttLink, MqttSettings
from wire_contract.messages import AggregatorStatus, Evaluation, Manifest, Update

ROOT, TASK = "fedkd/test", "physiotherapy"
STUDENT = Layout((TensorSpec("weight", (3, 2)), TensorSpec("bias", (3,))))


def observations() -> Observations:
    return Observations(root=ROOT, student=STUDENT)


def topic(kind: topics.Kind, **parts: str | int) -> str:
    return topics.build(kind, root=ROOT, task=TASK, **parts)


def update(sequence: int, layout: Layout = STUDENT) -> bytes:
    return codec.encode(
        Update(
            task=TASK,
            device="person-03",
            incarnation=b"12345678",
            sequence=sequence,
            base_version=0,
            base_digest=bytes(32),
            layout_fingerprint=layout.fingerprint,
            samples=5,
            local_steps=1,
            train_seconds=0.1,
            tensors=encode_vector(np.ones(layout.size, dtype=np.float32), layout, "int8"),
        )
    )


def manifest(version: int) -> bytes:
    return codec.encode(
        Manifest(
            task=TASK,
            version=version,
            parent=None,
            digest=bytes(32),
            layout_fingerprint=STUDENT.fingerprint,
            encoding="float16",
            size_bytes=10,
            chunk_digests=(),
            update_bytes_max=1_000,
            published_at=0.0,
        )
    )


def test_bytes_are_counted_by_kind_and_device() -> None:
    seen = observations()
    first, second = update(1), update(2)
    for payload in (first, second, second):
        seen.take(topic("update", shard=0, device="person-03"), payload, 1.0)
    seen.take(topic("chunk", version=1, chunk=0), b"x" * 500, 2.0)
    assert seen.by_kind["update"].messages == 3
    assert seen.by_kind["update"].size_bytes == len(first) + 2 * len(second)
    assert seen.by_device["person-03"]["update"].size_bytes == len(first) + 2 * len(second)
    assert (seen.largest_bytes, seen.largest_kind) == (500, "chunk")
    assert (seen.numbers_max, seen.foreign_updates) == (9, 0)


def test_an_update_of_another_network_is_foreign() -> None:
    seen = observations()
    larger = Layout((TensorSpec("weight", (300, 2)), TensorSpec("bias", (3,))))
    seen.take(topic("update", shard=0, device="person-03"), update(1, larger), 1.0)
    assert seen.foreign_updates == 1


def test_versions_evaluations_and_status() -> None:
    seen = observations()
    for at, version in enumerate((0, 2, 1, 2)):
        seen.take(topic("model"), manifest(version), float(at))
    evaluation = Evaluation(
        task=TASK, device="evaluator", version=2, digest=bytes(32), samples=7, metrics={"accuracy": 0.5}
    )
    seen.take(topic("evaluation", device="evaluator"), codec.encode(evaluation), 5.0)
    status = AggregatorStatus(status="online", version=2, counters={"merged": 3})
    seen.take(topic("aggregator", shard=0), codec.encode(status), 8.0)
    assert seen.version == 2
    assert [(one.version, one.at, one.metrics) for one in seen.evaluations] == [(2, 5.0, {"accuracy": 0.5})]
    assert seen.aggregator == status


def test_what_is_retained_is_remembered_until_it_is_deleted() -> None:
    seen = observations()
    seen.take(topic("chunk", version=1, chunk=0), b"x", 1.0)
    seen.take(topic("chunk", version=2, chunk=0), b"x", 2.0)
    seen.take(topic("delta", version=2), b"xy", 2.0)
    seen.take(topic("chunk", version=1, chunk=0), b"", 3.0)
    assert set(seen.retained) == {topic("chunk", version=2, chunk=0), topic("delta", version=2)}
    assert seen.by_kind["delta"].size_bytes == 2
    assert seen.by_kind["chunk"].messages == 2


def test_foreign_topics_and_broken_payloads_change_nothing() -> None:
    seen = observations()
    seen.take("fedkd/other/physiotherapy/model", manifest(9), 1.0)
    seen.take(topic("model"), b"not a message", 1.0)
    assert seen.version == -1
    assert seen.by_kind["model"].size_bytes == len(b"not a message")


def test_it_sees_what_goes_over_a_link_and_cleans_up() -> None:
    broker = MemoryBroker()
    writer = MemoryLink(broker, "writer")
    link = MemoryLink(broker, "observer", subscriptions=subscriptions(root=ROOT, task=TASK))
    observer = Observer(link, observations())
    observer.await_connection(60.0)
    writer.publish(topic("model"), manifest(3), retain=True)
    eventually(lambda: observer.observations.version == 3)
    observer.delete_retained()
    eventually(lambda: not observer.observations.retained)
    observer.close()
    assert observer.failure is None


def test_no_broker_is_one_line_within_the_given_time() -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        port = unused.getsockname()[1]
        settings = MqttSettings(host="127.0.0.1", port=port, client_id="observer", close_seconds_max=0.1)
        observer = Observer(MqttLink(settings), observations())
        eventually(lambda: "cannot be reached" in observer._reason)
        with pytest.raises(Unreachable, match=r"no broker within 0\.3 s.*cannot be reached"):
            observer.await_connection(0.3)
        observer.close()
