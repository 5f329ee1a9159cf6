"""A merging rule with state of its own: what it remembers is committed with each version and survives a restart."""

import shutil
import sqlite3
import struct
from collections.abc import Iterator, Mapping
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from aggregator.ledger import pruning
from aggregator.ledger.file_format import LedgerError
from aggregator.ledger.ledger import Ledger
from aggregator.ledger.pruning import Kept
from aggregator.ledger.records import batch_of, row_of
from aggregator.ledger.renumber import move_forward
from aggregator.ledger.restoring import restore
from aggregator.merging.rule import Contribution, Rule, RuleState, Slot, Step
from aggregator.merging.rules import RULES
from aggregator.model_line import LineSettings, ModelLine
from tests.aggregator.synthetic import LAYOUT, SETTINGS, T0, TASK, SyntheticDevice, begin
from wire_contract.layout import Vector

DEVICES_MAX = 3


class Momentum:
    """A moving average of the mean difference, and how often each of the last three devices came: state of all kinds.

    A shared value that is replaced (`average`), one a version of which old ones are deleted (`step-N`), and one a
    device, evicted when there are too many.
    """

    def __init__(self, size: int, rate: float) -> None:
        self._rate = rate
        self._sum: Vector = np.zeros(size, dtype=np.float32)
        self._average: Vector = np.zeros(size, dtype=np.float32)
        self._steps = 0
        self._visits: dict[str, int] = {}

    def add(self, contribution: Contribution) -> None:
        self._sum += contribution.clipped() * np.float32(contribution.weight)

    def version(self, weights: Vector, slots: Mapping[str, Slot]) -> Step:
        average = np.float32(0.9) * self._average + self._sum / np.float32(len(slots))
        visits = self._visits | {device: self._visits.get(device, 0) + 1 for device in slots}
        evicted = sorted(visits, key=lambda device: (visits[device], device))[: max(0, len(visits) - DEVICES_MAX)]
        changed: dict[tuple[str, str], bytes | None] = {
            (device, "visits"): struct.pack("<q", visits[device]) for device in slots
        }
        shared: dict[str, bytes | None] = {
            "average": average.astype("<f4").tobytes(),
            f"step-{self._steps + 1}": b"",
            f"step-{self._steps - 1}": None,
        }
        boost = np.float32(1 + sum(visits.values()) / 100)
        state = RuleState(shared, changed | {(device, "visits"): None for device in evicted})
        return Step(weights + np.float32(self._rate) * boost * average, state)

    def restore(self, state: RuleState) -> None:
        for key, value in state.shared.items():
            if key == "average":
                if value is None or len(value) != self._average.nbytes:
                    raise ValueError("not an average")
                self._average = np.frombuffer(value, dtype="<f4").astype(np.float32)
            elif value is not None:
                self._steps = max(self._steps, int(key.removeprefix("step-")))
        for (device, _), value in state.devices.items():
            if value is None:
                self._visits.pop(device, None)
            else:
                self._visits[device] = struct.unpack("<q", value)[0]
        self._sum = np.zeros_like(self._sum)


MOMENTUM = Rule(
    name="momentum",
    divisor="count",
    sums_only=False,
    keeps_devices=True,
    cuts_at_exactly_k=False,
    begin=Momentum,
)
LINE = replace(SETTINGS, rule=MOMENTUM)
NAMES = "abcde"


def learn(ledger: Ledger, line: ModelLine, names: str, *, version: bool = True) -> None:
    devices = [SyntheticDevice(name, incarnation=b"life%04d" % line.version) for name in names]
    ledger.commit_batch(batch_of([line.judge(device.parsed, device.payload(line)) for device in devices]), now=T0)
    if version:
        step = line.next_step()
        release = line.next_release(step.weights, at=T0)
        ledger.commit_version(row_of(release), step, rule=line.settings.rule.name)
        line.advance(release, step)


def some(number: int) -> str:
    return NAMES[number % len(NAMES)] + NAMES[(number + 2) % len(NAMES)]


@pytest.fixture
def twin(tmp_path: Path) -> Iterator[ModelLine]:
    """A line that is never restarted, at version 8 and with updates that wait."""
    with Ledger(tmp_path / "twin", task=TASK) as ledger:
        line = begin(ledger, LINE)
        for number in range(8):
            learn(ledger, line, some(number))
        learn(ledger, line, "ab", version=False)
        yield line


def rows(ledger: Ledger, table: str) -> int:
    return int(ledger._db.execute(f"SELECT count(*) FROM {table}").fetchone()[0])


def reread(path: Path, copy: Path) -> ModelLine:
    """As a restart would read a ledger that is in use."""
    for end in ("", "-wal"):
        shutil.copy(f"{path}{end}", f"{copy}{end}")
    with Ledger(copy, task=TASK) as ledger:
        return restore(ledger, LINE)


