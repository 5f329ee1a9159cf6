"""The ledger under crashes at every step: each update is in the journal once, and a restart has the same bits.

The machine plays the broker (deliveries stay until acknowledged, and any may come again much later), the devices
(updates stay until their receipt; a device may be reinstalled and begin anew) and the aggregator's loop. A twin does
what was committed, in a ledger of its own, and is never restarted.

The ledger remembers the updates of two versions and two incarnations of each device, the twin forgets nothing.
"""

import shutil
import sqlite3
import tempfile
from contextlib import closing
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from aggregator import model_line
from aggregator.admission import Duplicate, Judged, Merge, Refuse
from aggregator.ledger import ledger, pruning
from aggregator.ledger.ledger import Ledger
from aggregator.ledger.pruning import Kept
from aggregator.ledger.reading import read_totals
from aggregator.ledger.records import Batch, batch_of, row_of
from aggregator.ledger.restoring import restore
from aggregator.model_line import announcement
from tests.aggregator.synthetic import (
    FOLLOWED,
    SETTINGS,
    T0,
    TASK,
    SyntheticDevice,
    begin,
    identities,
    initial_weights,
    newest_weights,
    replay,
)
from wire_contract.codec import encode
from wire_contract.compression.rate_control import CompressionTarget
from wire_contract.limits import KEPT_DELTAS
from wire_contract.messages import Evaluation, Update

DEVICES = st.integers(0, 2)
LINE = replace(
    SETTINGS,
    journal_versions_kept=2,
    model_encoding="float16",
    snapshot_versions=3,
    delta_encoding=CompressionTarget(bytes_max=1_000),
)


@dataclass
class _Device:
    maker: SyntheticDevice
    lives: int = 0
    outbox: list[tuple[Update, bytes]] = field(default_factory=list)
    refused: set[tuple[bytes, int]] = field(default_factory=set)


class _Died(Exception):
    """The process ended inside a transaction."""


