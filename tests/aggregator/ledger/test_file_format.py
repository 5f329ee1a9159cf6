"""A ledger of an older format is brought to this one in one transaction, with the same bits; a newer one is refused.

`ledgers/format-2.sqlite3` was written by the last program whose ledgers had format 2, and `format-2.json` is what that
program read from it (`ledgers/make_format_2.txt`).
"""

import hashlib
import json
import os
import shutil
import sqlite3
import stat
import subprocess
import sys
from collections.abc import Callable
from contextlib import closing
from dataclasses import asdict, replace
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest

from aggregator.ledger import file_format
from aggregator.ledger.file_format import FORMAT, LedgerBusy, LedgerError
from aggregator.ledger.ledger import Ledger
from aggregator.ledger.reading import read_history, read_journal, read_shares, read_task, read_totals
from aggregator.ledger.renumber import move_forward
from aggregator.ledger.restoring import restore
from aggregator.model_line import announcement
from tests.aggregator.synthetic import SETTINGS, T0, TASK, Account, accounts, begin
from wire_contract.codec import encode
from wire_contract.compression.rate_control import CompressionTarget

LINE = replace(SETTINGS, model_encoding="float16", delta_encoding=CompressionTarget(bytes_max=1_000))
LEDGERS = Path(__file__).parent / "ledgers"


FORMAT_2 = LEDGERS / "format-2.sqlite3"


EXPECTED: dict[str, Any] = json.loads((LEDGERS / "format-2.json").read_text())


@pytest.fixture
def old(tmp_path: Path) -> Path:
    """A ledger of format 2."""
    return Path(shutil.copy(FORMAT_2, tmp_path / "ledger.sqlite3"))


def format_of(path: Path) -> str:
    with closing(sqlite3.connect(path)) as db:
        return str(db.execute("SELECT value FROM meta WHERE key = 'format'").fetchone()[0])


def content(path: Path) -> list[str]:
    with closing(sqlite3.connect(path)) as db:
        return list(db.iterdump())


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def test_a_migrated_ledger_has_the_bits_of_the_program_that_wrote_it(old: Path) -> None:
    with Ledger(old, task=TASK) as ledger:
        line = restore(ledger, LINE)
        told = announcement(LINE, line.release)
        found = {
            "version": line.version,
            "weights": sha256(line.weights.tobytes()),
            "manifest": sha256(encode(told.manifest)),
            "deltas": [sha256(payload) for payload in told.deltas.values()],
            "contributed": ledger.contributed(since=line.version - 9, until=line.version),
            "buffer": [line.buffer.slots, line.buffer.updates],
        }
    assert found == {name: EXPECTED[name] for name in found}
    assert format_of(old) == str(FORMAT)


def test_what_waits_at_a_migration_counts_like_what_comes_after_it(old: Path) -> None:
    with Ledger(old, task=TASK) as ledger:
        waiting = list(ledger.journal(into_version=restore(ledger, LINE).version + 1))
    assert [one.weight * 32 for one in waiting] == [8.485281374238571, 11.0, 24.0, 13.0], "about 40 samples an update"
    assert [(one.scale, one.norm) for one in waiting] == [(1.0, None)] * len(waiting)


def test_a_migrated_ledger_has_the_totals_and_the_history_of_before(old: Path) -> None:
    Ledger(old, task=TASK).close()
    totals = asdict(read_totals(old))
    assert totals.pop("begun")
    assert (totals.pop("waiting_devices"), totals.pop("devices_min"), totals.pop("closed_at")) == (3, None, None)
    assert (totals.pop("main_metric"), totals.pop("higher_is_better")) == ("accuracy", True)
    assert (totals.pop("label_count"), totals.pop("labels")) == (None, ())
    assert totals == EXPECTED["totals"]
    assert [[name, 32 * weight, at] for name, weight, at in sorted(read_shares(old))] == EXPECTED["shares"], (
        "weights were in samples, about 40 of them an update, and are about 1 now"
    )
    expected = EXPECTED["history"]
    history = read_history(old, now=expected["now"])
    assert {str(version): at for version, at in history.committed_at.items()} == expected["committed_at"]
    assert [list(map(one.__getattribute__, one.__struct_fields__)) for one in history.evaluations] == expected[
        "evaluations"
    ]
    assert {str(staleness): updates for staleness, updates in history.staleness.items()} == expected["staleness"]
    assert [list(map(one.__getattribute__, one.__struct_fields__)) for one in history.devices] == expected["devices"]
    assert list(history.merged_at) == expected["merged_at"]
    assert history.bytes_up == expected["bytes_up"]


