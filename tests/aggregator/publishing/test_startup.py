"""Whether an aggregator may begin: another line on the broker, an older ledger, a second aggregator."""

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from msgspec import structs

from aggregator.ledger.renumber import move_forward
from aggregator.publishing.inspection import CHECK_SECONDS, HEAL_SECONDS
from aggregator.publishing.ownership import LineRefused
from device_client.downlink.inbox import Inbox
from device_client.downlink.outcome import NewModel
from tests.aggregator.publishing.stages import DeafStage, Make, Other, Stage, settle
from tests.aggregator.stage import MODEL, STATUS
from tests.aggregator.synthetic import LAYOUT, T0, TASK
from tests.aggregator.test_signing import Stage as SigningStage
from tests.wire_contract.keys import key
from wire_contract import codec
from wire_contract.link.memory import MemoryBroker
from wire_contract.link.protocol import Disconnected
from wire_contract.messages import AggregatorStatus, Manifest
from wire_contract.publication.release import first_release
from wire_contract.signatures.signing import sign


def test_a_new_ledger_does_not_begin_over_a_line(stage: Stage, make: Make) -> None:
    stage.teach(7)
    stage.crash()
    stage.receipts()
    stage.send(stage.device("c"))
    before = dict(stage.broker.retained)
    new = make("new", broker=stage.broker)
    with pytest.raises(LineRefused, match=r"at version 7, .* at version 0, .* --version 8\. .*--replace-line"):
        new.step()
    new.link.close()
    assert stage.broker.retained == before, "nothing was changed"
    assert new.receipts() == [], "and nobody answered"
    stage.start()
    stage.step()
    assert stage.outcomes() == ["merged"], "it waited for the right one"


def test_a_version_that_is_due_waits_until_the_line_may_be_published(stage: Stage, make: Make) -> None:
    stage.settings = replace(stage.settings, updates_per_version=9)
    stage.crash()
    stage.start()
    stage.step()
    for name in ("c", "d"):
        stage.send(stage.device(name))
    stage.step()
    stage.crash()
    other = make("other", kind=Other)
    other.step()
    other.teach(1)
    stage.vandal(MODEL, other.broker.retained[MODEL])
    stage.settings = replace(stage.settings, updates_per_version=2)
    stage.start()
    stage.service._publication._inspection._settle_seconds = 0.5
    stage.step()
    assert stage.line.version == 0, "the look is not over"
    stage.now += 1
    with pytest.raises(LineRefused, match=r"Nothing was changed"):
        stage.step()
    assert stage.ledger.mark_from(1) is None


def test_a_backlog_does_not_hide_the_line(stage: Stage, make: Make) -> None:
    stage.teach(2)
    stage.crash()
    for _ in range(20):
        stage.send(stage.device("c"))
    new = make("new", broker=stage.broker, receive_maximum=2)
    with pytest.raises(LineRefused):
        new.step()
    new.link.close()
    stage.start()
    stage.step(3)
    assert stage.line.buffer.updates + stage.line.version > 2, "all of it waited for the right one"
    assert "unknown_base" not in stage.outcomes()


def test_an_older_ledger_is_moved_forward_and_its_orphans_go(stage: Stage, tmp_path: Path) -> None:
    stage.teach(3)
    stage.copy(tmp_path / "copy")
    stage.teach(9)
    stage.crash()
    shutil.copy(tmp_path / "copy", stage.path)
    for side in ("-wal", "-shm"):
        stage.path.with_name(stage.path.name + side).unlink(missing_ok=True)
    stage.start()
    assert stage.line.version == 3
    with pytest.raises(LineRefused, match="--version 13"):
        stage.step()
    stage.crash()
    move_forward(stage.path, version=13, shard=0, unix=lambda: T0 + stage.now)
    stage.start()
    stage.step()
    assert stage.manifest.version == 13
    assert set(stage.models()) == {MODEL}, "version 13 fits its manifest; deltas 5 to 12 and chunks led nowhere"
    stage.teach(1)
    assert stage.manifest.version == 14


def test_orphans_of_moving_forward_go_even_where_nothing_can_be_heard(make: Make) -> None:
    deaf = make(kind=DeafStage)
    settle(deaf)
    deaf.teach(7)
    deaf.crash()
    move_forward(deaf.path, version=78, shard=0, unix=lambda: 5.0)
    deaf.start()
    settle(deaf)
    assert not any("/delta/" in topic for topic in deaf.models())
    assert len(deaf.models()) == 3, "the manifest, and the two newest snapshots in chunks for who is just fetching one"


def test_a_second_aggregator_is_refused_and_the_first_goes_on_undisturbed(stage: Stage, make: Make) -> None:
    stage.teach(2)
    second = make("second", kind=Other, broker=stage.broker)
    stage.heard()
    with pytest.raises(LineRefused):
        second.step()
    second.link.close()
    stage.send(stage.device("c"))
    stage.teach(1)
    assert (stage.manifest.version, stage.status.status) == (3, "online")
    assert "unknown_base" not in stage.outcomes()
    assert not any(isinstance(event, Disconnected) for event in stage.link.receive(count=100, timeout_seconds=0))
    left = stage.broker._sessions["aggregator-1"].subscriptions
    assert set(left.values()) == {0}, "no session that collects updates for nobody"


def test_two_that_began_with_the_same_file_are_two_lines(stage: Stage, make: Make) -> None:
    second = make("second", kind=Other, broker=stage.broker)
    second.ledger.stamp_newest(at=12.0)
    with pytest.raises(LineRefused):
        second.step()


