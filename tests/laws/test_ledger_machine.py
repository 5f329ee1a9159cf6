"""The ledger under crashes at every step: each update is in the journal once, and a restart has the same bits.

The machine plays the broker (deliveries stay until acknowledged), the devices (updates stay until their receipt) and
the aggregator's loop. A twin does what was committed, in a ledger of its own, and is never restarted.
"""

import shutil
import tempfile
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from aggregator.admission import Duplicate, Merge, Refuse
from aggregator.ledger import Ledger
from aggregator.ledger_rows import Batch
from aggregator.ledger_view import read_totals
from aggregator.model_line import BatchBuilder, Judged, ModelLine, announcement, restore, row_of
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
from wire_contract.limits import KEPT_DELTAS
from wire_contract.messages import Evaluation, Update
from wire_contract.planner import Plan

DEVICES = st.integers(0, 2)
LINE = replace(
    SETTINGS,
    journal_versions_kept=10_000,
    model_encoding="float16",
    snapshot_versions=3,
    delta_encoding=Plan(bytes_max=1_000),
)


@dataclass
class _Device:
    maker: SyntheticDevice
    outbox: list[tuple[Update, bytes]] = field(default_factory=list)
    refused: set[int] = field(default_factory=set)


class _Died(Exception):
    """The process ended inside a transaction."""


class LedgerMachine(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp())
        self.path = self.folder / "ledger.sqlite3"
        self.devices = [_Device(SyntheticDevice(f"device-{index}", FOLLOWED)) for index in range(3)]
        self.broker: list[tuple[_Device, Update, bytes]] = []
        self.expected: list[tuple[str, bytes, int]] = []
        self.open_ledgers: list[Ledger] = []

    @initialize()
    def start(self) -> None:
        self.twin_ledger = self._opened(self.folder / "twin.sqlite3")
        self.twin = begin(self.twin_ledger, LINE, FOLLOWED)
        self.ledger = self._opened(self.path)
        self.line = begin(self.ledger, LINE, FOLLOWED)

    def teardown(self) -> None:
        for ledger in self.open_ledgers:
            ledger.close()
        shutil.rmtree(self.folder)

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
            device.refused.add(update.sequence)
        device.outbox.append((update, encode(update)))

    @rule(numbers=st.sets(DEVICES, min_size=1))
    def send(self, numbers: set[int]) -> None:
        for device in (self.devices[number] for number in sorted(numbers)):
            if not device.outbox:
                self._train(device)
            if device.outbox:  # one at a time: the oldest, until its receipt
                self.broker.append((device, *device.outbox[0]))

    @rule()
    def the_broker_delivers_out_of_order(self) -> None:
        self.broker.reverse()

    # -- the aggregator

    @rule(count=st.integers(1, 5), end=st.sampled_from(["", "", "", "merge", "transaction", "commit", "ack"]))
    def take(self, count: int, end: str) -> None:
        """One batch; the process dies after the step named by `end`."""
        deliveries = self.broker[:count]
        builder = BatchBuilder()
        judged = [
            (device, payload, self._judge(self.line, builder, device, payload)) for device, _, payload in deliveries
        ]
        if end == "merge":
            return self.crash()
        batch = builder.build()
        if end == "transaction":
            return self._die_inside(batch)
        self.ledger.commit_batch(batch, now=T0)
        self._commit_on_the_twin(judged)
        if end == "commit":
            return self.crash()
        del self.broker[:count]
        if end == "ack":
            return self.crash()
        for device, _, result in judged:
            assert result.update is not None
            device.outbox = [kept for kept in device.outbox if kept[0].sequence != result.update.sequence]
        return None

    def _judge(self, line: ModelLine, builder: BatchBuilder, device: _Device, payload: bytes) -> Judged:
        judged = line.judge(device.maker.parsed, payload)
        builder.take(judged, payload, into_version=line.version + 1)
        return judged

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

    def _commit_on_the_twin(self, judged: list[tuple[_Device, bytes, Judged]]) -> None:
        builder = BatchBuilder()
        for device, payload, result in judged:
            assert result.update is not None
            same = self._judge(self.twin, builder, device, payload)
            assert same.verdict == result.verdict
            match result.verdict:
                case Merge():
                    assert result.update.sequence not in device.refused
                    identity = result.update.identity
                    self.expected.append((identity.device, identity.incarnation, identity.sequence))
                case Refuse():
                    assert result.update.sequence in device.refused
                case Duplicate():
                    pass
        self.twin_ledger.commit_batch(builder.build(), now=T0)

    @precondition(lambda self: self.line.buffer.slots)
    @rule(end=st.sampled_from(["", "", "before", "after"]))
    def make_version(self, end: str) -> None:
        weights = self.line.next_weights()
        shelf = self.line.next_shelf(weights, at=T0)
        if end == "before":
            return self.crash()
        row = row_of(shelf)
        self.ledger.commit_version(row, weights, journal_versions_kept=LINE.journal_versions_kept)
        twins = self.twin.next_weights()
        self.twin_ledger.commit_version(row, twins, journal_versions_kept=LINE.journal_versions_kept)
        self.twin.advance(self.twin.next_shelf(twins, at=T0), twins)
        if end == "after":
            return self.crash()
        self.line.advance(shelf, weights)
        return None

    @rule()
    def crash(self) -> None:
        self.ledger.close()
        self.open_ledgers.remove(self.ledger)
        self.ledger = self._opened(self.path)
        self.line = restore(self.ledger, LINE)

    # -- what always holds

    @invariant()
    def each_update_is_in_the_journal_once(self) -> None:
        found = identities(self.path)
        assert found == self.expected
        assert len(set(found)) == len(found)

    @invariant()
    def the_line_has_the_bits_of_its_twin(self) -> None:
        assert self.line.version == self.twin.version
        assert self.line.weights.tobytes() == self.twin.weights.tobytes()
        assert (self.line.buffer.slots, self.line.buffer.updates) == (self.twin.buffer.slots, self.twin.buffer.updates)
        if self.line.buffer.slots:
            assert self.line.next_weights().tobytes() == self.twin.next_weights().tobytes()

    @invariant()
    def what_is_published_has_the_bytes_of_its_twin(self) -> None:
        ours, twins = announcement(LINE, self.line.shelf), announcement(LINE, self.twin.shelf)
        assert encode(ours.manifest) == encode(twins.manifest)
        assert (ours.chunks, ours.deltas) == (twins.chunks, twins.deltas)
        assert len(ours.deltas) == min(self.line.version, KEPT_DELTAS)

    @invariant()
    def the_journal_makes_the_same_weights_again(self) -> None:
        version, weights = replay(self.path, FOLLOWED, initial_weights(FOLLOWED))
        assert version == self.line.version
        assert weights.tobytes() == newest_weights(self.path).tobytes() == self.line.weights.tobytes()

    @invariant()
    def the_totals_are_those_of_the_twin(self) -> None:
        ours, twins = read_totals(self.path), read_totals(self.folder / "twin.sqlite3")
        assert ours == twins
        assert ours.merged == len(self.expected)


TestLedgerMachine = LedgerMachine.TestCase
TestLedgerMachine.settings = settings(max_examples=25, stateful_step_count=30)