class LedgerMachine(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp())
        self.path = self.folder / "ledger.sqlite3"
        self.devices = [_Device(SyntheticDevice(f"device-{index}", FOLLOWED)) for index in range(3)]
        self.broker: list[tuple[_Device, Update, bytes]] = []
        self.sent: list[tuple[_Device, Update, bytes]] = []
        self.expected: list[tuple[str, bytes, int]] = []
        self.beyond_memory = 0
        """Updates that the twin remembers or could take, and the ledger refuses because it cannot know."""
        self.open_ledgers: list[Ledger] = []
        self.patched = pytest.MonkeyPatch()
        self.patched.setattr(ledger, "INCARNATIONS_KEPT", 2)
        self.patched.setattr(model_line, "INCARNATIONS_KEPT", 2)
        self.patched.setattr(pruning, "SLACK_VERSIONS", 0)

    @initialize()
    def start(self) -> None:
        self.twin_ledger = self._opened(self.folder / "twin.sqlite3")
        self.twin = begin(self.twin_ledger, LINE, FOLLOWED)
        self.ledger = self._opened(self.path)
        self.line = begin(self.ledger, LINE, FOLLOWED)

    def teardown(self) -> None:
        for still_open in self.open_ledgers:
            still_open.close()
        shutil.rmtree(self.folder)
        self.patched.undo()

    def _opened(self, path: Path) -> Ledger:
        ledger = Ledger(path, task=TASK)
        ledger._db.execute("PRAGMA synchronous = OFF")  # the process dies here, not the machine
        self.open_ledgers.append(ledger)
        return ledger

    # -- devices and broker

    @rule(
        number=DEVICES,
        bad=st.sampled_from([None, "stale digest", "diverged"]),
        samples=st.sampled_from([1, 10, 25, 2**53]),
        size=st.sampled_from([1e-3, 0.1, 1.0, 5.0]),
    )
    def train(self, number: int, bad: str | None, samples: int, size: float) -> None:
        self._train(self.devices[number], bad, samples=samples, size=size)

    def _train(self, device: _Device, bad: str | None = None, *, samples: int = 10, size: float = 0.1) -> None:
        changes: dict[str, Any] = {"base_digest": bytes(32)} if bad == "stale digest" else {}
        changes["samples"] = samples
        changes["difference"] = np.float32(size) * initial_weights(FOLLOWED)
        if bad == "diverged":
            changes["difference"] = initial_weights(FOLLOWED) * 1e6
        update = device.maker.update(self.line, **changes)
        if bad:
            device.refused.add((update.incarnation, update.sequence))
        device.outbox.append((update, encode(update)))

    @rule(number=DEVICES)
    def reinstall(self, number: int) -> None:
        device = self.devices[number]
        device.lives += 1
        device.maker = SyntheticDevice(device.maker.name, FOLLOWED, b"life%04d" % device.lives)
        device.outbox.clear()

    @precondition(lambda self: self.sent)
    @rule(data=st.data())
    def an_old_message_comes_again(self, data: st.DataObject) -> None:
        self.broker.insert(0, data.draw(st.sampled_from(self.sent)))

    @rule(numbers=st.sets(DEVICES, min_size=1))
    def send(self, numbers: set[int]) -> None:
        for device in (self.devices[number] for number in sorted(numbers)):
            if not device.outbox:
                self._train(device)
            if device.outbox:  # one at a time: the oldest, until its receipt
                self.broker.append((device, *device.outbox[0]))
                self.sent.append(self.broker[-1])

    @rule()
    def the_broker_delivers_out_of_order(self) -> None:
        self.broker.reverse()

    # -- the aggregator

    @rule(count=st.integers(1, 5), end=st.sampled_from(["", "", "", "merge", "transaction", "commit", "ack"]))
    def take(self, count: int, end: str) -> None:
        """One batch; the process dies after the step named by `end`."""
        deliveries = self.broker[:count]
        judged = [(device, self.line.judge(device.maker.parsed, payload)) for device, _, payload in deliveries]
        if end == "merge":
            return self.crash()
        batch = batch_of([result for _, result in judged])
        if end == "transaction":
            return self._die_inside(batch)
        self.ledger.commit_batch(batch, now=T0)
        self._commit_on_the_twin(judged)
        if end == "commit":
            return self.crash()
        del self.broker[:count]
        if end == "ack":
            return self.crash()
        self._forget_incarnations()
        for device, result in judged:
            assert result.update is not None
            answered = result.update.identity
            device.outbox = [kept for kept in device.outbox if kept[0].identity != answered]
        return None

    def _forget_incarnations(self) -> None:
        for crowded in self.line.crowded():
            for key in self.ledger.forget_incarnations(crowded):
                self.line.forget(key)

    def _die_inside(self, batch: Batch) -> None:
        class Metrics(dict[str, float]):
            def items(self) -> object:  # type: ignore[override]
                raise _Died

        last = Evaluation(task=TASK, device="d", version=0, digest=bytes(32), samples=1, metrics=Metrics({"a": 1.0}))
        try:
            self.ledger.commit_batch(replace(batch, evaluations=(last,)), now=T0)
        except _Died:
            return self.crash()
        raise AssertionError("the transaction went through")

    def _commit_on_the_twin(self, judged: list[tuple[_Device, Judged]]) -> None:
        twins = []
        for device, result in judged:
            assert result.update is not None
            identity = result.update.identity
            key = (identity.device, identity.incarnation, identity.sequence)
            if isinstance(result.verdict, Refuse) and not result.verdict.is_remembered:
                assert result.verdict.reason == "too_stale"
                assert result.update.base_version < self.line.version
                self.beyond_memory += 1
                continue
            same = self.twin.judge(device.maker.parsed, result.payload)
            twins.append(same)
            match result.verdict:
                case Merge():
                    assert key not in self.expected, "merged twice"
                    assert key[1:] not in device.refused
                    assert same.verdict == result.verdict
                    self.expected.append(key)
                case Refuse():
                    assert key[1:] in device.refused
                    assert not isinstance(same.verdict, Merge)
                case Duplicate():
                    assert not isinstance(same.verdict, Merge)
        self.twin_ledger.commit_batch(batch_of(twins), now=T0)

    @precondition(lambda self: self.line.buffer.slots)
    @rule(end=st.sampled_from(["", "", "before", "after"]))
    def make_version(self, end: str) -> None:
        step = self.line.next_step()
        release = self.line.next_release(step.weights, at=T0)
        if end == "before":
            return self.crash()
        row = row_of(release)
        self.ledger.commit_version(row, step, rule=LINE.rule.name)
        twins = self.twin.next_step()
        self.twin_ledger.commit_version(row, twins, rule=LINE.rule.name)
        self.twin.advance(self.twin.next_release(twins.weights, at=T0), twins)
        if end == "after":
            return self.crash()
        self.line.advance(release, step)
        self.ledger.prune(Kept.of(LINE))
        return None

    @rule()
    def crash(self) -> None:
        self.ledger.close()
        self.open_ledgers.remove(self.ledger)
        self.ledger = self._opened(self.path)
        self.line = restore(self.ledger, LINE)

    @rule(number=DEVICES, lives=st.integers(2, 4))
    def lives_pass(self, number: int, lives: int) -> None:
        """So many of one device, each with an update and a version, until its first ones are forgotten."""
        for _ in range(lives):
            self.reinstall(number)
            self.send({number})
            self.take(len(self.broker), "")
            if self.line.buffer.slots:
                self.make_version("")

    # -- what always holds

    @invariant()
    def each_update_is_in_the_journal_once(self) -> None:
        whole = identities(self.folder / "twin.sqlite3")
        assert whole == self.expected
        assert len(set(whole)) == len(whole)
        found = identities(self.path)
        assert found == whole[len(whole) - len(found) :], "the newest ones"

    @invariant()
    def the_journal_is_complete_from_its_horizon_on(self) -> None:
        with (
            closing(sqlite3.connect(self.path)) as ours,
            closing(sqlite3.connect(self.folder / "twin.sqlite3")) as twins,
        ):
            since = "SELECT count(*) FROM journal WHERE into_version >= ?"
            horizon = (self.ledger.horizon(),)
            assert ours.execute(since, horizon).fetchone() == twins.execute(since, horizon).fetchone()

    @invariant()
    def the_line_has_the_bits_of_its_twin(self) -> None:
        assert self.line.version == self.twin.version
        assert self.line.weights.tobytes() == self.twin.weights.tobytes()
        assert (self.line.buffer.slots, self.line.buffer.updates) == (self.twin.buffer.slots, self.twin.buffer.updates)
        if self.line.buffer.slots:
            assert self.line.next_step().weights.tobytes() == self.twin.next_step().weights.tobytes()

    @invariant()
    def what_is_published_has_the_bytes_of_its_twin(self) -> None:
        ours, twins = announcement(LINE, self.line.release), announcement(LINE, self.twin.release)
        assert encode(ours.manifest) == encode(twins.manifest)
        assert (ours.chunks, ours.deltas) == (twins.chunks, twins.deltas)
        assert len(ours.deltas) == min(self.line.version, KEPT_DELTAS)

    @invariant()
    def the_journal_makes_the_same_weights_again(self) -> None:
        version, weights = replay(self.folder / "twin.sqlite3", FOLLOWED, initial_weights(FOLLOWED))
        assert version == self.line.version
        assert weights.tobytes() == newest_weights(self.path).tobytes() == self.line.weights.tobytes()

    @invariant()
    def the_totals_are_those_of_the_twin(self) -> None:
        ours, twins = read_totals(self.path), read_totals(self.folder / "twin.sqlite3")
        assert (ours.version, ours.merged, ours.bytes_in, ours.waiting, ours.devices) == (
            twins.version,
            twins.merged,
            twins.bytes_in,
            twins.waiting,
            twins.devices,
        )
        assert ours.merged == len(self.expected)
        answers = ours.duplicates + ours.refused
        assert answers == twins.duplicates + twins.refused + self.beyond_memory


TestLedgerMachine = LedgerMachine.TestCase
TestLedgerMachine.settings = settings(max_examples=25, stateful_step_count=30)
