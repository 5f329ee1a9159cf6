"""A whole device without torch and without a network: every update is merged exactly once, whatever happens."""

from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import msgpack
import numpy as np
import pytest

from aggregator.admission import Refuse, receipt_for
from device_client.uplink.outbox import Outbox, payload_digest
from device_client.uplink.rounds import Trained
from tests.device_client.stage import DEVICE, LAYOUT, ROOT, TASK, Kill, Stage, model
from wire_contract import codec, topics
from wire_contract.errors import LinkError
from wire_contract.layout import Layout, TensorSpec
from wire_contract.link.protocol import Delivery
from wire_contract.messages import Presence, Receipt, Update


@pytest.fixture
def stage(tmp_path: Path) -> Stage:
    return Stage(tmp_path)


def merged(stage: Stage) -> list[tuple[int, int]]:
    """Sequence and base of each merged update, in order."""
    return [(update.sequence, update.base_version) for update in stage.aggregator.merged]


def presence(stage: Stage) -> str:
    payload = stage.broker.retained[topics.build("presence", root=ROOT, task=TASK, device=DEVICE)]
    return codec.decode(payload, Presence).status


def test_one_round_from_the_retained_model_to_the_receipt(stage: Stage) -> None:
    published = model(7)
    stage.aggregator.publish(published)
    ended = stage.run(lambda: bool(stage.told("receipt")))

    assert not ended.refused
    (update,) = stage.aggregator.merged
    assert (update.task, update.device, update.sequence, update.base_version) == (TASK, DEVICE, 1, 7)
    assert update.base_digest == published.published.digest
    assert update.layout_fingerprint == LAYOUT.fingerprint
    assert (update.samples, update.local_steps, update.metrics) == (10, 2, {"loss": 0.5, "accuracy": 0.75})
    assert update.train_seconds == pytest.approx(2.0)
    names = [name for name, _ in stage.events if name != "traffic"]
    assert names == ["connected", "model", "training", "trained", "queued", "sent", "receipt"]
    assert stage.told("receipt") == [
        {"sequence": 1, "outcome": "merged", "version": 1, "weight": 0.0, "staleness": 0, "reason": None}
    ]
    assert stage.queued() == []


def test_an_update_tells_how_the_device_itself_is(stage: Stage) -> None:
    stage.vitals = {"battery_percent": 71.0}
    stage.aggregator.publish(model(7))
    stage.run(lambda: bool(stage.told("receipt")))
    (update,) = stage.aggregator.merged
    assert update.metrics == {"loss": 0.5, "accuracy": 0.75, "battery_percent": 71.0}


def test_presence_is_online_while_it_runs_and_offline_after_a_clean_stop(stage: Stage) -> None:
    seen = []
    stage.at_turn = lambda: seen.append(presence(stage)) if stage.told("connected") else None
    stage.run_for(5.0)
    assert set(seen) == {"online"}
    assert presence(stage) == "offline"


@pytest.mark.parametrize("encoding", ["float32", "float16", "int8"])
def test_while_there_is_no_newer_model_it_goes_on_with_its_own_student(stage: Stage, encoding: str) -> None:
    published = model(3)
    stage.settings["encoding"] = encoding
    stage.aggregator.publish(published)
    stage.run_for(1_000.0)

    assert stage.trainer.rounds == [(3, 1), (3, 2), (3, 3), (3, 4)]
    assert merged(stage) == [(1, 3), (2, 3), (3, 3), (4, 3)]
    with stage.outbox() as outbox:
        line = outbox.line()
    assert line is not None
    differences = [stage.aggregator.difference(update) for update in stage.aggregator.merged]
    for number, difference in enumerate(differences, start=1):
        # Steps are of the order of one, so this is what int8 rounds away, of this step and of the one before.
        assert np.allclose(difference, stage.trainer.steps[3, number], atol=0.02), "what this round alone did"
    assert line.residual is not None
    total = sum(differences) + line.residual
    assert np.allclose(line.weights - published.published.weights, total, atol=1e-5), "with what waits: s_n - base"


