"""The outbox keeps its promises whenever the device dies."""

import itertools
import shutil
import sqlite3
import tempfile
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from device_client.uplink.outbox import Entry, Outbox, payload_digest
from device_client.uplink.outbox_errors import (
    OutboxBlocked,
    OutboxDamaged,
    OutboxForeign,
    OutboxFull,
    OutboxInUse,
    OutboxUnwritable,
)
from device_client.uplink.rounds import Line
from tests.device_client.stage import Kill, fill_disk, free_disk, model
from wire_contract.messages import Identity

NAMES = {"task": "walking", "device": "watch-1"}


def line(rounds: int, *, version: int = 3) -> Line:
    residual = None if rounds == 1 else np.full(5, 0.25 * rounds, dtype=np.float32)
    return Line(version, bytes([version]) * 32, rounds, np.full(5, rounds, dtype=np.float32), 100.0 + rounds, residual)


def add(outbox: Outbox, payload: bytes, rounds: int = 1) -> Entry:
    return outbox.add(outbox.next_identity, payload, line(rounds))


def forget(outbox: Outbox, sequence: int) -> None:
    """Its fate is known."""
    outbox.settle(sequence)
    outbox.record()


def sequences(outbox: Outbox) -> list[int]:
    last = outbox.next_identity.sequence
    return [number for number in range(1, last + 1) if outbox.find(number) is not None]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "state" / "outbox.sqlite"


class WatchedOutbox(Outbox):
    """Calls `before` ahead of every statement."""

    before: Callable[[str], None] = staticmethod(lambda _statement: None)

    def _execute(self, statement: str, *values: object) -> sqlite3.Cursor:
        self.before(statement)
        return super()._execute(statement, *values)


def test_a_new_outbox_draws_its_incarnation_once(path: Path) -> None:
    with Outbox(path, **NAMES, random_bytes=lambda count: b"r" * count) as outbox:
        assert outbox.next_identity == Identity("watch-1", b"rrrrrrrr", 1)
        assert (len(outbox), outbox.head(), outbox.line(), outbox.model()) == (0, None, None, None)
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
        kept = outbox.line()
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
        kept = outbox.line()
        assert kept is not None
        assert kept.rounds == 1
        forget(outbox, 1)
        assert add(outbox, b"three").identity.sequence == 3


# Deaths.


def test_a_commit_survives_the_power_cut(path: Path) -> None:
    """No test can cut the power; these are SQLite's words for it."""
    with Outbox(path, **NAMES) as outbox:
        assert outbox._row("PRAGMA journal_mode") == ("wal",)
        assert outbox._row("PRAGMA synchronous") == (2,), "FULL"


def whole(outbox: Outbox) -> tuple[Any, ...]:
    kept = outbox.line()
    held = outbox.model()
    return (
        outbox.incarnation,
        outbox.next_identity.sequence,
        [(entry.payload, entry.attempts) for number in sequences(outbox) if (entry := outbox.find(number))],
        None if kept is None else (kept.rounds, kept.weights.tolist()),
        None if held is None else held.version,
    )


def first_update(outbox: Outbox) -> None:
    add(outbox, b"first", rounds=1)


def second_update(outbox: Outbox) -> None:
    add(outbox, b"second" * 5_000, rounds=2)


def attempt(outbox: Outbox) -> None:
    head = outbox.head()
    assert head is not None
    outbox.attempted(head)


ACTS: list[Callable[[Outbox], None]] = [
    first_update,
    attempt,
    lambda outbox: outbox.save_model(model(1).manifest),
    second_update,
    lambda outbox: outbox.save_line(line(0)),
    lambda outbox: forget(outbox, 1),
    lambda outbox: outbox.save_model(model(2).manifest),
]


@pytest.mark.parametrize("act", range(len(ACTS)))
def test_a_death_before_any_statement_leaves_all_or_nothing(path: Path, tmp_path: Path, act: int) -> None:
    """The files as they stood before each statement are copied, as a death would leave them, and opened."""
    copies: list[Path] = []

    def copy(_statement: str) -> None:
        folder = tmp_path / f"copy-{len(copies)}"
        shutil.copytree(path.parent, folder)
        copies.append(folder / path.name)

    with WatchedOutbox(path, **NAMES) as outbox:
        for earlier in ACTS[:act]:
            earlier(outbox)
        before = whole(outbox)
        outbox.before = copy  # type: ignore[method-assign]
        ACTS[act](outbox)
        copy("the end")
        outbox.before = WatchedOutbox.before  # type: ignore[method-assign]
        after = whole(outbox)

    assert before != after
    assert len(copies) >= 4
    found = []
    for place in copies:
        with Outbox(place, **NAMES) as reopened:
            found.append(whole(reopened))
            add(reopened, b"goes on")
    assert [state for state in found if state not in (before, after)] == []
    assert found[0] == before
    assert found[-1] == after, "a commit that has returned is durable"


