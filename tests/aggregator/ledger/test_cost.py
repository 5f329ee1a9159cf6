"""A ledger costs the same at any age and with any number of devices."""

import shutil
import sqlite3
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import FrameType
from typing import Any, Self

import pytest

from aggregator.ledger import reading
from aggregator.ledger.ledger import Ledger
from aggregator.ledger.reading import read_history, read_shares, read_totals
from aggregator.ledger.restoring import restore
from aggregator.merging.fedbuff import FEDBUFF
from aggregator.merging.rule import Step
from aggregator.service import Service, subscriptions
from benchmarks import long_ledgers
from benchmarks.long_ledgers import LedgerSize, batch, counted_steps, write
from tests.aggregator.ledger.lives import next_version
from tests.aggregator.synthetic import ROOT, T0, TASK, SyntheticDevice
from wire_contract.link.memory import MemoryBroker, MemoryLink
from wire_contract.program.clock import Clock


def steps_of_a_version(path: Path) -> list[int]:
    """SQLite's instructions for a batch and for a version that follow on what is there."""
    with Ledger(path, task=long_ledgers.TASK) as ledger:
        next_version(ledger)  # so that all devices of the batch are known
        row, weights = ledger.newest()
        number = row.version + 1
        with counted_steps(ledger._db) as of_batch:
            ledger.commit_batch(batch(into_version=number, updates=20), now=T0)
        with counted_steps(ledger._db) as of_version:
            ledger.commit_version(replace(row, version=number), Step(weights), rule=FEDBUFF.name)
        return [of_batch.count, of_version.count]


@pytest.fixture(scope="module")
def lives(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The ledgers of a short life and of one twenty times as long."""
    folder = tmp_path_factory.mktemp("lives")
    for name, versions in (("short", 1_000), ("long", 20_000)):
        write(folder / name, LedgerSize(versions=versions))
    return folder / "short", folder / "long"


def test_a_commit_does_not_grow_with_history(lives: tuple[Path, Path], tmp_path: Path) -> None:
    # `python -m benchmarks ledger` has 80,000 versions.
    short, long = (steps_of_a_version(Path(shutil.copy(path, tmp_path))) for path in lives)
    assert long == pytest.approx(short, rel=0.2)
    assert all(count > 50 for count in short), "something is counted"


def test_a_turn_does_not_grow_with_the_number_of_devices(tmp_path: Path) -> None:
    found = []
    for devices in (10, 1_000, 100_000):
        write(tmp_path / f"{devices}", LedgerSize(versions=50, updates_per_version=2_000, devices=devices))
        found.append(steps_of_turns(tmp_path / f"{devices}"))
    (few_steps, _), (some_steps, some_lines), (many_steps, many_lines) = found
    assert many_steps == pytest.approx(few_steps, rel=0.2)
    assert many_steps == pytest.approx(some_steps, rel=0.2)
    assert many_lines == pytest.approx(some_lines, rel=0.2), "with ten devices less, because 256 peers are compared"
    assert all(count > 0 for count in many_steps[1:] + many_lines)


def steps_of_turns(path: Path) -> tuple[list[int], list[int]]:
    """An idle turn, one with an update and one with a version: SQLite's instructions, and lines of ours executed."""
    settings = replace(long_ledgers.SETTINGS, updates_per_version=2)
    broker = MemoryBroker()
    with Ledger(path, task=long_ledgers.TASK) as ledger:
        line = restore(ledger, settings)
        link = MemoryLink(broker, "us", subscriptions=subscriptions(root=ROOT, task=long_ledgers.TASK, shard=0))
        devices = MemoryLink(broker, "devices", subscriptions=())
        now = 0.0
        service = Service(
            line,
            ledger,
            link,
            root=ROOT,
            totals=read_totals(path),
            history=read_history(path, now=T0),
            clock=Clock(monotonic=lambda: now, unix=lambda: T0 + now),
            pause=lambda _: None,
        )
        service.step()
        found: tuple[list[int], list[int]] = ([], [])
        for names in ((), ("a",), ("b",)):
            now += 10  # so that each turn tells its status, too
            for name in names:
                device = SyntheticDevice(name, long_ledgers.LAYOUT)
                payload = device.payload(line, task=long_ledgers.TASK)
                devices.publish(device.topic.replace(TASK, long_ledgers.TASK), payload)
            with counted_steps(ledger._db) as steps, _CountedLines() as lines:
                service.step()
            found[0].append(steps.count)
            found[1].append(lines.count)
        assert line.version == 51, "the last turn made a version"
        link.close()
        return found


class _CountedLines:
    """Lines of the aggregator's code that are executed; a comprehension counts once for each of its items."""

    count = 0

    def __enter__(self) -> Self:
        self._before = sys.gettrace()
        sys.settrace(self._trace)
        return self

    def __exit__(self, *_: object) -> None:
        sys.settrace(self._before)

    def _trace(self, frame: FrameType, event: str, _: Any) -> Callable[..., Any] | None:
        if "/aggregator/" not in frame.f_code.co_filename:
            return None
        if event == "line":
            self.count += 1
        return self._trace


def test_a_long_ledger_opens_by_reading_little_of_it(lives: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    real, of_views = reading._open, long_ledgers.Steps()

    def counting(path: Path) -> sqlite3.Connection:
        db = real(path)
        db.set_progress_handler(of_views, 1)
        return db

    monkeypatch.setattr(reading, "_open", counting)
    counts = []
    for path in lives:
        of_views.count = 0
        with Ledger(path, task=long_ledgers.TASK) as ledger, counted_steps(ledger._db) as steps:
            restore(ledger, long_ledgers.SETTINGS)
            read_totals(path)
            read_shares(path)
            read_history(path, now=long_ledgers.T0 + 1e6)
            counts.append([steps.count, of_views.count])
    assert counts[1] == pytest.approx(counts[0], rel=0.2)
    assert all(count > 1_000 for count in counts[0])
