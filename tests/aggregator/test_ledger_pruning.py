"""A ledger stays as large as its settings say, costs the same at any age, and merges nothing twice for it."""

import shutil
import sqlite3
import sys
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from types import FrameType
from typing import Any, Self

import pytest

from aggregator.admission import INCARNATIONS_KEPT, Duplicate, Merge, Refuse, Verdict
from aggregator.ledger import pruning, reading, write_ahead_log
from aggregator.ledger.file_format import LedgerBusy, LedgerError
from aggregator.ledger.ledger import Ledger
from aggregator.ledger.pruning import Kept
from aggregator.ledger.reading import read_history, read_shares, read_totals, read_versions
from aggregator.ledger.restoring import restore
from aggregator.merging.fedbuff import FEDBUFF
from aggregator.merging.rule import Step
from aggregator.service import Clock, Service, subscriptions
from benchmarks import long_ledgers
from benchmarks.long_ledgers import LedgerSize, batch, counted_steps, write
from tests.aggregator.synthetic import ROOT, SETTINGS, T0, TASK, SyntheticDevice, accounts
from tests.aggregator.test_admission import Bench
from wire_contract.link.memory import MemoryBroker, MemoryLink

SHORT = Kept(journal_versions=3, staleness_max=5)


def rows(ledger: Ledger, table: str) -> int:
    return int(ledger._db.execute(f"SELECT count(*) FROM {table}").fetchone()[0])


def next_version(ledger: Ledger, *, updates: int = 20, payload_bytes: int = 0) -> None:
    """The same weights under the next number, and the updates that it was made of."""
    row, weights = ledger.newest()
    number = row.version + 1
    ledger.commit_batch(batch(into_version=number, updates=updates, payload_bytes=payload_bytes), now=T0)
    ledger.commit_version(replace(row, version=number, chunks=0), Step(weights), rule=FEDBUFF.name)


# -- what it costs


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

    def _trace(self, frame: FrameType, event: str, _: Any) -> "Callable[..., Any] | None":
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


# -- what is left


@pytest.fixture
def one(tmp_path: Path) -> Iterator[Ledger]:
    """An open ledger with 300 versions of 20 updates."""
    write(tmp_path / "ledger", LedgerSize(versions=300, devices=30))
    with Ledger(tmp_path / "ledger", task=long_ledgers.TASK) as ledger:
        yield ledger


