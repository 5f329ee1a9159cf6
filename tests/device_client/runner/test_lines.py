"""Models of a line with other labels or fixed buffers: a device that starts is refused, one that runs waits."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from device_client.downlink.line_check import OwnLine
from tests.device_client.stage import TASK, Stage, model
from wire_contract.layout import Layout, TensorSpec
from wire_contract.line_description import LineDescription, describe

WORDS = ("sit", "walk", "run", "lie")
SAME, SORTED = describe(WORDS, {}), describe(sorted(WORDS), {})
DRAWN = describe(WORDS, {"chosen": np.arange(8)[::-1]})


@pytest.fixture
def stage(tmp_path: Path) -> Stage:
    made = Stage(tmp_path, retrain_after_seconds=1.0, local_rounds_max=1_000)
    made.own_line = OwnLine(task=TASK, description=SAME)
    return made


def warnings(stage: Stage) -> list[str]:
    return [told["message"] for told in stage.told("warning")]


@pytest.mark.parametrize("line", [SAME, None], ids=["the same", "an older aggregator"])
def test_a_line_of_the_same_labels_is_trained(stage: Stage, line: LineDescription | None) -> None:
    stage.aggregator.publish(model(3, description=line))
    stage.run(lambda: bool(stage.aggregator.merged))
    assert warnings(stage) == []


@pytest.mark.parametrize(
    ("line", "said"),
    [
        (SORTED, "this device's classes are (sit, walk, run, lie); the line's are (lie, run, sit, walk)"),
        (DRAWN, "buffer chosen exists in the line only"),
    ],
    ids=["labels", "buffers"],
)
def test_a_device_that_starts_on_another_line_ends_before_it_trains(
    stage: Stage, line: LineDescription, said: str
) -> None:
    stage.aggregator.publish(model(3, description=line))
    ended = stage.run_for(60.0)
    assert ended.refused, "with an exit code that supervisors do not restart on"
    assert said in ended.reason
    assert not stage.told("queued")
    assert stage.presence() == "offline"


def once(condition: Callable[[], bool], act: Callable[[], object]) -> Callable[[], None]:
    """At each turn: `act`, the first time that `condition` holds."""
    left = [act]

    def at_turn() -> None:
        if left and condition():
            left.pop()()

    return at_turn


def test_a_running_device_waits_for_its_own_line_again(stage: Stage) -> None:
    stage.aggregator.publish(model(3, description=SAME))
    other = model(4, published_at=2_000.0, description=SORTED)
    stage.at_turn = once(lambda: bool(stage.aggregator.merged), lambda: stage.aggregator.publish(other))
    ended = stage.run_for(60.0)
    assert not ended.refused
    (said,) = [one for one in warnings(stage) if "classes are" in one]
    assert said.endswith("Until then nothing is trained or uploaded")
    trained, merged = len(stage.told("queued")), len(stage.aggregator.merged)
    assert trained <= 2, "the one that was sent, and perhaps a round that ran"
    own = model(5, published_at=3_000.0, description=SAME)
    stage.at_turn = once(lambda: True, lambda: stage.aggregator.publish(own))
    stage.run(lambda: len(stage.aggregator.merged) > merged + 1)


def test_what_waits_is_not_sent_to_another_line(stage: Stage) -> None:
    """Two lines that began with the same weights: the aggregator could not tell."""
    stage.upload_unmet = ("not charging",)
    stage.aggregator.publish(model(0, description=SAME))
    other = model(0, published_at=5_000.0, description=SORTED)

    def then() -> None:
        stage.aggregator.publish(other)
        stage.upload_unmet = ()

    stage.at_turn = once(lambda: stage.queued_now() == 1, then)
    stage.run_for(60.0)
    assert stage.aggregator.merged == []
    assert len([one for one in warnings(stage) if "classes are" in one]) == 1


def test_a_model_kept_by_a_device_whose_task_was_changed_is_not_used(stage: Stage) -> None:
    stage.aggregator.publish(model(3, description=SAME))
    stage.run(lambda: bool(stage.aggregator.merged))
    trained = len(stage.told("queued"))
    stage.broker.retained.clear()
    stage.own_line = OwnLine(task=TASK, description=SORTED)
    assert not stage.run_for(60.0).refused, "it may be the line that is newer"
    assert any("the model kept on this device is not used" in one for one in warnings(stage))
    assert len(stage.told("queued")) == trained
    stage.aggregator.publish(model(4, description=SAME))
    assert stage.run_for(60.0).refused, "it is not"
    assert len(stage.told("queued")) == trained


def test_another_layout_is_named_and_waited_for(stage: Stage) -> None:
    stage.layout = Layout((TensorSpec("0.weight", (12, 16)), TensorSpec("0.bias", (12,)), TensorSpec("more", (1,))))
    wide = Layout((TensorSpec("0.weight", (8, 16)), TensorSpec("0.bias", (8,)), TensorSpec("else", (2,))))
    stage.aggregator.publish(model(3, layout=wide, description=SAME))
    assert not stage.run_for(60.0).refused
    (said,) = warnings(stage)
    assert "0.weight is (8, 16) in the model and (12, 16) here, 0.bias is (8,) in the model and (12,) here" in said
    assert "only in the model: else; only here: more" in said