def test_a_restart_after_every_version_changes_no_bit(tmp_path: Path, twin: ModelLine) -> None:
    path = tmp_path / "ledger"
    with Ledger(path, task=TASK) as ledger:
        begin(ledger, LINE)
    for number in range(8):
        with Ledger(path, task=TASK) as ledger:
            line = restore(ledger, LINE)
            learn(ledger, line, some(number), version=False)
        with Ledger(path, task=TASK) as ledger:  # between a batch and its version, too
            line = restore(ledger, LINE)
            learn(ledger, line, "", version=True)
    with Ledger(path, task=TASK) as ledger:
        learn(ledger, restore(ledger, LINE), "ab", version=False)
        line = restore(ledger, LINE)
        assert line.weights.tobytes() == twin.weights.tobytes()
        assert line.next_step().weights.tobytes() == twin.next_step().weights.tobytes()
        assert line.next_step().state == twin.next_step().state


def test_without_its_state_the_rule_would_go_another_way(tmp_path: Path, twin: ModelLine) -> None:
    with closing(sqlite3.connect(tmp_path / "twin")) as db:
        db.execute("UPDATE rule_device_state SET value = ?", (struct.pack("<q", 50),))
        db.commit()
    found = reread(tmp_path / "twin", tmp_path / "copy")
    assert found.weights.tobytes() == twin.weights.tobytes()
    assert found.next_step().weights.tobytes() != twin.next_step().weights.tobytes()


def test_a_value_stays_until_it_is_replaced_or_deleted(tmp_path: Path, twin: ModelLine) -> None:
    with closing(sqlite3.connect(tmp_path / "twin")) as db:
        shared = db.execute("SELECT key, version FROM rule_state ORDER BY key").fetchall()
        devices = db.execute("SELECT device, key, version FROM rule_device_state ORDER BY device").fetchall()
    assert shared == [("momentum/average", 8), ("momentum/step-7", 7), ("momentum/step-8", 8)]
    assert len(devices) == DEVICES_MAX
    assert {key for _, key, _ in devices} == {"momentum/visits"}
    assert min(version for _, _, version in devices) < 8, "of a device that was not in the newest version"
    assert twin.version == 8


def test_state_outlives_pruned_versions_and_a_move_forward(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("SLACK_VERSIONS", "SUMMARY_VERSIONS_KEPT"):
        monkeypatch.setattr(pruning, name, 0)
    path = tmp_path / "ledger"
    with Ledger(path, task=TASK) as ledger:
        line = begin(ledger, LINE)
        learn(ledger, line, "ab")
        for _ in range(300):
            learn(ledger, line, "cd")
        for _ in range(20):
            ledger.prune(Kept(journal_versions=2, staleness_max=2))
        assert rows(ledger, "version") < 300
        learn(ledger, line, "e", version=False)
        expected = line.next_step()
    assert move_forward(path, version=1_000, shard=0, unix=lambda: T0) == 301
    with Ledger(path, task=TASK) as ledger:
        restored = restore(ledger, LINE)
        assert restored.version == 1_000
        assert restored.next_step().weights.tobytes() == expected.weights.tobytes()


def test_state_that_was_not_committed_with_its_version_is_not_there(tmp_path: Path) -> None:
    with Ledger(tmp_path / "ledger", task=TASK) as ledger:
        line = begin(ledger, LINE)
        learn(ledger, line, "ab", version=False)
        step = line.next_step()
        assert step.state.shared
        row = row_of(line.next_release(step.weights, at=T0))
        with pytest.raises(AssertionError):
            ledger.commit_version(row, replace(step, state=RuleState(devices={("a", "visits"): b""})), rule="momentum")
        assert ledger.newest()[0].version == 0
        assert ledger.rule_state("momentum") == RuleState()


def test_another_rule_does_not_find_it_and_its_first_version_deletes_it(tmp_path: Path) -> None:
    path = tmp_path / "ledger"
    with Ledger(path, task=TASK) as ledger:
        line = begin(ledger, LINE)
        for _ in range(3):
            learn(ledger, line, "ab")
    settings = replace(LINE, rule=RULES["fedbuff"])
    with Ledger(path, task=TASK) as ledger:
        line = restore(ledger, settings)
        assert rows(ledger, "rule_device_state") == 2, "a start alone changes nothing"
        learn(ledger, line, "ab")
        assert rows(ledger, "rule_state") == rows(ledger, "rule_device_state") == 0
        again = restore(ledger, LINE)
        learn(ledger, again, "ab", version=False)
        assert again.next_step().state.devices.keys() == {("a", "visits"), ("b", "visits")}


def test_state_that_the_rule_cannot_read_is_one_line(tmp_path: Path) -> None:
    with Ledger(tmp_path / "ledger", task=TASK) as ledger:
        learn(ledger, begin(ledger, LINE), "ab")
        ledger._db.execute("UPDATE rule_state SET value = x'00' WHERE key = 'momentum/average'")
        with pytest.raises(LedgerError, match="is damaged: state of rule momentum: not an average"):
            restore(ledger, LINE)


def test_every_rule_of_the_table_has_its_name_and_begins_empty() -> None:
    assert list(RULES) == [rule.name for rule in RULES.values()]
    assert LineSettings(task=TASK).rule is RULES["fedbuff"]
    for rule in RULES.values():
        rule.begin(LAYOUT.size, 1.0).restore(RuleState())
        with pytest.raises(ValueError, match="state"):
            rule.begin(LAYOUT.size, 1.0).restore(RuleState({"unknown": b""}))
