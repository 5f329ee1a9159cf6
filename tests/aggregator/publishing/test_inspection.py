"""What is missing is published again, what is left over is deleted; and a broker that lets us read nothing."""

import logging

import pytest

from aggregator.publishing.inspection import CHECK_SECONDS, DEAF_SECONDS, HEAL_SECONDS
from tests.aggregator.publishing.stages import DeafStage, Make, Stage, settle
from tests.aggregator.stage import MODEL
from tests.aggregator.synthetic import ROOT, TASK
from wire_contract.errors import LinkError
from wire_contract.topics import build


def test_after_a_reconnection_nothing_is_published_that_still_stands(stage: Stage) -> None:
    stage.teach(6)
    stage.heard()
    stage.broker.drop("aggregator")
    stage.step(3)
    assert stage.status.status == "online"
    assert stage.heard() == []
    stage.crash()
    stage.start()
    stage.step(2)
    assert stage.heard() == [], "nor after a restart"


def test_after_a_reconnection_what_the_broker_lost_is_published(stage: Stage) -> None:
    stage.teach(6)
    before = stage.models()
    lost = [build("delta", root=ROOT, task=TASK, version=4), build("chunk", root=ROOT, task=TASK, version=5, chunk=0)]
    stage.heard()
    stage.broker.stop()
    for topic in lost:
        del stage.broker.retained[topic]
    stage.step()
    stage.broker.start()
    stage.step(3)
    assert stage.models() == before
    assert stage.heard() == [*lost, MODEL], "in order, and the manifest last"


def own_topics(stage: Stage) -> list[str]:
    """One of each kind that cannot be missed."""
    return [
        MODEL,
        build("delta", root=ROOT, task=TASK, version=4),
        build("chunk", root=ROOT, task=TASK, version=stage.manifest.snapshot_version, chunk=0),
    ]


@pytest.mark.parametrize("which", [0, 1, 2])
@pytest.mark.parametrize("payload", [b"", b"something else"])
def test_what_vanishes_while_all_are_connected_is_put_back(
    stage: Stage, which: int, payload: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    stage.teach(6)
    before = stage.models()
    topic = own_topics(stage)[which]
    stage.step()
    stage.vandal(topic, payload)
    stage.step()
    assert stage.models() != before
    stage.now += HEAL_SECONDS
    stage.step()
    assert stage.models() == before
    assert f"{topic}: not the message that this aggregator published; publishing it again" in caplog.text
    stage.heard()
    stage.now += 60
    stage.step(3)
    assert stage.heard() == [], "once"


def test_somebody_who_deletes_without_rest_does_not_make_a_storm(stage: Stage) -> None:
    stage.teach(2)
    stage.step()
    stage.heard()
    for _ in range(100):
        stage.vandal(MODEL)
        stage.step()
    stage.now += HEAL_SECONDS
    stage.step(3)
    assert stage.heard() == [MODEL] * 101, "a hundred of the vandal's and one of ours"


def test_what_a_broker_loses_without_a_word_is_found_by_looking_now_and_then(stage: Stage) -> None:
    stage.teach(6)
    before = stage.models()
    stage.step()
    for topic in own_topics(stage):
        del stage.broker.retained[topic]
    stage.heard()
    stage.now += CHECK_SECONDS - 1
    stage.step(2)
    assert stage.heard() == []
    stage.now += 1
    stage.step(2)
    assert stage.models() == before
    stage.heard()
    for _ in range(3):
        stage.now += CHECK_SECONDS
        stage.step(2)
    assert stage.heard() == [], "looking alone publishes nothing"


def test_updates_are_merged_while_it_looks_again(stage: Stage) -> None:
    stage.teach(1)
    stage.service._publication._inspection._settle_seconds = 1.0
    stage.now += CHECK_SECONDS
    stage.step()
    assert stage.service._publication._inspection.is_looking
    stage.teach(1)
    assert stage.manifest.version == 2
    stage.now += 1.0
    stage.step()
    stage.heard()
    stage.step(2)
    assert not stage.service._publication._inspection.is_looking
    assert stage.heard() == [], "what was published meanwhile stands"


def test_a_failed_deletion_is_tried_again(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    stage.teach(8)
    stage.step()
    publish, refused = stage.link.publish, []

    def refusing(topic: str, payload: bytes, *, retain: bool = False) -> object:
        if retain and not payload:
            refused.append(topic)
            raise LinkError("its queue is full")
        return publish(topic, payload, retain=retain)

    monkeypatch.setattr(stage.link, "publish", refusing)
    stage.teach(1)
    gone = build("delta", root=ROOT, task=TASK, version=1)
    assert refused == [gone]
    assert gone in stage.models()
    monkeypatch.undo()
    stage.now += 5
    stage.step()
    assert gone not in stage.models()


def test_what_is_not_ours_to_keep_is_deleted(stage: Stage) -> None:
    stage.teach(6)
    before = stage.models()
    stage.crash()
    stage.vandal(build("delta", root=ROOT, task=TASK, version=400), b"left over")
    stage.vandal(build("chunk", root=ROOT, task=TASK, version=2, chunk=7), b"left over")
    stage.start()
    stage.step()
    assert stage.models() == before


def test_who_may_not_read_publishes_after_a_while_and_says_so(make: Make, caplog: pytest.LogCaptureFixture) -> None:
    stage = make(kind=DeafStage)
    caplog.set_level(logging.WARNING)
    stage.step(2)
    assert stage.models() == {}
    stage.now += DEAF_SECONDS
    stage.step()
    assert stage.manifest.version == 0
    assert "does not let this aggregator read its own model topics" in caplog.text
    stage.teach(3)
    before = stage.models()
    stage.broker.stop(lose_state=True)
    stage.step()
    stage.broker.start()
    stage.step()
    settle(stage)
    assert stage.models() == before, "all of it, on every connection"
    assert caplog.text.count("does not let this aggregator read") == 1


def test_a_connection_lost_while_looking_begins_the_look_anew(make: Make) -> None:
    stage = make(kind=DeafStage)
    stage.step()
    stage.send(stage.device("a"))
    stage.step()
    stage.broker.drop("aggregator")
    stage.step()
    settle(stage)
    assert stage.manifest.version == 0
    assert stage.outcomes() == ["merged"], "once, although it came twice"
