"""A device whose updates are thrown away in silence says what the causes may be, once, and goes on trying."""

import time
from pathlib import Path

import pytest

from device_client.uplink.missing_receipts import SENDINGS, MissingReceipts
from tests.conftest import MakeMosquitto
from tests.device_client.stage import DEVICE, ROOT, TASK, Stage, model
from tests.wire_contract.link.link_contract import PATIENCE_SECONDS, connection
from wire_contract import codec, topics
from wire_contract.link.memory import MemoryLink
from wire_contract.link.mqtt import MqttLink, MqttSettings
from wire_contract.link.protocol import Delivery
from wire_contract.messages import AggregatorStatus

STATUS = topics.build("aggregator", root=ROOT, task=TASK, shard=0)
UPDATE = topics.build("update", root=ROOT, task=TASK, shard=0, device=DEVICE)


@pytest.fixture
def stage(tmp_path: Path) -> Stage:
    stage = Stage(tmp_path)
    stage.aggregator.publish(model(1))
    stage.aggregator.answering = False
    return stage


def said(stage: Stage) -> list[str]:
    return [fields["message"] for fields in stage.told("warning")]


def tell_status(stage: Stage, payload: bytes) -> None:
    stage.aggregator.link.publish(STATUS, payload, retain=True)


@pytest.mark.parametrize(
    ("status", "expected"),
    [
        ("online", ": an aggregator is running, so most likely the broker does not allow this user to publish"),
        ("offline", ": the aggregator is not running; updates wait for it and nothing is lost"),
        (
            None,
            f": either no aggregator is running for task {TASK} below {ROOT}, or the broker does not allow this user",
        ),
    ],
)
def test_the_likely_cause_is_told_once(stage: Stage, status: str | None, expected: str) -> None:
    if status is not None:
        tell_status(stage, codec.encode(AggregatorStatus(status=status, version=1)))
    stage.run_for(3_600)
    (message,) = said(stage)
    assert message.startswith(f"sent {SENDINGS} times without a receipt although connected{expected}")
    assert len(stage.told("sent")) > SENDINGS


def test_a_status_that_cannot_be_read_says_nothing(stage: Stage) -> None:
    tell_status(stage, b"\0")
    stage.run_for(600)
    assert "either no aggregator is running" in said(stage)[0]


def test_it_is_told_again_when_it_happens_again(stage: Stage) -> None:
    stage.run_for(600)
    stage.aggregator.answering = True
    stage.run(lambda: bool(stage.aggregator.merged or stage.aggregator.duplicates) and bool(stage.told("receipt")))
    stage.aggregator.answering = False
    stage.run_for(3_600)
    assert len(said(stage)) == 2


def test_nobody_listens_to_the_status_after_it_was_asked(stage: Stage) -> None:
    """It is up to 24 KiB, and comes every two seconds."""
    status = codec.encode(AggregatorStatus(status="online", version=1))
    stage.at_turn = lambda: tell_status(stage, status)
    stage.run_for(600)
    assert stage.link is not None
    heard = [delivery for delivery in stage.link.acked if delivery.topic == STATUS]
    assert 1 <= len(heard) <= 2


def test_what_a_killed_program_listened_to_is_left_at_the_next_message(stage: Stage) -> None:
    status = codec.encode(AggregatorStatus(status="online", version=1))
    stage.run_for(0)
    assert stage.link is not None
    link = MemoryLink(stage.broker, DEVICE, subscriptions=(STATUS,))
    link.receive(count=10, timeout_seconds=0)
    link.die("the process was killed")
    stage.at_turn = lambda: tell_status(stage, status)
    stage.run_for(20)
    assert len([delivery for delivery in stage.link.acked if delivery.topic == STATUS]) <= 2


def test_receipts_that_come_and_short_connections_are_no_silence(stage: Stage) -> None:
    stage.aggregator.answering = True
    stage.run_for(3_600)
    assert said(stage) == []
    stage.aggregator.answering = False
    for _ in range(SENDINGS + 1):
        stage.run_for(40)  # each begins anew
    assert said(stage) == []


@pytest.mark.parametrize("protocol", ["3.1.1", "5"])
def test_a_real_broker_that_throws_updates_away(make_mosquitto: MakeMosquitto, tmp_path: Path, protocol: str) -> None:
    access = tmp_path / "access"
    access.write_text(f"topic readwrite {STATUS}\n")
    broker = make_mosquitto(lines=[f"acl_file {access}"])
    broker.start()
    link = MqttLink(MqttSettings(host="127.0.0.1", port=broker.port, client_id="d", protocol=protocol))  # type: ignore[arg-type]
    messages: list[str] = []
    missing_receipts = MissingReceipts(
        link,
        root=ROOT,
        task=TASK,
        device=DEVICE,
        monotonic=lambda: 0.0,  # so that only an answer ends the waiting
        emit=lambda _event, **fields: messages.append(str(fields["message"])),
    )
    try:
        connection(link)
        assert link.publish(STATUS, codec.encode(AggregatorStatus(status="online", version=1)), retain=True).wait(60)
        for _ in range(SENDINGS):
            link.publish(UPDATE, b"thrown away")
            missing_receipts.sent(0)
        deadline = time.monotonic() + PATIENCE_SECONDS
        while not messages:
            assert time.monotonic() < deadline
            for event in link.receive(count=10, timeout_seconds=0.2):
                if isinstance(event, Delivery):
                    missing_receipts.heard(event.topic, event.payload)
            missing_receipts.look()
    finally:
        link.close()
    assert "an aggregator is running, so most likely the broker does not allow this user to publish" in messages[0]
