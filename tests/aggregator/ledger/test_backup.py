"""Backups hold together, are checked, and replace nothing unasked; a restored ledger has the bits of its backup."""

import os
import shutil
import sqlite3
import stat
from contextlib import closing
from pathlib import Path

import pytest

from aggregator.__main__ import main
from aggregator.ledger import backup
from aggregator.ledger.backup import back_up, check_ledger, restore_backup
from aggregator.ledger.file_format import LedgerError
from aggregator.ledger.ledger import Ledger
from aggregator.ledger.reading import read_journal, read_totals
from aggregator.ledger.records import batch_of, row_of
from aggregator.ledger.restoring import restore
from aggregator.model_line import ModelLine
from tests.aggregator.synthetic import SETTINGS, T0, TASK, SyntheticDevice, begin

FORMAT_2 = Path(__file__).parent / "ledgers" / "format-2.sqlite3"


def teach(ledger: Ledger, line: ModelLine, *, version: bool = True) -> None:
    """An update of each of two devices, and a version of it."""
    judged = []
    for name in ("a", "b"):
        device = SyntheticDevice(name, incarnation=b"life%04d" % line.version)
        payload = device.payload(line)
        judged.append(line.judge(device.parsed, payload))
    ledger.commit_batch(batch_of(judged), now=T0)
    if version:
        step = line.next_step()
        release = line.next_release(step.weights, at=T0)
        ledger.commit_version(row_of(release), step, rule=line.settings.rule.name)
        line.advance(release, step)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A closed ledger at version 3, with two updates that wait."""
    path = tmp_path / "state" / "ledger.sqlite3"
    with Ledger(path, task=TASK) as ledger:
        line = begin(ledger)
        for _ in range(3):
            teach(ledger, line)
        teach(ledger, line, version=False)
    return path


def bits(path: Path) -> tuple[int, bytes, bytes]:
    with Ledger(path, task=TASK) as ledger:
        line = restore(ledger, SETTINGS)
        waiting = line.next_step().weights.tobytes() if line.buffer.slots else b""
        return line.version, line.weights.tobytes(), waiting


def refusal(path: Path, out: Path, said: str) -> None:
    with pytest.raises(LedgerError, match=said) as caught:
        back_up(path, out)
    assert "\n" not in str(caught.value)


def test_a_backup_of_a_ledger_in_use_holds_what_was_committed(path: Path, tmp_path: Path) -> None:
    out = tmp_path / "backup"
    with Ledger(path, task=TASK) as ledger:
        line = restore(ledger, SETTINGS)
        teach(ledger, line)  # in the write-ahead log only, where a plain copy would not find it
        held = back_up(path, out)
        assert (held.task, held.shard, held.version, held.waiting) == (TASK, 0, 4, 0)
        assert held.size_bytes == out.stat().st_size
        teach(ledger, line)
        assert check_ledger(out).version == 4, "what came later is not in it"
        teach(ledger, line, version=False)
        assert back_up(path, tmp_path / "later").waiting == 2
    assert stat.S_IMODE(out.stat().st_mode) == 0o600
    assert sorted(file.name for file in tmp_path.iterdir()) == ["backup", "later", "state"], "one file each"


def test_a_backup_is_never_overwritten(path: Path, tmp_path: Path) -> None:
    out = tmp_path / "backup"
    out.write_text("precious")
    refusal(path, out, "already exists, and backups are never overwritten; give another --out")
    refusal(path, path, "never overwritten")
    assert out.read_text() == "precious"


def test_a_backup_that_appears_meanwhile_is_not_overwritten_either(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "backup"
    real = backup.check_ledger

    def slow(copy: Path) -> backup.LedgerContents:
        out.write_text("precious")
        return real(copy)

    monkeypatch.setattr(backup, "check_ledger", slow)
    refusal(path, out, "was created by another program meanwhile")
    assert out.read_text() == "precious"
    assert [file.name for file in tmp_path.iterdir() if file.is_file()] == ["backup"]


def test_a_file_system_without_links_will_do(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError("no links here")

    monkeypatch.setattr(Path, "hardlink_to", refuse)
    assert back_up(path, tmp_path / "backup").version == 3
    refusal(path, tmp_path / "backup", "already exists")


def test_what_cannot_be_backed_up_is_one_line_and_leaves_nothing(path: Path, tmp_path: Path) -> None:
    out = tmp_path / "backup"
    refusal(tmp_path / "none", out, "there is no such file")
    refusal(path, tmp_path / "no" / "folder", "No such file or directory; give a file in a folder that can be written")
    empty = tmp_path / "empty"
    Ledger(empty, task=TASK).close()
    refusal(empty, out, "has no model yet")
    damaged = tmp_path / "damaged"
    content = bytearray(path.read_bytes())
    size = int.from_bytes(content[16:18], "big")
    with closing(sqlite3.connect(path)) as db:
        page = db.execute("SELECT rootpage FROM sqlite_master WHERE name = 'journal_by_version'").fetchone()[0]
    content[(page - 1) * size : page * size] = bytes(size)
    damaged.write_bytes(content)
    refusal(damaged, out, "damaged|cannot be read")
    assert not out.exists()
    assert not list(tmp_path.glob("*.unfinished"))


@pytest.mark.parametrize(
    ("statement", "said"),
    [
        ("UPDATE version SET weights = x'00000000'", "the weights of version 3 do not match its layout"),
        ("UPDATE journal SET payload = NULL", "2 updates that wait for the next version have no payload"),
        ("UPDATE meta SET value = x'c1' WHERE key = 'layout'", "its layout"),
    ],
)
def test_a_check_looks_at_what_a_start_needs(path: Path, statement: str, said: str) -> None:
    with closing(sqlite3.connect(path)) as db, db:
        db.execute(statement)
    with pytest.raises(LedgerError, match=f"is damaged .*{said}"):
        check_ledger(path)


def test_a_restored_ledger_has_the_bits_of_the_backup(path: Path, tmp_path: Path) -> None:
    expected, everything = bits(path), read_journal(path)
    out = tmp_path / "backup"
    back_up(path, out)
    shutil.rmtree(path.parent)
    restored = restore_backup(out, path, replace=False)
    assert (restored.held.version, restored.held.waiting, restored.aside) == (3, 2, None)
    assert bits(path) == expected
    assert read_journal(path) == everything
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert out.exists()


def test_a_ledger_that_is_there_is_replaced_only_when_told_and_kept(path: Path, tmp_path: Path) -> None:
    out = tmp_path / "backup"
    back_up(path, out)
    expected = bits(path)
    with Ledger(path, task=TASK) as ledger:
        teach(ledger, restore(ledger, SETTINGS))
        with pytest.raises(LedgerError, match=r"another aggregator .* is using it"):
            restore_backup(out, path, replace=True)
    newer = bits(path)
    with pytest.raises(LedgerError, match="already exists; with --replace it is renamed and kept"):
        restore_backup(out, path, replace=False)
    assert bits(path) == newer
    for number in (1, 2):
        aside = path.with_name(f"{path.name}.replaced-{number}")
        assert restore_backup(out, path, replace=True).aside == aside
        assert bits(path) == expected
        assert bits(aside) == (newer if number == 1 else expected)


def test_a_link_to_a_ledger_stays_one(path: Path, tmp_path: Path) -> None:
    out, link = tmp_path / "backup", tmp_path / "elsewhere" / "link"
    back_up(path, out)
    expected = bits(path)
    link.parent.mkdir()
    link.symlink_to(path)
    with Ledger(path, task=TASK) as ledger:
        teach(ledger, restore(ledger, SETTINGS))
        with pytest.raises(LedgerError, match="is using it"):
            restore_backup(out, link, replace=True)
    restored = restore_backup(out, link, replace=True)
    assert restored.aside == path.with_name(f"{path.name}.replaced-1")
    assert link.is_symlink()
    assert bits(path) == expected
    assert list(link.parent.iterdir()) == [link]


def test_the_log_of_the_ledger_that_was_there_goes_with_it(path: Path, tmp_path: Path) -> None:
    out = tmp_path / "backup"
    back_up(path, out)
    expected = bits(path)
    killed = Ledger(path, task=TASK)
    teach(killed, restore(killed, SETTINGS))
    killed._lock.release()
    log = path.with_name(f"{path.name}-wal")
    assert log.stat().st_size > 0
    aside = restore_backup(out, path, replace=True).aside
    assert aside is not None
    assert not log.exists()
    assert bits(path) == expected, "what the other wrote last is not replayed into this one"
    assert check_ledger(aside).version == 4
    killed._db.close()


def test_a_backup_of_another_is_refused(path: Path, tmp_path: Path) -> None:
    out, other = tmp_path / "backup", tmp_path / "other"
    back_up(path, out)
    with Ledger(other, task="another") as ledger:
        begin(ledger)
    with pytest.raises(LedgerError, match="is of task 'another', shard 0, and the backup of task 'toy', shard 0; give"):
        restore_backup(out, other, replace=True)
    with pytest.raises(LedgerError, match="is of task 'toy', not 'third'"):
        restore_backup(out, tmp_path / "new", replace=False, task="third")
    photos = tmp_path / "photos"
    with closing(sqlite3.connect(photos)) as db, db:
        db.execute("CREATE TABLE photo (name TEXT)")
    with pytest.raises(LedgerError, match="is a database, but not a ledger"):
        restore_backup(photos, tmp_path / "new", replace=False)
    assert not (tmp_path / "new").exists()


def test_a_damaged_ledger_can_be_replaced(path: Path, tmp_path: Path) -> None:
    out = tmp_path / "backup"
    back_up(path, out)
    expected = bits(path)
    path.write_bytes(b"x" * 10_000)
    aside = restore_backup(out, path, replace=True).aside
    assert aside is not None
    assert aside.read_bytes() == b"x" * 10_000
    assert bits(path) == expected


def test_a_backup_of_the_format_before_is_restored_and_migrated(tmp_path: Path) -> None:
    path = tmp_path / "ledger"
    old = Path(shutil.copy(FORMAT_2, tmp_path / "old"))
    assert restore_backup(old, path, replace=False).held.version == 20
    assert back_up(path, tmp_path / "again").version == 20
    Ledger(path, task=TASK).close()
    assert read_totals(path).version == 20


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may give files away")
def test_what_root_restores_belongs_to_the_owner_of_the_folder(path: Path, tmp_path: Path) -> None:
    back_up(path, tmp_path / "backup")
    folder = tmp_path / "volume"
    folder.mkdir()
    os.chown(folder, 12_345, 23_456)
    restore_backup(tmp_path / "backup", folder / "ledger", replace=False)
    restore_backup(tmp_path / "backup", folder / "ledger", replace=True)
    with Ledger(folder / "ledger", task=TASK):
        owners = {file.name: (file.stat().st_uid, file.stat().st_gid) for file in folder.iterdir()}
    names = ["ledger", "ledger-shm", "ledger-wal", "ledger.lock", "ledger.replaced-1"]
    assert owners == dict.fromkeys(names, (12_345, 23_456))


def test_the_commands(path: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = str(tmp_path / "backup")
    assert main(["backup", "--ledger", str(path), "--out", out]) == 0
    assert f"backup {out}: version 3 of task toy, shard 0, 2 updates wait for the next" in capsys.readouterr().out
    assert main(["backup", "--ledger", str(path), "--out", out]) == 2
    assert capsys.readouterr().err.count("\n") == 1
    assert main(["check-ledger", "--ledger", out]) == 0
    assert "is intact: version 3 of task toy" in capsys.readouterr().out
    assert main(["restore", "--backup", out, "--ledger", str(path)]) == 2
    assert "--replace" in capsys.readouterr().err
    assert main(["restore", "--backup", out, "--ledger", str(path), "--replace"]) == 0
    said = capsys.readouterr().out
    assert f"the previous ledger is kept as {path}.replaced-1" in said
    assert "if a version above 3 was ever published" in said
    assert f"move-forward --ledger {path} --version NUMBER" in said
    assert main(["move-forward", "--ledger", str(path), "--version", "9"]) == 0
    Path(out).write_bytes(b"x" * 5_000)
    assert main(["check-ledger", "--ledger", out]) == 2
    assert "cannot be read" in capsys.readouterr().err


def test_a_backup_that_is_not_there_is_named_as_one(tmp_path: Path) -> None:
    with pytest.raises(LedgerError, match=r"backup \S+missing: there is no such file"):
        restore_backup(tmp_path / "missing", tmp_path / "ledger", replace=False)