def test_a_line_is_replaced_when_that_is_said(stage: Stage, make: Make) -> None:
    stage.teach(7)
    stage.now += 500_000  # its clock was ahead
    stage.teach(1)
    published_at = stage.manifest.published_at
    stage.crash()
    new = make("new", broker=stage.broker)
    new.crash()
    new.start(replace_line=True)
    new.step()
    assert new.manifest.version == 0
    assert new.manifest.published_at > published_at, "or devices would not take it for newer"
    assert set(new.models()) == {MODEL}, "the other line's deltas and chunks are gone"
    new.crash()
    before = new.models()
    new.start()
    new.step()
    assert new.models() == before, "it is the line now, and the same after a restart"


def test_only_the_start_is_refused_a_running_aggregator_goes_on_and_tells(
    stage: Stage, make: Make, caplog: pytest.LogCaptureFixture
) -> None:
    stage.teach(2)
    ours = stage.models()
    other = make("other", kind=Other)
    other.step()
    other.teach(5)
    stage.vandal(MODEL, other.broker.retained[MODEL])
    stage.step()
    stage.now += HEAL_SECONDS
    stage.step()
    assert unstamped(stage.models()) == unstamped(ours)
    assert "another program published on fedkd/v1/toy/model (version 5 of another line)" in caplog.text
    stage.now += 5
    stage.step(2)
    assert stage.status.counters["strangers"] == 1
    stage.broker.stop()
    stage.step()
    stage.broker.retained[MODEL] = other.broker.retained[MODEL]
    stage.broker.start()
    stage.step(3)
    assert unstamped(stage.models()) == unstamped(ours), "after a reconnection too"


def unstamped(models: dict[str, bytes]) -> dict[str, bytes | Manifest]:
    """Without the moment of publication."""
    manifest = structs.replace(codec.decode(models[MODEL], Manifest), published_at=0.0)
    return {**models, MODEL: manifest}


@pytest.mark.parametrize("moment", [0.0, T0 + 1e6, 2.0**40 - 0.001, 2.0**40])
@pytest.mark.parametrize("version", [1, 1_000, 2**53])
def test_devices_come_back_whatever_a_stranger_has_announced(stage: Stage, version: int, moment: float) -> None:
    """Updates on what the stranger announced go nowhere, so no receipt could tell a device that it is wrong."""
    stage.settings = replace(stage.settings, delta_encoding=None, model_encoding="float32")
    stage.crash()
    stage.layout = LAYOUT
    stage.path = stage.path.with_name("small")
    stage.broker.retained.clear()
    stage.start()
    stage.step()
    stage.teach(3)
    inbox = Inbox(TASK)
    inbox.manifest(stage.broker.retained[MODEL])
    release = first_release(
        np.ones(LAYOUT.size, np.float32),
        task=TASK,
        layout=LAYOUT,
        encoding="float32",
        published_at=moment,
        version=version,
    )
    forged = codec.encode(release.announcement(shards=65_521, update_bytes_max=1).manifest)
    for _ in range(2):
        inbox.manifest(forged)
        stage.vandal(MODEL, forged)
        stage.step()
        stage.now += HEAL_SECONDS
        stage.step()
        inbox.manifest(stage.broker.retained[MODEL])
        assert inbox.held is not None
        assert (inbox.held.manifest.version, inbox.held.manifest.shards) == (stage.line.version, 1)
        assert inbox.held.manifest.digest == stage.line.release.published.digest
    stage.teach(1)
    assert isinstance(inbox.manifest(stage.broker.retained[MODEL]), NewModel)
    before = stage.manifest
    stage.crash()
    stage.start()
    stage.step()
    assert stage.manifest == before, "the moment is in the ledger"


def test_replacing_a_line_stamps_also_where_nothing_stands_in_the_way(stage: Stage) -> None:
    published_at = stage.manifest.published_at
    stage.crash()
    stage.start(replace_line=True)
    stage.step()
    assert stage.manifest.published_at > published_at


def test_a_status_of_somebody_else_is_told_over_at_the_next_look(stage: Stage) -> None:
    stage.vandal(STATUS, codec.encode(AggregatorStatus(status="offline", version=0)))
    stage.now += CHECK_SECONDS
    stage.step(3)
    assert stage.status.status == "online"
    stage.vandal(STATUS)
    stage.now += CHECK_SECONDS
    stage.step(3)
    assert stage.status.status == "online"


def stranger(version: int = 78) -> Manifest:
    return Manifest(
        task=TASK,
        version=version,
        parent=None,
        digest=bytes(32),
        layout_fingerprint=bytes(8),
        encoding="float32",
        size_bytes=1,
        chunk_digests=(bytes(32),),
        inline=None,
        shards=1,
        update_bytes_max=1_024,
        published_at=1e9,
    )


@pytest.mark.parametrize(
    "payload", [codec.encode(stranger()), sign(stranger(), [key(9)]), b"nonsense", codec.frame(b"\x81\xa1v\x63")]
)
def test_with_keys_nobody_else_can_stop_an_aggregator(
    tmp_path: Path, payload: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    stage = SigningStage(tmp_path / "ledger")
    stage.broker.publish(MODEL, payload, retain=True)
    stage.step()
    assert stage.manifest.version == 0
    assert "cannot be used and is replaced" in caplog.text
    stage.ledger.close()


def test_without_keys_damaged_bytes_are_replaced_and_a_newer_program_is_respected(make: Make) -> None:
    stage = make()
    stage.vandal(MODEL, b"nonsense")
    stage.step()
    assert stage.manifest.version == 0
    newer = make("newer", broker=MemoryBroker())
    newer.vandal(MODEL, codec.frame(b"\x81\xa1v\x63"))
    with pytest.raises(LineRefused, match="newer program"):
        newer.step()