def test_a_further_round_waits_and_a_newer_model_does_not(stage: Stage) -> None:
    stage.aggregator.publish(model(0))
    began: dict[tuple[int, int], float] = {}

    def look() -> None:
        for fields in stage.told("training"):
            began.setdefault((fields["base_version"], fields["round"]), stage.time.now)
        if (0, 2) in began and 1 not in {fields["version"] for fields in stage.told("model")}:
            stage.aggregator.publish(model(1))

    stage.at_turn = look
    stage.run(lambda: (1, 1) in began)
    assert began[0, 2] - began[0, 1] >= 60.0
    assert began[1, 1] - began[0, 2] < 5.0


def test_it_trains_on_a_newer_model_without_waiting_for_the_receipt(stage: Stage) -> None:
    stage.aggregator.answering = False
    stage.aggregator.publish(model(0))
    stage.at_turn = lambda: stage.aggregator.publish(model(1)) if len(stage.told("queued")) == 1 else None
    stage.run(lambda: len(stage.told("queued")) == 2)
    assert stage.trainer.rounds == [(0, 1), (1, 1)]
    assert stage.told("receipt") == []


def test_a_large_model_comes_in_chunks_and_is_cached(tmp_path: Path) -> None:
    stage = Stage(tmp_path)
    stage.layout = Layout((TensorSpec("a", (20_000,)),))
    stage.aggregator.publish(model(2, layout=stage.layout))
    stage.run(lambda: bool(stage.told("queued")))
    with stage.outbox() as outbox:
        cached = outbox.model()
    assert cached is not None
    assert cached.inline is not None
    assert len(cached.inline) > 64_000
    assert stage.told("model") == [{"version": 2, "bytes": len(cached.inline)}]


def test_offline_for_long_it_works_on_and_catches_up_in_order(stage: Stage) -> None:
    stage.aggregator.publish(model(0))
    stage.run(lambda: bool(stage.told("receipt")))
    stage.broker.block(DEVICE)
    stage.run_for(6 * 3_600.0)
    assert stage.trainer.rounds == [(0, 1), (0, 2), (0, 3), (0, 4)]
    assert stage.queued() == [2, 3, 4]
    reasons = [fields["reason"] for fields in stage.told("disconnected")]
    assert len(reasons) == len(set(reasons)) <= 2, "no flood"

    stage.broker.unblock(DEVICE)
    returned_at = stage.time.now
    stage.run(lambda: len(stage.told("receipt")) == 4)
    assert stage.time.now - returned_at < 5.0, "one after the other, but at once"
    assert merged(stage) == [(1, 0), (2, 0), (3, 0), (4, 0)]
    assert stage.queued() == []


def test_a_device_that_starts_without_a_broker_works_on_its_cached_model(stage: Stage) -> None:
    stage.aggregator.publish(model(5))
    stage.run(lambda: bool(stage.told("model")))
    stage.broker.stop(lose_state=True)
    stage.beats.clear()
    stage.run(lambda: bool(stage.told("queued")))
    assert stage.trainer.rounds[-1] == (5, 1)
    assert stage.beats, "it is live all the time"
    assert all(trouble.startswith("no connection to the broker: ") for trouble in stage.beats), "and not ready"
    stage.broker.start()
    stage.run(lambda: stage.beats[-1] == "")


