"""What is checked when a ledger is opened, and damage that shows later."""

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from aggregator.ledger.file_format import LedgerBusy, LedgerError
from aggregator.ledger.ledger import Ledger
from aggregator.ledger.reading import read_history, read_totals
from aggregator.ledger.restoring import restore
from benchmarks import long_ledgers
from tests.aggregator.ledger.lives import SHORT, next_version
from tests.aggregator.synthetic import T0


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
    left_open = [Ledger(one.path, task=long_ledgers.TASK)]
    left_open[-1]._lock.release()
    assert checked == [one.path], "the machine has stopped meanwhile"
    left_open.append(Ledger(one.path, task=long_ledgers.TASK))
    left_open[-1]._lock.release()
    assert checked == [one.path], "and was checked"
    monkeypatch.setattr("aggregator.ledger.file_format._boot", lambda: None)
    left_open.append(Ledger(one.path, task=long_ledgers.TASK))
    left_open[-1]._lock.release()
    assert checked == [one.path, one.path], "nobody knows"
    for ledger in (killed, again, *left_open):
        ledger._db.close()


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