def accounts_by_hand(path: Path) -> dict[str, Account]:
    """From the journal, row by row."""
    found: dict[str, Account] = {}
    with closing(sqlite3.connect(path)) as db:
        rows = db.execute("SELECT device, into_version, samples, merged_at FROM journal ORDER BY id")
        for device, version, samples, at in rows:
            before = found.pop(device, None)  # so that the newest comes last
            found[device] = Account(
                device=device,
                first_version=before.first_version if before else version,
                last_version=version,
                versions=before.versions + (version != before.last_version) if before else 1,
                updates=before.updates + 1 if before else 1,
                samples=samples,
                slot_norm=None,
                last_merged_at=at,
            )
    return found


def test_the_account_of_each_device_is_made_from_the_journal(old: Path) -> None:
    Ledger(old, task=TASK).close()
    found = accounts(old)
    assert {account.device: account for account in found} == accounts_by_hand(old)
    assert found == list(accounts_by_hand(old).values())[::-1], "who was merged last comes first"


def tables(path: Path) -> dict[str, Any]:
    with closing(sqlite3.connect(path)) as db:
        names = [row[0] for row in db.execute("SELECT name FROM sqlite_master WHERE type = 'table' ORDER BY name")]
        indices: list[tuple[str, str]] = db.execute(
            "SELECT name, sql FROM sqlite_master WHERE type = 'index' AND sql IS NOT NULL ORDER BY name"
        ).fetchall()
        columns = {name: db.execute(f"PRAGMA table_xinfo({name})").fetchall() for name in names}
        keys = {name: db.execute(f"PRAGMA index_list({name})").fetchall() for name in names}
        return {"columns": columns, "indices": indices, "keys": {name: sorted(found) for name, found in keys.items()}}


def test_a_migrated_ledger_has_the_tables_of_a_new_one(old: Path, tmp_path: Path) -> None:
    Ledger(old, task=TASK).close()
    Ledger(tmp_path / "new", task=TASK).close()
    migrated, new = tables(old), tables(tmp_path / "new")
    assert migrated["columns"] == new["columns"]
    assert migrated["indices"] == new["indices"]
    unordered = {name: {row[1:] for row in rows} for name, rows in migrated["keys"].items()}
    assert unordered == {name: {row[1:] for row in rows} for name, rows in new["keys"].items()}
    assert {"rule_state", "rule_device_state"} <= migrated["columns"].keys()


def test_every_format_has_a_way_to_the_next() -> None:
    assert list(file_format.MIGRATIONS) == list(range(file_format.OLDEST_FORMAT, FORMAT))
    assert all(files("aggregator.ledger").joinpath(script).is_file() for script in file_format.MIGRATIONS.values())


@pytest.mark.parametrize("statement", range(1, 22))
def test_a_migration_that_fails_at_any_statement_changes_nothing(
    old: Path, monkeypatch: pytest.MonkeyPatch, statement: int
) -> None:
    before, mode = content(old), old.stat().st_mode
    real, executed = file_format._execute_script, 0

    def cut_off(db: sqlite3.Connection, name: str) -> None:
        class Counting:
            def execute(self, sql: str) -> None:
                nonlocal executed
                executed += 1
                if executed == statement:
                    raise sqlite3.OperationalError("database or disk is full")
                db.execute(sql)

        real(Counting(), name)  # type: ignore[arg-type]

    monkeypatch.setattr(file_format, "_execute_script", cut_off)
    with pytest.raises(LedgerBusy, match="disk is full"):
        Ledger(old, task=TASK)
    assert executed == statement, "the script has so many statements"
    assert content(old) == before
    assert old.stat().st_mode == mode
    monkeypatch.undo()
    Ledger(old, task=TASK).close()
    assert format_of(old) == str(FORMAT)


def test_a_program_killed_in_a_migration_leaves_the_old_format(old: Path) -> None:
    before = content(old)
    code = (
        "import os, signal, sys; from pathlib import Path; from aggregator.ledger import file_format, ledger\n"
        "real = file_format._execute_script\n"
        "def killed(db, name):\n"
        "    db.execute('PRAGMA cache_size = 1')\n"  # so that pages are in the file before the commit
        "    real(db, name)\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
        "file_format._execute_script = killed\n"
        "ledger.Ledger(Path(sys.argv[1]), task='toy')"
    )
    root = Path(__file__).parents[3]
    assert subprocess.run([sys.executable, "-c", code, str(old)], cwd=root, check=False).returncode == -9
    assert format_of(old) == "2"
    assert content(old) == before
    Ledger(old, task=TASK).close()
    assert read_totals(old).merged == EXPECTED["totals"]["merged"]