def test_a_kill_at_any_moment_loses_nothing_and_uses_no_identity_twice(tmp_path: Path) -> None:
    """Dies before the nth statement, publication, acknowledgement or batch of its life, for every n in turn."""
    deaths = 0
    for moment in range(400):
        stage = Stage(tmp_path / str(moment), retrain_after_seconds=5.0, local_rounds_max=2)
        stage.aggregator.publish(model(0))
        count = 0

        def step(moment: int = moment) -> None:
            nonlocal count
            if count == moment:
                count += 1
                raise Kill
            count += 1

        class Mortal(Outbox):
            def _execute(self, statement: str, *values: object) -> Any:
                step()
                return super()._execute(statement, *values)

        stage.trainer.at_batch = lambda _batch: step()
        stage.at_turn = lambda: mortal_link(stage, step)  # noqa: B023
        killed = False
        try:
            stage.run(
                lambda: len(stage.aggregator.merged) == 2,  # noqa: B023
                outbox=Mortal(stage.path, task=TASK, device=DEVICE),
            )
        except Kill:
            killed = True
        deaths += killed
        stage.trainer.at_batch = lambda _batch: None
        stage.at_turn = lambda: None
        stage.run(lambda: len(stage.aggregator.merged) >= 2 and not stage.queued_now())  # noqa: B023
        assert merged(stage) == [(1, 0), (2, 0)], f"killed at {moment}"
        assert len(stage.aggregator.payloads) == 2
        if not killed:
            break
    assert deaths > 30
    assert not killed, "the last life was long enough to see all moments"


def mortal_link(stage: Stage, step: Callable[[], None]) -> None:
    """Publishing and acknowledging are moments, too."""
    link = stage.link
    assert link is not None
    if getattr(link, "mortal", False):
        return
    publish, ack = link.publish, link.ack

    def mortal_publish(*args: Any, **kwargs: Any) -> Any:
        step()
        publication = publish(*args, **kwargs)
        step()
        return publication

    def mortal_ack(delivery: Any) -> None:
        step()
        ack(delivery)
        step()

    link.publish, link.ack, link.mortal = mortal_publish, mortal_ack, True  # type: ignore[method-assign, attr-defined]


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


def test_every_delivery_is_acknowledged(stage: Stage) -> None:
    """At QoS 0, as manifests come, there is nothing to acknowledge."""
    stage.aggregator.publish(model(0))
    in_flight: list[dict[int, Any]] = []
    end = stage.time.now + 100.0

    def look() -> None:
        if not in_flight:
            stage.broker.publish(topics.build("model", root=ROOT, task=TASK), b"junk")
            stage.broker.publish(topics.build("receipt", root=ROOT, task=TASK, device=DEVICE), b"junk")
        in_flight.append(dict(stage.broker._sessions[DEVICE].in_flight))

    stage.at_turn = look
    stage.run(lambda: stage.time.now >= end)
    assert [delivery.payload for delivery in in_flight[0].values()] == [b"junk"]
    assert in_flight[-1] == {}


def test_an_update_without_a_receipt_is_sent_again_with_backoff(stage: Stage) -> None:
    stage.aggregator.answering = False
    stage.aggregator.publish(model(0))
    stage.settings["local_rounds_max"] = 1
    stage.run(lambda: len(stage.told("sent")) == 4)
    stage.aggregator.answering = True
    stage.run(lambda: bool(stage.told("receipt")))
    assert [fields["attempt"] for fields in stage.told("sent")] == [1, 2, 3, 4, 5]
    assert merged(stage) == [(1, 0)]


def test_a_broker_that_lost_its_state_gets_the_update_again_at_once(stage: Stage) -> None:
    stage.aggregator.answering = False
    stage.settings["local_rounds_max"] = 1
    stage.aggregator.publish(model(0))
    times: list[float] = []

    def look() -> None:
        sent = stage.told("sent")
        if len(sent) > len(times):
            times.append(stage.time.now)
            if len(times) == 1:
                stage.broker.stop(lose_state=True)
                stage.broker.start()

    stage.at_turn = look
    stage.run(lambda: len(times) == 2)
    assert times[1] - times[0] < 2.0


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


def knows_only(stage: Stage, *versions: int) -> None:
    """An aggregator whose ledger has these versions, and is at the last of them."""

    def answer(delivery: Delivery) -> Receipt | None:
        update = codec.decode(delivery.payload, Update)
        if update.base_version in versions:
            return None
        return Receipt(
            incarnation=update.incarnation,
            sequence=update.sequence,
            outcome="refused",
            reason="unknown_base",
            version=versions[-1],
        )

    stage.aggregator.answer = answer