@pytest.fixture
def exact(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows go as soon as they may."""
    monkeypatch.setattr(pruning, "SLACK_VERSIONS", 0)
    monkeypatch.setattr(pruning, "SUMMARY_VERSIONS_KEPT", 0)


def prune_all(ledger: Ledger, kept: Kept = SHORT) -> int:
    """As often as there is something to do; so many times."""
    for pieces in range(100):
        before = ledger._db.total_changes
        ledger.prune(kept)
        if ledger._db.total_changes == before:
            return pieces
    raise AssertionError("it never ends")


@pytest.mark.usefixtures("exact")
def test_what_is_kept_stays_and_what_is_not_goes_in_bounded_pieces(one: Ledger) -> None:
    before = read_totals(one.path)
    one.prune(SHORT)
    assert rows(one, "journal") == 6_000 - pruning.ROWS_PRUNED
    assert prune_all(one) == 5
    assert one.horizon() == 298
    assert [row[0] for row in one._db.execute("SELECT DISTINCT into_version FROM journal")] == [298, 299, 300]
    versions = [moment.version for moment in read_versions(one.path)]
    assert versions == list(range(301 - pruning.VERSION_ROWS_KEPT, 301))
    assert one._db.execute("SELECT min(version) FROM evaluation").fetchone()[0] == versions[0]
    assert read_totals(one.path) == before


def test_a_version_of_many_updates_takes_as_many_with_it(one: Ledger) -> None:
    next_version(one, updates=1_500)
    before = rows(one, "journal")
    one.prune(SHORT)
    assert before - rows(one, "journal") == 3_000, "or such versions would come faster than they go"


def test_totals_and_history_are_those_of_the_whole_life(one: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pruning, "SLACK_VERSIONS", 0)

    def seen() -> list[Any]:
        history = read_history(one.path, now=long_ledgers.T0 + 10 * 300)
        return [
            read_totals(one.path),
            sorted(read_shares(one.path)),
            history.staleness,
            history.devices,
            history.bytes_up,
            history.merged_at,
            history.evaluations,
            one.contributed(since=291, until=300),
            accounts(one.path),
            one.last_of_devices(),
        ]

    before = seen()
    prune_all(one, replace(SHORT, journal_versions=10))
    assert rows(one, "journal") == 200
    assert len(before[6]) == 128
    assert seen() == before


def test_little_is_not_worth_a_transaction(one: Ledger) -> None:
    kept = Kept(journal_versions=300 - pruning.SLACK_VERSIONS)
    before = one._db.total_changes
    one.prune(kept)
    assert one._db.total_changes == before
    next_version(one)
    one.prune(kept)
    assert rows(one, "journal") == 6_020 - pruning.ROWS_PRUNED


def test_the_file_does_not_grow_once_old_rows_go(one: Ledger) -> None:
    kept = Kept(journal_versions=100)
    sizes = []
    for _ in range(4):
        for _ in range(70):
            next_version(one, payload_bytes=2_000)
            one.prune(kept)
        one._db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        sizes.append(one.path.stat().st_size)
    assert sizes[3] == pytest.approx(sizes[2], rel=0.1)
    assert sizes[2] < sizes[1] * 1.5


@pytest.mark.usefixtures("exact")
def test_the_rows_of_snapshots_and_deltas_stay_whatever_their_numbers(tmp_path: Path) -> None:
    write(tmp_path / "ledger", LedgerSize(versions=100))
    with Ledger(tmp_path / "ledger", task=long_ledgers.TASK) as ledger:
        row, weights = ledger.newest()
        ledger.move_forward(replace(row, version=50_000), weights, before=100)
        next_version(ledger)
        prune_all(ledger)
        assert rows(ledger, "journal") == 20
        assert rows(ledger, "version") == 103, "as few as these tell what is still on the broker"


@pytest.mark.usefixtures("exact")
def test_an_evaluation_stays_however_old_while_there_is_no_newer_one(one: Ledger) -> None:
    one._db.execute("DELETE FROM evaluation WHERE version > 20")
    prune_all(one)
    assert read_totals(one.path).evaluated_version == 20
    assert rows(one, "evaluation") == 1


def test_a_full_disk_prunes_nothing(one: Ledger) -> None:
    before = rows(one, "journal")
    one._db.execute("PRAGMA query_only = ON")
    with pytest.raises(LedgerError):
        one.prune(SHORT)
    one._db.execute("PRAGMA query_only = OFF")
    assert (rows(one, "journal"), one.horizon()) == (before, 0)
    one.prune(SHORT)
    assert one.horizon() == 298


def test_the_horizon_outlives_the_program_and_never_goes_back(one: Ledger) -> None:
    one.prune(SHORT)
    one.close()
    with Ledger(one.path, task=long_ledgers.TASK) as again:
        assert again.horizon() == 298
        next_version(again)
        again.prune(replace(SHORT, journal_versions=100))
        assert again.horizon() == 298, "what is gone does not come back with another setting"


# -- merging twice


def reborn(life: int) -> SyntheticDevice:
    return SyntheticDevice("watch-1", incarnation=b"life-%03d" % life)


@pytest.fixture
def forgetful(tmp_path: Path) -> Iterator[Bench]:
    """Keeps the updates of three versions."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(pruning, "SLACK_VERSIONS", 0)
        bench = Bench(tmp_path / "ledger", replace(SETTINGS, journal_versions_kept=3))
        yield bench
        bench.ledger.close()


def version_of_others(bench: Bench) -> None:
    bench.verdict(SyntheticDevice("other", incarnation=b"other%03d" % bench.line.version))
    bench.next_version()
    bench.ledger.prune(Kept.of(bench.line.settings))


def test_what_may_have_been_merged_and_forgotten_is_refused_by_name(forgetful: Bench) -> None:
    bench = forgetful
    first = reborn(0)
    late = [first.payload(bench.line) for _ in range(3)]
    assert isinstance(bench.give(first, late[0]).verdict, Merge)
    assert isinstance(bench.give(first, late[1]).verdict, Merge)
    bench.next_version()
    for life in range(1, INCARNATIONS_KEPT + 1):
        assert isinstance(bench.verdict(reborn(life)), Merge)
    while bench.ledger.horizon() < 2:
        assert bench.give(first, late[1]).verdict == Duplicate(), "the journal remembers it"
        version_of_others(bench)
    merged = read_totals(bench.path).merged

    def said(verdict: Verdict) -> str:
        assert isinstance(verdict, Refuse)
        assert verdict.reason == "too_stale"
        assert len(verdict.detail) <= 300
        return verdict.detail

    for payload in [*late, *late]:
        assert "merged since version 2" in said(bench.give(first, payload).verdict)
    assert "train again from the newest model" in said(bench.give(first, late[0]).verdict)
    assert read_totals(bench.path).merged == merged
    assert read_totals(bench.path).refused_by_reason == {"too_stale": 7}
    assert isinstance(bench.verdict(first), Merge), "what it learns from the newest model is welcome"
    assert bench.give(first, late[0]).verdict == Duplicate()


def test_a_device_that_was_never_forgotten_may_be_as_late_as_it_likes(forgetful: Bench) -> None:
    bench = forgetful
    device = SyntheticDevice("patient")
    early = [device.payload(bench.line) for _ in range(2)]
    assert isinstance(bench.give(device, early[0]).verdict, Merge)
    bench.next_version()
    for _ in range(10):
        version_of_others(bench)
    assert bench.ledger.horizon() > 5
    assert bench.give(device, early[0]).verdict == Duplicate()
    assert isinstance(bench.give(device, early[1]).verdict, Merge)


def test_an_update_that_can_only_be_in_what_is_kept_is_merged(forgetful: Bench) -> None:
    bench = forgetful
    for life in range(1, INCARNATIONS_KEPT + 1):
        bench.verdict(reborn(life))
    late = []
    for number in range(6):
        unknown = reborn(500 + number)
        late.append((bench.line.version, unknown, unknown.payload(bench.line)))
        version_of_others(bench)
    horizon = bench.ledger.horizon()
    assert horizon == bench.line.version - 2
    verdicts = {base: type(bench.give(unknown, payload).verdict) for base, unknown, payload in late}
    assert verdicts == {base: Merge if base >= horizon - 1 else Refuse for base, _, _ in late}
    assert set(verdicts.values()) == {Merge, Refuse}


# -- the write-ahead log


@pytest.fixture
def small_log(one: Ledger, monkeypatch: pytest.MonkeyPatch) -> Ledger:
    monkeypatch.setattr(write_ahead_log, "LOG_BYTES_MAX", 400_000)
    one.close()
    return Ledger(one.path, task=long_ledgers.TASK)


def log_bytes(ledger: Ledger) -> int:
    return ledger.path.with_name(ledger.path.name + "-wal").stat().st_size


def work(ledger: Ledger, versions: int) -> None:
    for _ in range(versions):
        next_version(ledger, payload_bytes=2_000)
        ledger.shrink_log()


def test_the_log_is_small_again_when_a_reader_ends(small_log: Ledger, caplog: pytest.LogCaptureFixture) -> None:
    with closing(small_log), closing(sqlite3.connect(small_log.path)) as reader:
        work(small_log, 30)
        assert log_bytes(small_log) <= 500_000
        reader.execute("BEGIN")
        reader.execute("SELECT count(*) FROM journal").fetchone()
        work(small_log, 60)
        large = log_bytes(small_log)
        assert large > 2_000_000
        told = [record.message for record in caplog.records if "cannot shrink" in record.message]
        assert 1 <= len(told) <= 6, "each time it has doubled, not at each version"
        assert "MB and cannot shrink before a program that reads the ledger ends" in told[0]
        assert read_totals(small_log.path).version == 390, "neither of them waits for the other"
        reader.execute("COMMIT")
        work(small_log, 2)
        assert log_bytes(small_log) <= 500_000
        small_log.shrink_log()
        work(small_log, 30)
        assert log_bytes(small_log) <= 500_000


# -- opening


def test_a_structure_is_checked_only_after_the_machine_stopped(one: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    checked: list[Path] = []
    monkeypatch.setattr("aggregator.ledger.file_format.check_structure", lambda _, path: checked.append(path))
    one.close()
    Ledger(one.path, task=long_ledgers.TASK).close()
    assert not checked, "it was closed"

    killed = Ledger(one.path, task=long_ledgers.TASK)
    next_version(killed)
    killed._lock.release()
    again = Ledger(one.path, task=long_ledgers.TASK)
    assert not checked, "it was killed, and what the system had taken is there"

    again._lock.release()
    monkeypatch.setattr("aggregator.ledger.file_format._boot", lambda: "another one")
    Ledger(one.path, task=long_ledgers.TASK)._lock.release()
    assert checked == [one.path], "the machine has stopped meanwhile"
    Ledger(one.path, task=long_ledgers.TASK)._lock.release()
    assert checked == [one.path], "and was checked"
    monkeypatch.setattr("aggregator.ledger.file_format._boot", lambda: None)
    Ledger(one.path, task=long_ledgers.TASK)._lock.release()
    assert checked == [one.path, one.path], "nobody knows"


def damage(path: Path, page: int) -> None:
    content = bytearray(path.read_bytes())
    size = int.from_bytes(content[16:18], "big")
    content[(page - 1) * size : page * size] = bytes([0x7F]) * size
    path.write_bytes(content)


def test_damage_is_one_line_wherever_it_is_met(one: Ledger) -> None:
    one.close()
    with closing(sqlite3.connect(one.path)) as db:
        names = ["journal", "version", "device", "account", "counter", "evaluation", "meta", "journal_by_version"]
        pages = {name: page for name, page in db.execute("SELECT name, rootpage FROM sqlite_master") if name in names}
        assert set(pages) == set(names)
    whole = one.path.read_bytes()
    for name, page in pages.items():
        one.path.write_bytes(whole)
        damage(one.path, page)
        with pytest.raises(LedgerError, match=r"damaged|cannot be read") as caught:
            everything(one.path)
        assert "\n" not in str(caught.value), name
        assert not isinstance(caught.value, LedgerBusy), "waiting would not help"


def everything(path: Path) -> None:
    """What an aggregator does with a ledger in the end."""
    with Ledger(path, task=long_ledgers.TASK) as ledger:
        restore(ledger, long_ledgers.SETTINGS)
        read_totals(path)
        read_history(path, now=T0)
        next_version(ledger)
        ledger.prune(SHORT)


def test_a_table_that_is_missing_is_damage_by_name(one: Ledger) -> None:
    one._db.execute("DROP TABLE account")
    one.close()
    with pytest.raises(LedgerError, match=r"is damaged .without index account_by_merge, table account.; restore"):
        Ledger(one.path, task=long_ledgers.TASK)
