"""Outages, restarts and kills: every update is merged exactly once, whatever happens to the connection."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from device_client.uplink.outbox import Outbox
from tests.device_client.stage import DEVICE, ROOT, TASK, Kill, Stage, model
from wire_contract import topics
from wire_contract.errors import LinkError


def test_presence_is_online_while_it_runs_and_offline_after_a_clean_stop(stage: Stage) -> None:
    seen = []
    stage.at_turn = lambda: seen.append(stage.presence()) if stage.told("connected") else None
    stage.run_for(5.0)
    assert set(seen) == {"online"}
    assert stage.presence() == "offline"


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
    assert stage.merged() == [(1, 0), (2, 0), (3, 0), (4, 0)]
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
        assert stage.merged() == [(1, 0), (2, 0)], f"killed at {moment}"
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