def test_a_device_goes_over_to_an_older_ledger_by_itself(stage: Stage) -> None:
    stage.aggregator.publish(model(78))
    stage.run(lambda: bool(stage.aggregator.merged))
    knows_only(stage, 0, 1, 2)
    stage.aggregator.publish(model(2, seed=1))
    stage.settings["retrain_after_seconds"] = 1.0
    stage.run(lambda: len(stage.aggregator.merged) > 1)
    assert [base for _, base in merged(stage)] == [78, 2]
    assert len(set(merged(stage))) == len(merged(stage)), "exactly once"
    first, *_ = [told["message"] for told in stage.told("warning") if "it does not know" in told["message"]]
    assert "the aggregator's line is at version 2, and it does not know version 78 that this device holds" in first


def test_a_device_waits_with_learning_until_the_aggregator_announces_something_it_knows(stage: Stage) -> None:
    stage.settings["retrain_after_seconds"] = 1.0
    knows_only(stage, 0, 1, 2)
    stage.aggregator.publish(model(78))
    stage.run_for(300.0)
    assert [told["reason"] for told in stage.told("receipt")] == ["unknown_base"], "one, and no more on that base"
    assert len([one for one in stage.told("warning") if "it does not know" in one["message"]]) == 1
    stage.aggregator.publish(model(2, seed=1))
    stage.run(lambda: bool(stage.aggregator.merged))
    assert merged(stage)[0][1] == 2, "after a restart, too"


def test_a_line_that_comes_back_is_gone_on_with(stage: Stage) -> None:
    """The wrong ledger was noticed and the right one started again: it announces what it announced before."""
    knows_only(stage, 2)
    stage.aggregator.publish(model(78))
    stage.run(lambda: bool(stage.told("receipt")))
    knows_only(stage, 78)
    stage.run(lambda: bool(stage.aggregator.merged))
    assert [base for _, base in merged(stage)] == [78]


def test_one_update_of_an_earlier_base_says_nothing_of_the_held_one(stage: Stage) -> None:
    stage.upload_unmet = ("not charging",)
    stage.aggregator.publish(model(1))
    stage.run(lambda: stage.queued_now() == 1)
    stage.upload_unmet = ()
    knows_only(stage, 2)
    stage.aggregator.publish(model(2))
    stage.run(lambda: bool(stage.aggregator.merged))
    assert [told["reason"] for told in stage.told("receipt")] == ["unknown_base", None]
    assert not [one for one in stage.told("warning") if "it does not know" in one["message"]]


def test_a_newcomer_says_once_what_it_is_waiting_for(stage: Stage) -> None:
    def said() -> list[str]:
        return [told["message"] for told in stage.told("warning") if "waiting for a model" in told["message"]]

    stage.run_for(29.0)
    assert said() == []
    stage.run_for(300.0)
    (line,) = said()
    assert f"nothing that can be used is retained on {ROOT}/{TASK}/model" in line
    assert "asyncfedkd doctor" in line
    large = model(5, layout=Layout((TensorSpec("a", (20_000,)),)))
    stage.aggregator.announce(codec.encode(large.manifest))
    stage.run_for(300.0)
    assert "version 5 is announced" in said()[-1]
    assert "chunks of version 5 do not come" in said()[-1]
    assert len(said()) == 2
    stage.aggregator.publish(model(6))
    stage.run_for(300.0)
    assert len(said()) == 2, "it has a model"


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
        line = outbox.line()
        assert outbox.untold() == []
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
    assert merged(stage) == [(1, 0)]


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
    assert "the aggregator takes 10" in warning["message"]


