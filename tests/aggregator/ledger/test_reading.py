"""Who may read a ledger: also a user who cannot write to its folder, as on a read-only mount."""

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from aggregator.ledger.file_format import LedgerError
from aggregator.ledger.ledger import Ledger
from aggregator.ledger.reading import read_history, read_totals
from tests.aggregator.ledger.test_ledger import merged
from tests.aggregator.synthetic import T0, TASK, SyntheticDevice, begin

NOBODY = 65_534


@contextmanager
def somebody_who_only_reads(folder: Path) -> Iterator[None]:
    """Root may write everywhere, so root becomes somebody else; everybody else takes away the right to write."""
    folder.chmod(0o755 if os.geteuid() == 0 else 0o555)
    for file in folder.iterdir():
        file.chmod(0o644)
    before = os.geteuid()
    if before == 0:
        os.seteuid(NOBODY)
    try:
        yield
    finally:
        os.seteuid(before)
        folder.chmod(0o755)


@pytest.fixture
def ledger() -> Iterator[Path]:
    folder = Path(tempfile.mkdtemp())  # pytest's own folders are closed to other users
    yield folder / "ledger.sqlite3"
    shutil.rmtree(folder)


def write(path: Path) -> None:
    with Ledger(path, task=TASK) as opened:
        begin(opened)
        opened.commit_batch(merged(SyntheticDevice("a"), 1), now=T0)


def test_after_a_clean_stop(ledger: Path) -> None:
    write(ledger)
    assert not ledger.with_name("ledger.sqlite3-wal").exists()
    with somebody_who_only_reads(ledger.parent):
        assert read_totals(ledger).merged == 1
        assert read_history(ledger, now=T0).bytes_up > 0
    assert sorted(file.name for file in ledger.parent.glob("*-*")) == [], "reading leaves nothing behind"


def test_what_a_killed_aggregator_left_is_not_passed_over_in_silence(ledger: Path) -> None:
    write(ledger)
    killed = ledger.parent / "killed.sqlite3"
    with Ledger(ledger, task=TASK) as opened:
        opened.commit_batch(merged(SyntheticDevice("b"), 1), now=T0)
        for ending in ("", "-wal"):
            shutil.copy(f"{ledger}{ending}", f"{killed}{ending}")
    with somebody_who_only_reads(ledger.parent), pytest.raises(LedgerError, match="newest changes are in killed"):
        read_totals(killed)
    assert read_totals(killed).merged == 2


def test_a_file_that_may_not_be_read(ledger: Path) -> None:
    write(ledger)
    with somebody_who_only_reads(ledger.parent):
        os.seteuid(os.getuid())
        ledger.chmod(0)
        os.seteuid(NOBODY if os.getuid() == 0 else os.getuid())
        with pytest.raises(LedgerError, match="this user may not read it"):
            read_totals(ledger)
