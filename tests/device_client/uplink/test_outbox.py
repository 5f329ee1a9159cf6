"""What an outbox keeps, in what order, and which files and disks it refuses."""

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from device_client.uplink.outbox import Outbox
from device_client.uplink.outbox_errors import (
    OutboxBlocked,
    OutboxDamaged,
    OutboxForeign,
    OutboxFull,
    OutboxInUse,
    OutboxUnwritable,
)
from device_client.uplink.outbox_rows import payload_digest
from tests.device_client.stage import fill_disk, free_disk, model
from tests.device_client.uplink.watched_outbox import (
    NAMES,
    add,
    first_update,
    forget,
    sequences,
    whole,
)
from wire_contract.messages import Identity


def test_a_new_outbox_draws_its_incarnation_once(path: Path) -> None:
    with Outbox(path, **NAMES, random_bytes=lambda count: b"r" * count) as outbox:
        assert outbox.next_identity == Identity("watch-1", b"rrrrrrrr", 1)
        assert (len(outbox), outbox.head(), outbox.local_student(), outbox.model()) == (0, None, None, None)
    with Outbox(path, **NAMES, random_bytes=lambda count: b"s" * count) as outbox:
        assert outbox.incarnation == b"rrrrrrrr"


def test_what_is_kept_is_there_after_a_restart_in_its_order(path: Path) -> None:
    with Outbox(path, **NAMES) as outbox:
        for number in (1, 2, 3):
            add(outbox, b"update %d" % number, rounds=number)
        head = outbox.head()
        assert head is not None
        assert outbox.attempted(head).attempts == 1
        forget(outbox, 2)
        manifest = model(7).manifest
        outbox.save_model(manifest)
    with Outbox(path, **NAMES) as outbox:
        assert sequences(outbox) == [1, 3]
        assert len(outbox) == 2
        head = outbox.head()
        assert head is not None
        assert (head.payload, head.base_version, head.attempts) == (b"update 1", 3, 1)
        assert outbox.model() == manifest
        kept = outbox.local_student()
        assert kept is not None
        assert (kept.base_version, kept.rounds, kept.weights.tolist(), kept.finished_at) == (3, 3, [3.0] * 5, 103.0)
        assert kept.residual is not None
        assert kept.residual.tolist() == [0.75] * 5, "what is told later is kept together with it"
        assert outbox.next_identity.sequence == 4


def test_sequences_are_not_used_again_after_the_last_one_was_removed(path: Path) -> None:
    with Outbox(path, **NAMES) as outbox:
        add(outbox, b"one")
        forget(outbox, 1)
    with Outbox(path, **NAMES) as outbox:
        assert outbox.next_identity.sequence == 2


def test_an_update_is_found_by_the_digest_of_its_payload(path: Path) -> None:
    with Outbox(path, **NAMES) as outbox:
        add(outbox, b"one")
        entry = add(outbox, b"two")
        found = outbox.find_payload(payload_digest(b"two"))
        assert found == entry
        assert outbox.find_payload(payload_digest(b"three")) is None


def test_removing_twice_counts_once(path: Path) -> None:
    with Outbox(path, **NAMES) as outbox:
        add(outbox, b"one")
        add(outbox, b"two")
        forget(outbox, 1)
        forget(outbox, 1)
        assert len(outbox) == 1


def test_a_full_outbox_takes_nothing_and_loses_nothing(path: Path) -> None:
    with Outbox(path, **NAMES, entries_max=2) as outbox:
        add(outbox, b"one")
        assert not outbox.is_full
        add(outbox, b"two")
        assert outbox.is_full
        with pytest.raises(OutboxFull, match="2 updates wait"):
            add(outbox, b"three", rounds=9)
        assert sequences(outbox) == [1, 2]
        kept = outbox.local_student()
        assert kept is not None
        assert kept.rounds == 1
        forget(outbox, 1)
        assert add(outbox, b"three").identity.sequence == 3


def test_a_commit_survives_the_power_cut(path: Path) -> None:
    """No test can cut the power; these are SQLite's words for it."""
    with Outbox(path, **NAMES) as outbox:
        assert outbox._row("PRAGMA journal_mode") == ("wal",)
        assert outbox._row("PRAGMA synchronous") == (2,), "FULL"


# Errors that a user can act on are one line.


def test_a_second_process_is_refused(path: Path) -> None:
    with Outbox(path, **NAMES), pytest.raises(OutboxInUse, match="in use by another process") as caught:
        Outbox(path, **NAMES)
    assert str(path) in str(caught.value)
    Outbox(path, **NAMES).close()


def test_another_device_or_task_is_refused(path: Path) -> None:
    Outbox(path, **NAMES).close()
    with pytest.raises(OutboxForeign, match="device watch-1 of task walking"):
        Outbox(path, task="walking", device="watch-2")
    with pytest.raises(OutboxForeign, match="another state folder"):
        Outbox(path, task="swimming", device="watch-1")


def test_a_database_of_another_program_is_refused_and_untouched(path: Path) -> None:
    path.parent.mkdir()
    other = sqlite3.connect(path)
    other.execute("CREATE TABLE photos (name TEXT)")
    other.close()
    content = path.read_bytes()
    with pytest.raises(OutboxForeign, match="another program"):
        Outbox(path, **NAMES)
    assert path.read_bytes() == content


@pytest.mark.parametrize("content", [b"this is not a database" * 100, b"SQLite format 3\0" + b"\xff" * 5_000])
def test_a_damaged_file_is_named(path: Path, content: bytes) -> None:
    path.parent.mkdir()
    path.write_bytes(content)
    with pytest.raises(OutboxDamaged, match="move it away") as caught:
        Outbox(path, **NAMES)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)
    assert path.read_bytes() == content


def test_damage_inside_is_found_on_opening(path: Path) -> None:
    with Outbox(path, **NAMES) as outbox:
        for _ in range(20):
            add(outbox, bytes(10_000))
    content = bytearray(path.read_bytes())
    content[4096:] = b"\x5a" * (len(content) - 4096)
    path.write_bytes(content)
    with pytest.raises(OutboxDamaged, match="move it away"):
        Outbox(path, **NAMES)


def test_a_full_disk_is_named_and_nothing_is_half_written(path: Path) -> None:
    with Outbox(path, **NAMES) as outbox:
        first_update(outbox)
        before = whole(outbox)
        fill_disk(outbox)
        with pytest.raises(OutboxBlocked, match=r"full.*free some space"):
            add(outbox, bytes(100_000))
        assert whole(outbox) == before
        free_disk(outbox)
        assert add(outbox, bytes(100_000)).identity.sequence == 2


def test_a_folder_that_cannot_be_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(OutboxUnwritable, match=r"file/outbox\.sqlite"):
        Outbox(tmp_path / "file" / "outbox.sqlite", **NAMES)


def test_nobody_else_may_read_what_a_device_learned(path: Path) -> None:
    with Outbox(path, **NAMES) as outbox:
        first_update(outbox)
        assert {file.stat().st_mode & 0o077 for file in path.parent.iterdir()} == {0}


def test_a_cached_model_that_cannot_be_read_does_not_hold_up_the_updates(path: Path) -> None:
    with Outbox(path, **NAMES) as outbox:
        add(outbox, b"update 1", rounds=1)
        outbox.save_model(model(7).manifest)
    with closing(sqlite3.connect(path)) as database, database:
        database.execute("UPDATE model SET manifest = x'00'")
    with Outbox(path, **NAMES) as outbox:
        assert outbox.model() is None
        assert sequences(outbox) == [1]