def test_an_update_over_the_brokers_limit_is_dropped_and_does_not_stand_in_the_way(stage: Stage) -> None:
    stage.aggregator.publish(model(0))
    limit = stage.broker.packet_bytes_max

    def look() -> None:
        # Presence fits, an update does not; from the second round on it does.
        stage.broker.packet_bytes_max = 150 if len(stage.told("queued")) < 2 else limit

    stage.at_turn = look
    stage.run(lambda: bool(stage.aggregator.merged))
    assert merged(stage) == [(2, 0)]
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
    assert merged(stage) == [(1, 0)]
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


@pytest.mark.parametrize("version", [0, 40, 41])
def test_a_new_line_is_followed_at_once_and_trained_from_its_own_weights(stage: Stage, version: int) -> None:
    stage.aggregator.publish(model(40))
    stage.run(lambda: bool(stage.told("receipt")))
    fresh = model(version, seed=9, published_at=9_000.0)
    stage.aggregator.publish(fresh)
    published_at = stage.time.now
    stage.run(lambda: len(stage.aggregator.merged) == 2)
    assert stage.time.now - published_at < 10.0
    assert merged(stage) == [(1, 40), (2, version)]
    assert stage.aggregator.merged[1].base_digest == fresh.published.digest


def test_a_foreign_layout_is_one_warning_and_no_training_until_one_fits(stage: Stage) -> None:
    foreign = Layout((TensorSpec("other", (7,)),))
    stage.aggregator.publish(model(1, layout=foreign))
    stage.run_for(300.0)
    assert stage.trainer.begun == 0
    assert [fields["message"].split(";")[0] for fields in stage.told("warning")] == [
        "model 1 has another layout than the student of task walking here (7 numbers in 1 tensors, not 16 in 2)"
    ]
    stage.aggregator.publish(model(2))
    stage.run(lambda: bool(stage.told("receipt")))
    assert merged(stage) == [(1, 2)]


def test_a_bad_manifest_is_a_warning_and_training_goes_on_with_the_held_model(stage: Stage) -> None:
    stage.aggregator.publish(model(0))
    stage.settings["local_rounds_max"] = 2
    stage.run(lambda: bool(stage.told("receipt")))
    stage.broker.publish(topics.build("model", root=ROOT, task=TASK), b"junk", retain=True)
    stage.run(lambda: len(stage.aggregator.merged) == 2)
    assert any("manifest could not be read" in fields["message"] for fields in stage.told("warning"))


def test_a_diverged_round_is_dropped_and_the_next_one_starts_from_the_global_model(stage: Stage) -> None:
    published = model(0)
    stage.aggregator.publish(published)
    stage.trainer.diverge_in = frozenset({(0, 2)})
    starts: dict[int, Any] = {}
    train = stage.trainer.train

    def watch(weights: Any, **fields: Any) -> Trained | None:
        starts[fields["round"]] = weights.copy()
        return train(weights, **fields)

    stage.trainer.train = watch  # type: ignore[method-assign]
    stage.run_for(1_000.0)
    assert stage.trainer.rounds == [(0, 1), (0, 2), (0, 3), (0, 4)], "not in a hot loop"
    assert not np.array_equal(starts[2], published.published.weights)
    assert np.array_equal(starts[3], published.published.weights)
    assert merged(stage) == [(1, 0), (2, 0), (3, 0)], "sequences have no gap"
    (warning,) = stage.told("warning")
    assert "round 2 on model 0 is dropped" in warning["message"]


def test_a_dropped_round_counts_after_a_restart_too(stage: Stage) -> None:
    stage.aggregator.publish(model(0))
    stage.trainer.diverge_in = frozenset((0, number) for number in range(1, 5))
    stage.run(lambda: bool(stage.told("warning")))
    stage.run_for(30.0)
    assert stage.trainer.rounds == [(0, 1)]
    stage.run_for(1_000.0)
    assert stage.trainer.rounds == [(0, 1), (0, 2), (0, 3), (0, 4)]


