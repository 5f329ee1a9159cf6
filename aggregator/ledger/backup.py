"""Backup and restore: consistent, checked copies of a ledger, made while the aggregator runs.

A ledger in use consists of two files, and copying one after the other gives an inconsistent state. SQLite's
`VACUUM INTO` writes a snapshot into one file, without free pages, and blocks no writer.
"""

import sqlite3
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import msgspec

from aggregator.ledger.file_format import LedgerError, damaged, give_to, lock
from aggregator.ledger.reading import READABLE, reading
from wire_contract.errors import ContractError
from wire_contract.files.atomic_write import move_to_new_name, sync_file, sync_folder, temporary_file
from wire_contract.layout import Layout

_FAULTS_TOLD = 5
"""Chosen: enough to see what is damaged in one line; SQLite would list up to 100."""
_ASIDE_MAX = 1_000
"""Chosen: ends the search for a free name; so many replaced ledgers mean that a script restores in a loop."""


@dataclass(frozen=True, kw_only=True)
class LedgerContents:
    """What a checked ledger contains."""

    task: str
    shard: int
    version: int
    waiting: int
    """Merged updates that wait for the next version."""
    size_bytes: int


@dataclass(frozen=True, kw_only=True)
class Restored:
    """Result of a restore."""

    held: LedgerContents
    aside: Path | None
    """New path of the ledger that was replaced; None if there was none."""


def check_ledger(path: Path) -> LedgerContents:
    """Checks a whole ledger of any format in `READABLE`; an aggregator may be using it.

    Raises:
        LedgerError: there is none, it is damaged, it has no model yet, or its format is newer.
    """
    with reading(path, formats=READABLE) as db:
        faults = [" ".join(row[0].split()) for row in db.execute(f"PRAGMA integrity_check({_FAULTS_TOLD})")]
        if faults != ["ok"]:
            raise damaged(path, "; ".join(faults))
        meta = dict(db.execute("SELECT key, value FROM meta"))
        newest = db.execute("SELECT version, weights FROM version ORDER BY version DESC LIMIT 1").fetchone()
        if newest is None or "layout" not in meta:
            raise LedgerError(f"ledger {path} has no model yet: there is nothing to back up")
        version, weights = newest
        waiting, lost = db.execute(
            "SELECT count(*), coalesce(sum(payload IS NULL), 0) FROM journal WHERE into_version > ?", (version,)
        ).fetchone()
    try:
        layout = msgspec.msgpack.decode(meta["layout"], type=Layout)
    except (msgspec.MsgspecError, ContractError) as error:
        raise damaged(path, f"its layout: {error}") from None
    if weights is None or len(weights) != 4 * layout.size:
        raise damaged(path, f"the weights of version {version} do not match its layout")
    if lost:
        raise damaged(path, f"{lost} updates that wait for the next version have no payload")
    return LedgerContents(
        task=meta["task"],
        shard=int(meta["shard"]),
        version=version,
        waiting=waiting,
        size_bytes=path.stat().st_size,
    )


def back_up(path: Path, out: Path) -> LedgerContents:
    """Writes a checked copy of the ledger `path` to the new file `out`, readable by its owner only.

    Raises:
        LedgerError: the ledger cannot be read or is damaged, or the copy cannot be written; `out` is then not created.
    """
    if out.exists():
        raise LedgerError(f"backup {out} already exists, and backups are never overwritten; give another --out")
    with _copy(path, beside=out) as (copy, held):
        try:
            move_to_new_name(copy, out)
        except FileExistsError:
            raise LedgerError(f"backup {out} was created by another program meanwhile; give another --out") from None
    return held


def restore_backup(backup: Path, path: Path, *, replace: bool, task: str | None = None) -> Restored:
    """Installs a checked copy of `backup` as the ledger `path`, while no aggregator uses it.

    Args:
        backup: written by `back_up`, or a ledger that was copied while no program used it.
        path: of the ledger. If possible, it gets the owner of the previous ledger, or of its folder.
        replace: allows replacing an existing ledger, which is kept beside the new one.
        task: expected task; None: any.

    Raises:
        LedgerError: the backup is unusable or of another task, or the ledger is in use, or exists and `replace` is not
            set.
    """
    path = path.resolve()  # a symbolic link stays one
    if not backup.exists():
        raise LedgerError(f"backup {backup}: there is no such file")
    held = check_ledger(backup)
    if task is not None and held.task != task:
        raise LedgerError(f"backup {backup} is of task {held.task!r}, not {task!r}")
    locked = lock(path)
    try:
        if path.exists():
            _check_replaceable(path, held, replace=replace)
        owned = path if path.exists() else path.parent
        with _copy(backup, beside=path) as (copy, held):
            give_to(copy, owner_of=owned)
            aside = _set_aside(path)
            copy.rename(path)
            sync_folder(path.parent)
    finally:
        locked.release()
    return Restored(held=held, aside=aside)


def _check_replaceable(path: Path, held: LedgerContents, *, replace: bool) -> None:
    try:
        with reading(path, formats=READABLE) as db:
            there = dict(db.execute("SELECT key, value FROM meta"))
    except LedgerError:
        there = {}  # a damaged ledger may be the reason for the restore
    if there and (there.get("task"), there.get("shard")) != (held.task, str(held.shard)):
        raise LedgerError(
            f"ledger {path} is of task {there.get('task')!r}, shard {there.get('shard')}, and the backup of task "
            f"{held.task!r}, shard {held.shard}; give another --ledger"
        )
    if not replace:
        raise LedgerError(f"ledger {path} already exists; with --replace it is renamed and kept")


@contextmanager
def _copy(path: Path, *, beside: Path) -> Iterator[tuple[Path, LedgerContents]]:
    """A checked and flushed copy under a temporary name in the folder of `beside`; deleted afterwards unless moved."""
    with ExitStack() as until_moved:
        try:
            copy = until_moved.enter_context(temporary_file(beside))
        except OSError as error:
            raise LedgerError(f"{beside}: {error.strerror}; give a file in a folder that can be written") from None
        with reading(path, formats=READABLE) as db:
            try:
                db.execute("VACUUM INTO ?", (str(copy),))
            except sqlite3.OperationalError as error:
                raise LedgerError(f"{beside} cannot be written: {error}; free disk space or check the disk") from None
        held = check_ledger(copy)
        sync_file(copy)
        yield copy, held


def _set_aside(path: Path) -> Path | None:
    """Renames the ledger and its write-ahead log, which SQLite would otherwise apply to the new ledger."""
    parts = [(path.with_name(path.name + end), end) for end in ("", "-wal", "-shm")]
    if not any(file.exists() for file, _ in parts):
        return None
    for number in range(1, _ASIDE_MAX):
        aside = path.with_name(f"{path.name}.replaced-{number}")
        if not any(path.with_name(aside.name + end).exists() for _, end in parts):
            break
    else:
        raise LedgerError(f"ledger {path}: {_ASIDE_MAX} replaced ledgers are beside it; remove some")
    for file, end in parts:
        if file.exists():
            file.rename(path.with_name(aside.name + end))
    return aside
