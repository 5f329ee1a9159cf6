"""Which rounds a device trains, on which base, and what it does when training fails."""

from typing import Any

import numpy as np
import pytest

from device_client.events import EVENTS
from device_client.trainer import Trained
from tests.device_client.stage import DEVICE, LAYOUT, ROOT, TASK, Stage, model
from wire_contract.codec import decode
from wire_contract.messages import Presence
from wire_contract.topics import build


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
    (trained,) = stage.told("trained")
    assert trained["metrics"] == {"loss": 0.5, "accuracy": 0.75}
    assert EVENTS["trained"].text(trained).endswith(", accuracy 0.75, loss 0.5")
    assert stage.told("receipt") == [
        {"sequence": 1, "outcome": "merged", "version": 1, "weight": 0.0, "staleness": 0, "reason": None}
    ]
    assert stage.queued() == []


def test_an_update_tells_how_the_device_itself_is(stage: Stage) -> None:
    stage.device_metrics = {"battery_percent": 71.0}
    stage.aggregator.publish(model(7))
    stage.run(lambda: bool(stage.told("receipt")))
    (update,) = stage.aggregator.merged
    assert update.metrics == {"loss": 0.5, "accuracy": 0.75, "battery_percent": 71.0}


@pytest.mark.parametrize("encoding", ["float32", "float16", "int8"])
def test_while_there_is_no_newer_model_it_goes_on_with_its_own_student(stage: Stage, encoding: str) -> None:
    published = model(3)
    stage.settings["encoding"] = encoding
    stage.aggregator.publish(published)
    stage.run_for(1_000.0)

    assert stage.trainer.rounds == [(3, 1), (3, 2), (3, 3), (3, 4)]
    assert stage.merged() == [(1, 3), (2, 3), (3, 3), (4, 3)]
    with stage.outbox() as outbox:
        line = outbox.local_student()
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
    assert stage.merged() == [(1, 0), (2, 0), (3, 0)], "sequences have no gap"
    (warning,) = stage.told("warning")
    assert "round 2 on model 0 is discarded: training diverged: 1 of " in warning["message"]
    assert "weights are not finite" in warning["message"]


def test_an_operator_sees_in_the_presence_that_rounds_are_discarded(stage: Stage) -> None:
    seen: list[dict[str, str]] = []

    def look() -> None:
        if stage.told("connected"):
            retained = stage.broker.retained[build("presence", root=ROOT, task=TASK, device=DEVICE)]
            seen.append(decode(retained, Presence).capability)

    stage.at_turn = look
    stage.aggregator.publish(model(0))
    stage.trainer.diverge_in = frozenset({(0, 1), (0, 2)})
    stage.run_for(1_000.0)
    reasons = [capability.get("discarded", "") for capability in seen]
    assert any("training diverged" in reason for reason in reasons)
    assert reasons[0] == reasons[-2] == "", "before, and after a round that was not discarded"


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
    assert stage.presence() == "offline"
    stage.trainer.at_batch = lambda _batch: None
    stage.run(lambda: bool(stage.aggregator.merged))
    assert stage.merged() == [(1, 0)]


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
