"""What a receipt does to its update, and what happens without one."""

from typing import Any

import msgpack
import numpy as np
import pytest

from aggregator.admission import Refuse
from aggregator.receipts import receipt_for
from device_client.uplink.outbox_rows import payload_digest
from tests.device_client.stage import DEVICE, ROOT, TASK, Stage, model
from wire_contract import codec, topics
from wire_contract.link.protocol import Delivery
from wire_contract.messages import Receipt, Update


def test_a_receipt_is_acknowledged_only_when_its_update_is_gone(stage: Stage) -> None:
    stage.aggregator.publish(model(0))
    waiting_at_ack = []

    def watch() -> None:
        link = stage.link
        assert link is not None
        if hasattr(link, "watched"):
            return
        ack = link.ack

        def look(delivery: Any) -> None:
            if "/receipt/" in delivery.topic:
                waiting_at_ack.append(stage.queued_now())
            ack(delivery)

        link.ack, link.watched = look, True  # type: ignore[method-assign, attr-defined]

    stage.at_turn = watch
    stage.run(lambda: bool(stage.told("receipt")))
    assert waiting_at_ack == [0]


def test_an_update_without_a_receipt_is_sent_again_with_backoff(stage: Stage) -> None:
    stage.aggregator.answering = False
    stage.aggregator.publish(model(0))
    stage.settings["local_rounds_max"] = 1
    stage.run(lambda: len(stage.told("sent")) == 4)
    stage.aggregator.answering = True
    stage.run(lambda: bool(stage.told("receipt")))
    assert [fields["attempt"] for fields in stage.told("sent")] == [1, 2, 3, 4, 5]
    assert stage.merged() == [(1, 0)]


@pytest.mark.parametrize("reason", ["too_stale", "norm", "layout", "signature", "not_finite"])
def test_a_refused_update_is_dropped_with_a_line(stage: Stage, reason: Any) -> None:
    stage.aggregator.refusing = reason
    stage.settings["local_rounds_max"] = 1
    stage.aggregator.publish(model(0))
    stage.run_for(300.0)
    assert stage.queued() == []
    assert stage.aggregator.received == 1
    assert [fields["reason"] for fields in stage.told("receipt")] == [reason]
    (warning,) = stage.told("warning")
    assert reason in warning["message"]
    assert "dropped" in warning["message"]


@pytest.mark.parametrize("answer", [{"o": "refused", "r": "quota", "x": "12 of 12"}, {"o": "postponed", "x": "later"}])
def test_an_answer_of_a_newer_aggregator_ends_the_update(stage: Stage, answer: dict[str, str]) -> None:
    stage.aggregator.answering = False
    stage.settings["local_rounds_max"] = 1
    stage.aggregator.publish(model(0))
    topic = topics.build("receipt", root=ROOT, task=TASK, device=DEVICE)

    def reply() -> None:
        for payload in stage.aggregator.payloads.values():
            update = codec.decode(payload, Update)
            fields = {"i": update.incarnation, "n": update.sequence, "b": 1, "v": 1, **answer}
            stage.broker.publish(topic, codec.frame(msgpack.packb(fields)))

    stage.at_turn = reply
    stage.run(lambda: bool(stage.told("receipt")))
    assert stage.queued() == []
    (warning,) = stage.told("warning")
    assert answer.get("r", answer["o"]) in warning["message"]
    assert answer["x"] in warning["message"]


@pytest.mark.parametrize("reason", ["budget", "too_large", "malformed", "norm", "signature", "too_stale"])
def test_what_a_refused_update_told_is_told_again_unless_it_is_wrong(stage: Stage, reason: Any) -> None:
    stage.settings |= {"local_rounds_max": 3, "retrain_after_seconds": 60.0}
    stage.aggregator.refusing = reason
    stage.aggregator.publish(model(0))

    def look() -> None:
        if stage.told("receipt"):
            stage.aggregator.refusing = None

    stage.at_turn = look
    stage.run(lambda: len(stage.aggregator.merged) == 2 and not stage.queued_now())
    assert [update.sequence for update in stage.aggregator.merged] == [2, 3]
    told = sum(stage.aggregator.difference(update) for update in stage.aggregator.merged)
    first, *later = (stage.trainer.steps[0, number] for number in (1, 2, 3))
    learned = sum(later) + (first if reason in {"budget", "too_large", "malformed"} else 0)
    with stage.outbox() as outbox:
        line = outbox.local_student()
        assert outbox.unmerged() == []
    assert line is not None
    np.testing.assert_allclose(told + line.residual, learned, atol=1e-5)
    assert np.allclose(line.weights, model(0).published.weights + first + sum(later), atol=1e-5)


def test_what_was_not_taken_in_is_told_on_a_newer_model_after_a_restart(stage: Stage) -> None:
    stage.settings["local_rounds_max"] = 1
    stage.aggregator.refusing = "budget"
    stage.aggregator.publish(model(0))
    stage.run(lambda: bool(stage.told("receipt")))
    stage.aggregator.refusing = None
    stage.aggregator.publish(model(1))
    stage.run(lambda: bool(stage.aggregator.merged))
    (update,) = stage.aggregator.merged
    assert (update.sequence, update.base_version) == (2, 1)
    learned = stage.trainer.steps[0, 1] + stage.trainer.steps[1, 1]
    np.testing.assert_allclose(stage.aggregator.difference(update), learned, atol=1e-5)