def test_a_full_disk_leaves_the_old_format(old: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = content(old)
    real = file_format.connect

    def small(path: Path) -> sqlite3.Connection:
        db = real(path)
        db.execute(f"PRAGMA max_page_count = {db.execute('PRAGMA page_count').fetchone()[0]}")
        return db

    monkeypatch.setattr("aggregator.ledger.ledger.connect", small)
    with pytest.raises(LedgerBusy, match="free disk space"):
        Ledger(old, task=TASK)
    assert content(old) == before


@pytest.mark.parametrize("opened", [lambda path: Ledger(path, task=TASK).close(), read_totals, read_task])
@pytest.mark.parametrize(
    ("found", "said"),
    [
        (str(FORMAT + 1), f"has format {FORMAT + 1}, and this program knows formats 2 to {FORMAT}; .* update this one"),
        ("1", "has format 1, which no released program wrote"),
        ("new", "names no format"),
    ],
)
def test_other_formats_are_refused_by_name(old: Path, opened: Callable[[Path], object], found: str, said: str) -> None:
    with closing(sqlite3.connect(old)) as db, db:
        db.execute("UPDATE meta SET value = ? WHERE key = 'format'", (found,))
    before = content(old)
    for _ in range(2):
        with pytest.raises(LedgerError, match=said) as caught:
            opened(old)
        assert "\n" not in str(caught.value)
        assert str(old) in str(caught.value)
    assert content(old) == before


@pytest.mark.parametrize("reading", [read_totals, read_shares, read_journal, lambda path: read_history(path, now=0)])
def test_readers_say_that_the_aggregator_has_to_migrate_it(old: Path, reading: Callable[[Path], object]) -> None:
    before = content(old)
    with pytest.raises(LedgerError, match=r"has format 2, from an earlier version .*; start the aggregator on it once"):
        reading(old)
    assert content(old) == before, "looking changes nothing"


def test_a_ledger_of_another_task_is_not_migrated(old: Path) -> None:
    with pytest.raises(LedgerError, match="its task is"):
        Ledger(old, task="another")
    assert format_of(old) == "2"


def test_a_ledger_of_the_old_format_can_be_moved_forward(old: Path) -> None:
    before = EXPECTED["version"]
    assert move_forward(old, version=1_000, shard=0, unix=lambda: T0) == before
    with Ledger(old, task=TASK) as ledger:
        line = restore(ledger, LINE)
        assert line.version == 1_000
        assert sha256(line.weights.tobytes()) == EXPECTED["weights"]
        assert line.buffer.updates == EXPECTED["buffer"][1]
        waiting = {account.device: account.last_version for account in accounts(old)[:3]}
        assert waiting == {"watch": 1_001, "phone": 1_001, "late-3": 1_001}
        contributed = ledger.contributed(since=0, until=1_000)
    assert contributed == EXPECTED["contributed"], "what waits is no version yet"


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_a_ledger_is_for_its_owner_only(tmp_path: Path) -> None:
    path = tmp_path / "ledger"
    before = os.umask(0)
    try:
        with Ledger(path, task=TASK) as ledger:
            begin(ledger)
            found = {file.name: mode(file) for file in tmp_path.iterdir()}
    finally:
        os.umask(before)
    assert found == dict.fromkeys(["ledger", "ledger-shm", "ledger-wal", "ledger.lock"], 0o600)


def test_a_ledger_of_the_old_format_becomes_private_once(old: Path) -> None:
    old.chmod(0o644)
    Ledger(old, task=TASK).close()
    assert mode(old) == 0o600
    old.chmod(0o640)
    Ledger(old, task=TASK).close()
    assert mode(old) == 0o640, "what the operator says afterwards stays"


def test_a_ledger_whose_first_start_failed_says_so(tmp_path: Path) -> None:
    path = tmp_path / "ledger"
    with Ledger(path, task=TASK) as ledger:
        totals = read_totals(path)
        assert (totals.begun, totals.version, totals.updated_at) == (False, 0, 0)
        begin(ledger)
    assert read_totals(path).begun
