"""What the loop publishes of a version, when, and what it deletes."""

from dataclasses import replace
from math import inf

import numpy as np
import pytest

from aggregator.admission import AdmissionPolicy
from tests.aggregator.stage import MODEL, STATUS, WHOLE, MakeStage, Stage
from tests.aggregator.synthetic import (
    CHUNKED,
    LAYOUT,
    ROOT,
    SETTINGS,
    TASK,
)
from wire_contract.errors import LinkError
from wire_contract.publication.manifest import assemble_snapshot
from wire_contract.topics import build


def test_without_deltas_every_version_goes_whole_and_two_are_kept(make_stage: MakeStage) -> None:
    stage = make_stage(WHOLE, layout=CHUNKED)
    stage.step()
    assert stage.chunks() == {0: [0, 1]}
    for version in range(1, 5):
        stage.teach(1)
        assert stage.chunks() == {version - 1: [0, 1], version: [0, 1]}
        chunks = {
            index: stage.broker.retained[build("chunk", root=ROOT, task=TASK, version=version, chunk=index)]
            for index in range(2)
        }
        published = assemble_snapshot(stage.manifest, chunks)
        assert published is not None
        assert published.weights.tobytes() == stage.line.weights.tobytes()


def test_chunks_that_a_crash_left_are_swept(make_stage: MakeStage) -> None:
    stage = make_stage(WHOLE, layout=CHUNKED)
    stage.teach(3)
    stage.crash()
    for version in (0, 1):
        for index in range(2):
            topic = build("chunk", root=ROOT, task=TASK, version=version, chunk=index)
            stage.mailbox.publish(topic, b"left over", retain=True)
    stage.start()
    stage.step()
    assert stage.chunks() == {2: [0, 1], 3: [0, 1]}


@pytest.mark.parametrize("lose_state", [False, True])
def test_the_model_is_published_again_on_every_connection(stage: Stage, *, lose_state: bool) -> None:
    stage.teach(1)
    before = stage.broker.retained[MODEL]
    stage.broker.stop(lose_state=lose_state)
    stage.step()
    stage.broker.retained.pop(MODEL, None)
    stage.broker.start()
    stage.step(2)
    assert stage.broker.retained[MODEL] == before
    assert stage.status.status == "online"
    stage.mailbox.receive(count=100, timeout_seconds=0)
    stage.teach(1)
    assert stage.line.version == 2


def test_a_model_too_large_for_float16_is_published_as_float32(
    make_stage: MakeStage, caplog: pytest.LogCaptureFixture
) -> None:
    believed = AdmissionPolicy(slot_norm_ratio=inf)
    stage = make_stage(replace(SETTINGS, model_encoding="float16", server_rate=10.0, policy=believed))
    large = np.full(LAYOUT.size, 9.0, dtype=np.float32)
    while np.abs(stage.line.weights).max() < 65_504:
        before = stage.line.version
        for name in ("a", "b"):
            stage.send(stage.device(name), difference=large * min(10.0 ** (before // 2), 300))
        stage.step()
        assert stage.line.version == before + 1, stage.outcomes()
    said = [record.message for record in caplog.records if "published as float32" in record.message]
    peak = np.abs(stage.line.weights).max()
    (line,) = said
    assert line.startswith(f"version {stage.line.version} is published as float32: float16: a value of {peak:g} is")
    published = assemble_snapshot(stage.manifest)
    assert published is not None
    assert published.weights.tobytes() == stage.line.weights.tobytes()
    stage.crash()
    stage.start()
    stage.step()
    again = stage.manifest
    assert (again.encoding, again.digest) == ("float32", published.digest)
    stage.teach(1)
    assert stage.outcomes()[-2:] == ["merged", "merged"]


def test_a_changed_encoding_begins_with_the_next_version(make_stage: MakeStage) -> None:
    # Updates name the digest of what was published; publishing that version in another encoding would disown them.
    stage = make_stage()
    stage.teach(1)
    digest = stage.manifest.digest
    early = stage.device("a").payload(stage.line)
    stage.crash()
    stage.settings = replace(SETTINGS, model_encoding="int8")
    stage.start()
    stage.step()
    assert stage.manifest.digest == digest == stage.line.release.published.digest
    stage.send(stage.device("a"), early)
    stage.send(stage.device("b"))
    stage.step()
    assert stage.outcomes()[-2:] == ["merged", "merged"]
    assert stage.manifest.encoding == "int8"


def test_a_full_queue_only_delays_a_version(make_stage: MakeStage, monkeypatch: pytest.MonkeyPatch) -> None:
    stage = make_stage(WHOLE, layout=CHUNKED)
    stage.step()

    def full(*_: object, **__: object) -> object:
        raise LinkError("10000 messages already wait for the broker")

    with monkeypatch.context() as patch:
        patch.setattr(stage.link, "publish", full)
        stage.teach(1)
        assert stage.line.version == 1
        stage.now += 30
        stage.step()
    assert stage.manifest.version == 0
    stage.now += 1
    stage.step()
    assert stage.manifest.version == 0, "not at every turn"
    stage.now += 30
    stage.step()
    assert stage.manifest.version == 1
    assert stage.chunks()[1] == [0, 1]


def test_while_the_broker_is_away_no_models_pile_up(make_stage: MakeStage) -> None:
    stage = make_stage(replace(SETTINGS, version_seconds=1.0), layout=CHUNKED)
    stage.send(stage.device("a"))
    stage.step()
    stage.broker.stop()
    stage.now += 2
    stage.step()
    assert stage.line.version == 1
    assert not stage.link._outgoing._waiting or all(
        not message.payload or message.topic == STATUS for message in stage.link._outgoing._waiting
    )
    stage.broker.start()
    stage.step()
    assert stage.manifest.version == 1