def test_a_round_that_diverges_keeps_what_was_not_taken_in(stage: Stage) -> None:
    stage.settings["local_rounds_max"] = 3
    stage.aggregator.refusing = "budget"
    stage.trainer.diverge_in = frozenset({(0, 2)})
    stage.aggregator.publish(model(0))

    def look() -> None:
        if stage.told("receipt"):
            stage.aggregator.refusing = None

    stage.at_turn = look
    stage.run(lambda: bool(stage.aggregator.merged))
    (update,) = stage.aggregator.merged
    learned = stage.trainer.steps[0, 1] + stage.trainer.steps[0, 3]
    np.testing.assert_allclose(stage.aggregator.difference(update), learned, atol=1e-5)


def test_a_rate_refusal_keeps_the_update_until_it_is_welcome(stage: Stage) -> None:
    stage.aggregator.refusing = "rate"
    stage.settings["local_rounds_max"] = 1
    stage.aggregator.publish(model(0))
    stage.run(lambda: stage.aggregator.received == 3)
    assert stage.queued() == [1]
    stage.aggregator.refusing = None
    stage.run(lambda: bool(stage.aggregator.merged))
    assert stage.merged() == [(1, 0)]


def test_a_refusal_without_identity_is_matched_by_the_digest_of_the_payload(stage: Stage) -> None:
    stage.aggregator.answering = False
    stage.settings["local_rounds_max"] = 1
    stage.aggregator.publish(model(0))

    def answer() -> None:
        for payload in stage.aggregator.payloads.values():
            if not stage.told("receipt"):
                stage.aggregator.send_receipt(
                    Receipt(outcome="refused", version=0, reason="malformed", payload_digest=payload_digest(payload))
                )

    stage.at_turn = answer
    stage.run(lambda: bool(stage.told("receipt")))
    assert stage.queued() == []


@pytest.mark.parametrize(
    "fields",
    [
        {"incarnation": b"another!", "sequence": 1},
        {"payload_digest": b"no such "},
        {},
        {"incarnation": b"\x01" * 8, "sequence": 99},
    ],
)
def test_a_receipt_for_somebody_else_changes_nothing(stage: Stage, fields: dict[str, Any]) -> None:
    stage.aggregator.answering = False
    stage.aggregator.publish(model(0))
    stage.run(lambda: bool(stage.told("sent")))
    stage.aggregator.send_receipt(Receipt(outcome="merged", version=1, **fields))
    stage.run_for(5.0)
    assert stage.told("receipt") == []
    assert stage.queued() == [1]


def test_an_update_over_the_aggregators_limit_is_dropped_and_never_sent(stage: Stage) -> None:
    stage.settings["local_rounds_max"] = 1
    stage.aggregator.publish(model(0, update_bytes_max=10))
    stage.run_for(300.0)
    assert stage.told("sent") == []
    assert stage.queued() == []
    (warning,) = stage.told("warning")
    assert "the aggregator accepts 10" in warning["message"]


def test_an_update_over_the_brokers_limit_is_dropped_and_does_not_stand_in_the_way(stage: Stage) -> None:
    stage.aggregator.publish(model(0))
    limit = stage.broker.packet_bytes_max

    def look() -> None:
        # Presence fits, an update does not; from the second round on it does.
        stage.broker.packet_bytes_max = 150 if len(stage.told("queued")) < 2 else limit

    stage.at_turn = look
    stage.run(lambda: bool(stage.aggregator.merged))
    assert stage.merged() == [(2, 0)]
    (warning,) = stage.told("warning")
    assert "over the broker's limit of 150" in warning["message"]


def test_an_update_in_flight_while_the_shards_change_goes_to_the_new_shard(stage: Stage) -> None:
    stage.settings["local_rounds_max"] = 1
    stage.aggregator.publish(model(0))
    right = topics.shard_of(DEVICE, 16)
    assert right != 0
    shards = [1]
    seen: list[int] = []

    def answer(delivery: Delivery) -> Receipt | None:
        seen.append(int(topics.parse(delivery.topic, root=ROOT).parts["shard"]))
        if shards == [1] or seen[-1] != right:
            shards[0] = 16  # the aggregators were restarted, and their manifest is on its way
            refusal = Refuse("rate", f"shard: device {DEVICE} belongs to shard {right} of 16")
            return receipt_for(refusal, version=0, update=None, payload=delivery.payload)
        return None

    def operate() -> None:
        if len(seen) == 2 and shards[-1] == 16:
            shards.append(0)  # once
            stage.aggregator.publish(model(0, shards=16))

    stage.aggregator.answer, stage.at_turn = answer, operate
    stage.run(lambda: bool(stage.aggregator.merged))
    assert seen[:2] == [0, 0]
    assert seen[-1] == right
    assert stage.merged() == [(1, 0)]
    assert stage.told("receipt")[0]["reason"] == "rate"


def test_updates_go_to_the_shard_that_the_manifest_asks_for(stage: Stage) -> None:
    stage.aggregator.publish(model(0, shards=16))
    seen = []
    publish = stage.broker.publish

    def watch(topic: str, payload: bytes, *, retain: bool = False) -> None:
        seen.append(topic)
        publish(topic, payload, retain=retain)

    stage.broker.publish = watch  # type: ignore[method-assign]
    stage.run(lambda: bool(stage.told("receipt")))
    shard = topics.shard_of(DEVICE, 16)
    assert topics.build("update", root=ROOT, task=TASK, shard=shard, device=DEVICE) in seen