def test_an_update_that_its_encoding_cannot_hold_is_a_dropped_round(stage: Stage) -> None:
    stage.settings["encoding"] = "float16"
    stage.settings["local_rounds_max"] = 1
    stage.aggregator.publish(model(0))
    stage.trainer.train = (  # type: ignore[method-assign]
        lambda weights, **_: Trained(weights + np.float32(1e6), samples=1, steps=1, metrics={})
    )
    stage.run_for(300.0)
    assert len(stage.told("training")) == 1
    (warning,) = stage.told("warning")
    assert "largest float16" in warning["message"]


def test_stopped_in_the_middle_of_a_round_it_gives_the_round_up_cleanly(stage: Stage) -> None:
    stage.trainer.batches = 100
    stage.aggregator.publish(model(0))

    def stop(batch: int) -> None:
        if batch == 3:
            assert stage.runner is not None
            stage.runner.stop()

    stage.trainer.at_batch = stop
    began_at = stage.time.now
    stage.run(lambda: False)
    assert stage.time.now - began_at < 10.0
    assert stage.told("trained") == []
    assert presence(stage) == "offline"
    stage.trainer.at_batch = lambda _batch: None
    stage.run(lambda: bool(stage.aggregator.merged))
    assert merged(stage) == [(1, 0)]


def test_receipts_and_models_are_handled_while_it_trains(stage: Stage) -> None:
    stage.aggregator.publish(model(0))
    stage.run(lambda: bool(stage.told("queued")) and not stage.told("receipt"))
    stage.events.clear()
    stage.trainer.batches = 50
    stage.aggregator.publish(model(1))

    def look(batch: int) -> None:
        if batch == 10:
            stage.aggregator.publish(model(2))

    stage.trainer.at_batch = look
    stage.run(lambda: bool(stage.told("trained")))
    names = [name for name, fields in stage.events if fields.get("version") == 2 or name in {"receipt", "trained"}]
    assert names == ["receipt", "model", "trained"]


@pytest.mark.parametrize(("duty_cycle", "seconds"), [(1.0, 10.0), (0.5, 20.0), (0.1, 100.0)])
def test_the_duty_cycle_stretches_training_by_rests_in_which_it_listens(
    stage: Stage, duty_cycle: float, seconds: float
) -> None:
    stage.settings |= {"duty_cycle": duty_cycle, "retrain_after_seconds": 0.0}
    stage.trainer.batches = 10
    stage.aggregator.publish(model(0))
    began: list[float] = []
    heard_at: list[float] = []

    def look() -> None:
        if len(stage.told("training")) > len(began):
            began.append(stage.time.now)
        if len(stage.told("trained")) == 0:
            heard_at.append(stage.time.now)

    stage.at_turn = look
    stage.run(lambda: len(began) == 2)
    # The first turn of a round comes with its first batch.
    assert began[1] - began[0] == pytest.approx(seconds, abs=1.5)
    assert max(after - before for before, after in pairwise(heard_at)) <= 1.25, "it listens at least so often"


def test_a_stop_during_a_rest_does_not_wait_for_its_end(stage: Stage) -> None:
    stage.settings["duty_cycle"] = 0.001
    stage.aggregator.publish(model(0))
    started = stage.time.now
    stage.run(lambda: stage.time.now >= started + 10.0)
    assert stage.time.now - started < 11.0
    assert stage.told("trained") == []


def test_held_uploads_are_told_once_and_leave_when_they_may(stage: Stage) -> None:
    stage.upload_unmet = ("the battery is at 10 %",)
    stage.settings["retrain_after_seconds"] = 10.0
    stage.aggregator.publish(model(0))

    def drain() -> None:
        stage.upload_unmet = (f"the battery is at {int(stage.time.now) % 100} %",)

    stage.at_turn = drain
    stage.run_for(100.0)
    assert stage.told("sent") == []
    assert [fields["what"] for fields in stage.told("held")] == ["upload"]
    assert stage.queued() == [1, 2, 3, 4]
    stage.events.clear()
    stage.at_turn = lambda: setattr(stage, "upload_unmet", ())
    stage.run(lambda: len(stage.aggregator.merged) == 4)
    assert merged(stage) == [(1, 0), (2, 0), (3, 0), (4, 0)]


