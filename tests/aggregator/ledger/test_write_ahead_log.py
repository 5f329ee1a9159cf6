"""The write-ahead log stays small."""

import sqlite3
from contextlib import closing

import pytest

from aggregator.ledger import write_ahead_log
from aggregator.ledger.ledger import Ledger
from aggregator.ledger.reading import read_totals
from benchmarks import long_ledgers
from tests.aggregator.ledger.lives import next_version


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
