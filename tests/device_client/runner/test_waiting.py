"""Training and uploading wait: for the duty cycle, the owner's policy, or space in the outbox."""

from itertools import pairwise

import pytest

from tests.device_client.stage import Stage, model


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
    assert stage.merged() == [(1, 0), (2, 0), (3, 0), (4, 0)]


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
    assert stage.merged() == [(1, 0), (2, 0), (3, 0), (4, 0)]
