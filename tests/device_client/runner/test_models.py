"""Which published models a device trains on: chunks, cached models, new model lines, other layouts."""

from pathlib import Path

import pytest

from tests.device_client.stage import ROOT, TASK, Stage, model
from wire_contract import codec, topics
from wire_contract.layout import Layout, TensorSpec
from wire_contract.link.protocol import Delivery
from wire_contract.messages import Receipt, Update


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
    assert [base for _, base in stage.merged()] == [78, 2]
    assert len(set(stage.merged())) == len(stage.merged()), "exactly once"
    first, *_ = [told["message"] for told in stage.told("warning") if "does not know" in told["message"]]
    assert "the aggregator is at version 2 and does not know version 78, which this device holds" in first


def test_a_device_waits_with_learning_until_the_aggregator_announces_something_it_knows(stage: Stage) -> None:
    stage.settings["retrain_after_seconds"] = 1.0
    knows_only(stage, 0, 1, 2)
    stage.aggregator.publish(model(78))
    stage.run_for(300.0)
    assert [told["reason"] for told in stage.told("receipt")] == ["unknown_base"], "one, and no more on that base"
    assert len([one for one in stage.told("warning") if "does not know" in one["message"]]) == 1
    stage.aggregator.publish(model(2, seed=1))
    stage.run(lambda: bool(stage.aggregator.merged))
    assert stage.merged()[0][1] == 2, "after a restart, too"


def test_a_line_that_comes_back_is_gone_on_with(stage: Stage) -> None:
    """The wrong ledger was noticed and the right one started again: it announces what it announced before."""
    knows_only(stage, 2)
    stage.aggregator.publish(model(78))
    stage.run(lambda: bool(stage.told("receipt")))
    knows_only(stage, 78)
    stage.run(lambda: bool(stage.aggregator.merged))
    assert [base for _, base in stage.merged()] == [78]


def test_one_update_of_an_earlier_base_says_nothing_of_the_held_one(stage: Stage) -> None:
    stage.upload_unmet = ("not charging",)
    stage.aggregator.publish(model(1))
    stage.run(lambda: stage.queued_now() == 1)
    stage.upload_unmet = ()
    knows_only(stage, 2)
    stage.aggregator.publish(model(2))
    stage.run(lambda: bool(stage.aggregator.merged))
    assert [told["reason"] for told in stage.told("receipt")] == ["unknown_base", None]
    assert not [one for one in stage.told("warning") if "does not know" in one["message"]]


def test_a_newcomer_says_once_what_it_is_waiting_for(stage: Stage) -> None:
    def said() -> list[str]:
        return [told["message"] for told in stage.told("warning") if "waiting for a model" in told["message"]]

    stage.run_for(29.0)
    assert said() == []
    stage.run_for(300.0)
    (line,) = said()
    assert f"no usable manifest is retained on {ROOT}/{TASK}/model" in line
    assert "asyncfedkd doctor" in line
    large = model(5, layout=Layout((TensorSpec("a", (20_000,)),)))
    stage.aggregator.announce(codec.encode(large.manifest))
    stage.run_for(300.0)
    assert "version 5 is announced" in said()[-1]
    assert "chunks of version 5 did not arrive" in said()[-1]
    assert len(said()) == 2
    stage.aggregator.publish(model(6))
    stage.run_for(300.0)
    assert len(said()) == 2, "it has a model"


@pytest.mark.parametrize("version", [0, 40, 41])
def test_a_new_line_is_followed_at_once_and_trained_from_its_own_weights(stage: Stage, version: int) -> None:
    stage.aggregator.publish(model(40))
    stage.run(lambda: bool(stage.told("receipt")))
    fresh = model(version, seed=9, published_at=9_000.0)
    stage.aggregator.publish(fresh)
    published_at = stage.time.now
    stage.run(lambda: len(stage.aggregator.merged) == 2)
    assert stage.time.now - published_at < 10.0
    assert stage.merged() == [(1, 40), (2, version)]
    assert stage.aggregator.merged[1].base_digest == fresh.published.digest


def test_a_foreign_layout_is_one_warning_and_no_training_until_one_fits(stage: Stage) -> None:
    foreign = Layout((TensorSpec("other", (7,)),))
    stage.aggregator.publish(model(1, layout=foreign))
    stage.run_for(300.0)
    assert stage.trainer.begun == 0
    (warning,) = stage.told("warning")
    assert warning["message"].startswith(
        "model 1 is of an earlier or later student than that of task walking on this device"
    )
    assert "(7 parameters in 1 tensors, not 16 in 2)" in warning["message"]
    stage.aggregator.publish(model(2))
    stage.run(lambda: bool(stage.told("receipt")))
    assert stage.merged() == [(1, 2)]


def test_a_bad_manifest_is_a_warning_and_training_goes_on_with_the_held_model(stage: Stage) -> None:
    stage.aggregator.publish(model(0))
    stage.settings["local_rounds_max"] = 2
    stage.run(lambda: bool(stage.told("receipt")))
    stage.broker.publish(topics.build("model", root=ROOT, task=TASK), b"junk", retain=True)
    stage.run(lambda: len(stage.aggregator.merged) == 2)
    assert any("manifest could not be read" in fields["message"] for fields in stage.told("warning"))
