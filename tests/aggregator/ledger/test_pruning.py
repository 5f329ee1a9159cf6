"""A ledger stays as large as its settings say, and merges nothing twice for it."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from aggregator.admission import INCARNATIONS_KEPT, Duplicate, Merge, Refuse, Verdict
from aggregator.ledger import pruning
from aggregator.ledger.file_format import LedgerError
from aggregator.ledger.ledger import Ledger
from aggregator.ledger.pruning import Kept
from aggregator.ledger.reading import read_history, read_shares, read_totals, read_versions
from benchmarks import long_ledgers
from benchmarks.long_ledgers import LedgerSize, write
from tests.aggregator.bench import Bench
from tests.aggregator.ledger.lives import SHORT, next_version, prune_all, rows
from tests.aggregator.synthetic import SETTINGS, SyntheticDevice, accounts


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