def test_a_death_while_the_outbox_is_made_leaves_one_that_opens(path: Path, tmp_path: Path) -> None:
    count = itertools.count()
    copies: list[Path] = []

    class Making(WatchedOutbox):
        def _execute(self, statement: str, *values: object) -> sqlite3.Cursor:
            folder = tmp_path / f"copy-{next(count)}"
            shutil.copytree(path.parent, folder)
            copies.append(folder / path.name)
            return super()._execute(statement, *values)

    Making(path, **NAMES).close()
    assert len(copies) > 8
    for place in copies:
        with Outbox(place, **NAMES) as outbox:
            assert add(outbox, b"one").identity.sequence == 1


@pytest.mark.parametrize("statement", range(6))
def test_an_exception_in_the_middle_changes_nothing(path: Path, statement: int) -> None:
    with WatchedOutbox(path, **NAMES) as outbox:
        first_update(outbox)
        before = whole(outbox)
        count = itertools.count()

        def die(_statement: str) -> None:
            if next(count) == statement:
                raise Kill

        outbox.before = die  # type: ignore[method-assign]
        died = False
        try:
            second_update(outbox)
        except Kill:
            died = True
        outbox.before = WatchedOutbox.before  # type: ignore[method-assign]
        assert died == (statement < 5), "begin, sequence, queue, line, commit"
        if died:
            assert whole(outbox) == before
            second_update(outbox)
        assert sequences(outbox) == [1, 2]
        assert len(outbox) == 2


class OutboxMachine(RuleBasedStateMachine):
    """Any order of acts and deaths: nothing queued is lost, and no sequence stands for two payloads."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = tempfile.TemporaryDirectory()
        self.path = Path(self.folder.name) / "outbox.sqlite"
        self.waiting: dict[int, bytes] = {}
        self.rounds: int | None = None
        self.sent: dict[tuple[bytes, int], bytes] = {}
        self.made = itertools.count()
        self.outbox = self.open()

    def open(self) -> WatchedOutbox:
        return WatchedOutbox(self.path, **NAMES, random_bytes=lambda count: bytes(range(count)), entries_max=4)

    @precondition(lambda self: len(self.waiting) < 4)
    @rule(statement=st.one_of(st.none(), st.integers(0, 4)))
    def add(self, statement: int | None) -> None:
        number = next(self.made)
        identity = self.outbox.next_identity
        payload = b"payload %d" % number
        count = itertools.count()

        def die(_statement: str) -> None:
            if next(count) == statement:
                raise Kill

        self.outbox.before = die  # type: ignore[method-assign]
        try:
            self.outbox.add(identity, payload, line(number))
        except Kill:
            self.outbox.before = WatchedOutbox.before  # type: ignore[method-assign]
        else:
            self.waiting[identity.sequence] = payload
            self.rounds = number

    @precondition(lambda self: self.waiting)
    @rule()
    def send(self) -> None:
        head = self.outbox.head()
        assert head is not None
        assert head.identity.sequence == min(self.waiting)
        known = self.sent.setdefault((head.identity.incarnation, head.identity.sequence), head.payload)
        assert known == head.payload
        assert self.outbox.attempted(head).attempts == head.attempts + 1

    @precondition(lambda self: self.waiting)
    @rule(data=st.data())
    def settle(self, data: st.DataObject) -> None:
        sequence = data.draw(st.sampled_from(sorted(self.waiting)))
        forget(self.outbox, sequence)
        del self.waiting[sequence]

    @rule()
    def restart(self) -> None:
        self.outbox.close()
        self.outbox = self.open()

    @rule()
    def die_and_restart(self) -> None:
        """As a killed process leaves the files: not closed, nothing folded into the main file."""
        other = Path(self.folder.name) / f"life-{next(self.made)}"
        shutil.copytree(self.path.parent, other, ignore=shutil.ignore_patterns("life-*"))
        self.outbox.close()
        self.path = other / self.path.name
        self.outbox = self.open()

    @invariant()
    def what_waits_is_there(self) -> None:
        found = {number: entry.payload for number in sequences(self.outbox) if (entry := self.outbox.find(number))}
        assert found == self.waiting
        assert len(self.outbox) == len(self.waiting)
        kept = self.outbox.line()
        assert (None if kept is None else kept.rounds) == self.rounds
        assert self.outbox.next_identity.sequence > max(
            [*self.waiting, *(number for _, number in self.sent)], default=0
        )

    def teardown(self) -> None:
        self.outbox.close()
        self.folder.cleanup()


OutboxMachine.TestCase.settings = settings(max_examples=25, stateful_step_count=20, deadline=None)
TestOutboxMachine = OutboxMachine.TestCase


# What a user can do about it stands in one line.


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
