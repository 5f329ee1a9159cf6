"""What the aggregator has on the broker: a snapshot now and then, the deltas between, and the same after a restart."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from tests.aggregator.stage import Stage
from tests.aggregator.synthetic import CHUNKED, ROOT, SETTINGS, TASK
from wire_contract.codec import decode
from wire_contract.compression.rate_control import CompressionTarget
from wire_contract.layout import Layout, TensorSpec
from wire_contract.limits import INLINE_BYTES_MAX, KEPT_DELTAS, KIB
from wire_contract.messages import Delta
from wire_contract.publication.deltas import apply_delta
from wire_contract.publication.manifest import PublishedVersion, assemble_snapshot
from wire_contract.topics import build, parse

LINE = replace(
    SETTINGS, model_encoding="float16", delta_encoding=CompressionTarget(bytes_max=1_500), snapshot_versions=4
)

LARGE = Layout((TensorSpec("weight", (200, 200)),))
"""40 KB as an int8 delta."""


@pytest.fixture
def stage(tmp_path: Path) -> Iterator[Stage]:
    made = Stage(tmp_path / "ledger", LINE, CHUNKED)
    yield made
    made.ledger.close()


def deltas(stage: Stage) -> dict[int, bytes]:
    """Version to the retained delta."""
    parsed = [(parse(topic, root=ROOT), payload) for topic, payload in stage.broker.retained.items()]
    return {int(topic.parts["version"]): payload for topic, payload in parsed if topic.kind == "delta"}


def joined(stage: Stage) -> PublishedVersion:
    """The newest version, as a joiner has it from what is retained."""
    manifest = stage.manifest
    version = manifest.snapshot_version
    chunks = {
        index: stage.broker.retained[build("chunk", root=ROOT, task=TASK, version=version, chunk=index)]
        for index in range(len(manifest.chunk_digests))
    }
    published = assemble_snapshot(manifest, chunks)
    assert published is not None
    for one in range(version + 1, manifest.version + 1):
        published = apply_delta(published, decode(deltas(stage)[one], Delta))
    assert published.digest == manifest.digest
    return published


def retained_models(stage: Stage) -> dict[str, bytes]:
    kinds = {"model", "delta", "chunk"}
    return {topic: it for topic, it in stage.broker.retained.items() if parse(topic, root=ROOT).kind in kinds}


def test_a_snapshot_now_and_then_and_the_newest_deltas(stage: Stage) -> None:
    stage.step()
    for version in range(1, 21):
        stage.teach(1)
        assert stage.manifest.version == version
        assert joined(stage).weights.tobytes() == stage.line.release.published.weights.tobytes()
        assert stage.manifest.snapshot_version > version - 4
        # version 0 fits its manifest (20 KB); so the first snapshot in chunks is version 1
        assert sorted(stage.chunks()) == [one for one in (1, 5, 9, 13, 17) if one <= version][-2:]
        assert sorted(deltas(stage)) == list(range(max(1, version - KEPT_DELTAS + 1), version + 1))
    distance = np.linalg.norm(stage.line.weights - stage.line.release.published.weights)
    assert distance < 0.05 * np.linalg.norm(stage.line.weights), "the error is fed back"


def test_a_restart_publishes_the_same_bytes_and_goes_on_with_the_same(stage: Stage, tmp_path: Path) -> None:
    twin = Stage(tmp_path / "twin", LINE, CHUNKED)
    for _ in range(7):
        for one in (stage, twin):
            one.teach(1)
        before = retained_models(stage)
        assert before == retained_models(twin)
        stage.crash()
        stage.broker.stop(lose_state=True)
        stage.broker.start()
        stage.start()
        stage.step()
        # Of the two snapshots that are kept, only the newest comes again.
        after = retained_models(stage)
        assert after.items() <= before.items()
        assert {topic for topic in before if topic not in after} <= {
            topic
            for topic in before
            if f"/model/{stage.manifest.snapshot_version}/" not in topic and "/model/" in topic
        }
        twin.broker.retained = {topic: it for topic, it in twin.broker.retained.items() if topic not in before} | after
    twin.ledger.close()


def test_a_broker_that_lost_its_state_is_healed_without_a_restart(stage: Stage) -> None:
    stage.teach(6)
    published = joined(stage)
    stage.broker.stop(lose_state=True)
    stage.step()
    stage.broker.start()
    stage.step(2)
    assert joined(stage).weights.tobytes() == published.weights.tobytes()
    assert sorted(deltas(stage)) == [1, 2, 3, 4, 5, 6]


def test_what_a_crash_left_is_swept(stage: Stage) -> None:
    stage.teach(12)
    stage.crash()
    for version in (1, 2, 3):
        stage.mailbox.publish(build("delta", root=ROOT, task=TASK, version=version), b"left over", retain=True)
    stage.start()
    stage.step()
    assert sorted(deltas(stage)) == list(range(5, 13))


def test_another_encoding_begins_a_new_chain(stage: Stage) -> None:
    stage.teach(3)
    stage.crash()
    stage.settings = replace(LINE, model_encoding="int8")
    stage.start()
    stage.teach(1)
    assert (stage.manifest.version, stage.manifest.delta_sizes) == (4, ())
    assert deltas(stage) == {}, "nothing leads there any more"
    assert joined(stage).version == 4
    stage.crash()
    stage.settings = LINE
    stage.start()
    stage.teach(1)
    assert (stage.manifest.version, len(stage.manifest.delta_sizes)) == (5, 1)
    assert joined(stage).version == 5


def test_deltas_up_to_the_setting_stay_out_of_the_manifest_and_survive_a_restart(tmp_path: Path) -> None:
    settings = replace(LINE, delta_encoding="int8", delta_message_bytes_max=64 * KIB)
    stage = Stage(tmp_path / "large", settings, LARGE)
    stage.teach(3)
    assert sorted(deltas(stage)) == [1, 2, 3]
    assert all(INLINE_BYTES_MAX < len(payload) <= 64 * KIB for payload in deltas(stage).values())
    assert stage.manifest.delta is None
    published = joined(stage)
    before = retained_models(stage)
    stage.crash()
    stage.broker.stop(lose_state=True)
    stage.broker.start()
    stage.start()
    stage.step()
    assert retained_models(stage).items() <= before.items()
    assert joined(stage).weights.tobytes() == published.weights.tobytes()
    stage.settings = replace(settings, delta_message_bytes_max=INLINE_BYTES_MAX)
    stage.crash()
    stage.start()
    stage.teach(1)
    assert stage.manifest.delta_sizes == (), "over the limit, so it goes whole"
    stage.ledger.close()


def test_an_update_that_names_the_snapshot_is_merged(stage: Stage) -> None:
    """Firmware that cannot follow deltas."""
    stage.teach(3)
    manifest = stage.manifest
    assert manifest.snapshot_version == 1
    snapshot = assemble_snapshot(
        manifest,
        {
            index: stage.broker.retained[build("chunk", root=ROOT, task=TASK, version=1, chunk=index)]
            for index in range(len(manifest.chunk_digests))
        },
    )
    assert snapshot is not None
    stage.receipts()
    stage.send(stage.device("a"), base_version=1, base_digest=snapshot.digest)
    stage.step()
    assert [(one.outcome, one.staleness) for one in stage.receipts()] == [("merged", 2)]
