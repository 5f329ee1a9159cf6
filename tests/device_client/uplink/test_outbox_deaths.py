"""An outbox keeps its promises whenever the device dies."""

import itertools
import shutil
import sqlite3
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from device_client.uplink.outbox import Outbox
from tests.device_client.stage import Kill, model
from tests.device_client.uplink.watched_outbox import (
    NAMES,
    WatchedOutbox,
    add,
    first_update,
    forget,
    local_student,
    sequences,
    whole,
)


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
    lambda outbox: outbox.save_local_student(local_student(0)),
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
            self.outbox.add(identity, payload, local_student(number))
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
        kept = self.outbox.local_student()
        assert (None if kept is None else kept.rounds) == self.rounds
        assert self.outbox.next_identity.sequence > max(
            [*self.waiting, *(number for _, number in self.sent)], default=0
        )

    def teardown(self) -> None:
        self.outbox.close()
        self.folder.cleanup()


OutboxMachine.TestCase.settings = settings(max_examples=25, stateful_step_count=20, deadline=None)


TestOutboxMachine = OutboxMachine.TestCase