def test_held_training_begins_when_it_may(stage: Stage) -> None:
    stage.training_unmet = ("not charging",)
    stage.aggregator.publish(model(0))
    started = stage.time.now

    def charge() -> None:
        if stage.time.now > started + 50.0:
            stage.training_unmet = ()

    stage.at_turn = charge
    stage.run(lambda: bool(stage.told("receipt")))
    assert [name for name, _ in stage.events if name in {"held", "released", "training"}] == [
        "held",
        "released",
        "training",
    ]


def test_training_rests_while_the_policy_is_no_longer_met(stage: Stage) -> None:
    stage.trainer.batches = 20
    stage.aggregator.publish(model(0))
    unplugged: list[float] = []

    def look(batch: int) -> None:
        if batch == 5 and not unplugged:
            stage.training_unmet = ("not charging",)
            unplugged.append(stage.time.now)

    def plug_in() -> None:
        if unplugged and stage.time.now > unplugged[0] + 500.0:
            stage.training_unmet = ()

    stage.trainer.at_batch, stage.at_turn = look, plug_in
    stage.run(lambda: bool(stage.told("receipt")))
    (trained,) = stage.told("trained")
    assert trained["seconds"] == pytest.approx(20.0, abs=1.0), "what the policy held is not training"
    assert stage.time.now - unplugged[0] > 500.0
    assert len(stage.told("held")) == len(stage.told("released")) == 1


def test_a_full_outbox_stops_training_and_drops_nothing(stage: Stage) -> None:
    stage.entries_max = 2
    stage.upload_unmet = ("metered",)
    stage.settings["retrain_after_seconds"] = 1.0
    stage.aggregator.publish(model(0))
    stage.run_for(300.0)
    assert stage.queued() == [1, 2]
    assert len(stage.trainer.rounds) == 2
    assert ["the outbox is full (2 updates wait)"] in [fields["reasons"] for fields in stage.told("held")]
    stage.upload_unmet = ()
    stage.run(lambda: len(stage.aggregator.merged) == 4)
    assert merged(stage) == [(1, 0), (2, 0), (3, 0), (4, 0)]


def test_a_refusal_of_the_first_connection_ends_it_with_the_reason(stage: Stage) -> None:
    stage.broker.refuse(DEVICE)
    ended = stage.run(lambda: False)
    assert ended.refused
    assert "Not authorized" in ended.reason


def test_a_refusal_later_on_is_an_outage_like_any_other(stage: Stage) -> None:
    stage.aggregator.publish(model(0))

    def look() -> None:
        if stage.told("queued"):
            stage.broker.refuse(DEVICE)

    stage.at_turn = look
    ended = stage.run(lambda: bool(stage.told("disconnected")) and len(stage.told("queued")) == 2)
    assert not ended.refused


def test_a_link_that_died_ends_the_run_with_its_error(stage: Stage) -> None:
    def die() -> None:
        assert stage.link is not None
        stage.link.inner.die("a defect")

    stage.at_turn = die
    with pytest.raises(LinkError, match="a defect"):
        stage.run(lambda: False)


def test_traffic_is_told_now_and_then_and_at_the_end(stage: Stage) -> None:
    stage.aggregator.publish(model(0))
    stage.run_for(100.0)
    told = stage.told("traffic")
    assert 1 < len(told) <= 11
    assert told[-1]["bytes_out"] > sum(fields["bytes"] for fields in stage.told("sent"))
    assert told[-1]["bytes_in"] > 0


@pytest.fixture(autouse=True)
def _updates_are_balanced(stage: Stage) -> Iterator[None]:
    """After every test: what was queued was merged, refused or dropped once, or still waits."""
    yield
    if not stage.path.exists():
        return
    identities = [update.identity for update in stage.aggregator.merged]
    assert len(identities) == len(set(identities))
    waiting = set(stage.queued())
    assert not waiting & {update.sequence for update in stage.aggregator.merged} or not stage.told("receipt")
