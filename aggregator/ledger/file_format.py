"""The ledger's file: its errors, its lock, how it is made, recognised and brought to this program's format.

`ledger.sql` has the tables of a new ledger. A ledger of an older format is migrated on opening by the scripts of
`MIGRATIONS`, in order and in one transaction: a program that dies on the way, or a full disk, leaves the old format as
it was. A ledger of a newer format is refused by name, because this program cannot know what its tables mean.
"""

import os
import sqlite3
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager, suppress
from importlib.resources import files
from pathlib import Path

from wire_contract.errors import ContractError
from wire_contract.files.file_lock import FileLock, FileLocked

FORMAT = 3

MIGRATIONS: Mapping[int, str] = {2: "ledger_2_to_3.sql"}
"""The script that brings a ledger from this format to the next one."""

OLDEST_FORMAT = min(MIGRATIONS)

PAGE_BYTES = 8_192
"""Of a new ledger. An update of the default 2 KiB and what is noted of it fill just over half of SQLite's usual 4,096,
so that each would take a page of its own."""

PRIVATE = 0o600
"""Mode of everything that is made here: a ledger holds who took part, and with which updates."""


class LedgerError(ContractError):
    """The ledger cannot be used; the text says what to do."""


class LedgerBusy(LedgerError):
    """Not now: the disk is full or has an input/output error, or another program holds a lock; nothing was changed."""


@contextmanager
def plain_errors(path: Path) -> Iterator[None]:
    """Turns what SQLite says into one line.

    Raises:
        LedgerBusy: for now.
        LedgerError: for good.
    """
    try:
        yield
    except sqlite3.IntegrityError:
        raise  # a broken invariant of ours, not of the file
    except sqlite3.OperationalError as error:
        code = getattr(error, "sqlite_errorcode", 0) & 0xFF
        if code == sqlite3.SQLITE_ERROR:  # of a statement: a table is not as it was
            raise damaged(path, str(error)) from error
        is_locked = code in {sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED}
        advice = "end the other program that is using it" if is_locked else "free disk space or check the disk"
        raise LedgerBusy(f"ledger {path}: {error}; {advice}") from error
    except sqlite3.DatabaseError as error:
        raise damaged(path, str(error)) from error


def damaged(path: Path, how: str) -> LedgerError:
    """The same line for damage wherever it is met."""
    return LedgerError(
        f"ledger {path} is damaged ({how}); restore a backup (`aggregator restore`), or move it away to begin anew"
    )


def lock(path: Path) -> FileLock:
    """The lock beside the ledger, held until it is released.

    Args:
        path: of the ledger itself, not of a symbolic link to it: the lock would lie beside the link.

    Raises:
        LedgerError: another program holds it, it cannot be made, or no ledger can be at `path`.
    """
    if path.is_dir():
        raise LedgerError(f"ledger {path} is a folder; give the name of a file")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        for needed in (path.parent, path):
            if needed.exists() and not _is_writable(needed):
                raise LedgerError(f"ledger {path}: this user may not write {needed}; run this as the ledger's user")
        lock_path = path.with_name(path.name + ".lock")
        locked = FileLock(lock_path)
    except FileLocked as error:
        raise LedgerError(
            f"ledger {path}: another aggregator (process {error.holder}) is using it; two would merge updates twice"
        ) from None
    except OSError as error:
        raise LedgerError(f"ledger {path}: {error.strerror}; give a --ledger in a folder that can be written") from None
    give_to(lock_path, owner_of=path if path.exists() else path.parent)
    return locked


def _is_writable(path: Path) -> bool:
    """Asked here, because SQLite would say the same as of a full disk, which is waited for."""
    return os.access(path, os.R_OK | os.W_OK, effective_ids=os.access in os.supports_effective_ids)


def give_to(path: Path, *, owner_of: Path) -> None:
    """What root makes for a program of another user belongs to that user; others can only make files of their own."""
    if hasattr(os, "geteuid") and os.geteuid() == 0:
        owner = owner_of.stat()
        os.chown(path, owner.st_uid, owner.st_gid)


def was_left_open(path: Path) -> bool:
    """Whether the program that had the ledger ended without closing it; asked before it is opened."""
    log_path = path.with_name(path.name + "-wal")
    return log_path.exists() and log_path.stat().st_size > 0


def connect(path: Path) -> sqlite3.Connection:
    """Opens the database file, and makes it, for its owner only, where there is none."""
    # SQLite gives its -wal and -shm files the mode of the database. Where nothing can be made, it says below why.
    with suppress(OSError):
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, PRIVATE))
    return sqlite3.connect(path, isolation_level=None)


def prepare(db: sqlite3.Connection, path: Path, *, task: str, shard: int, left_open: bool) -> None:
    """Makes the tables of a new ledger, migrates one of an older format, and checks what it is and whose.

    It reads few pages, so that a large ledger opens at once. Damage elsewhere shows when that place is read, as one
    line. Only after the machine has stopped with the ledger open, when a disk that does not keep what it was told to
    may have lost something, is the whole structure checked.

    Args:
        db: the open file.
        path: of the file, for messages.
        task: that the ledger has to be of.
        shard: that the ledger has to be of.
        left_open: whether the program that had it before did not close it.

    Raises:
        LedgerError: it is no ledger, is another task's or shard's, is of a newer format, or is damaged.
        sqlite3.Error: as `plain_errors` translates it.
    """
    db.execute("PRAGMA synchronous = FULL")
    if not db.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]:
        db.execute(f"PRAGMA page_size = {PAGE_BYTES}")
        with _one_transaction(db):
            _execute_script(db, "ledger.sql")
            identity = {"format": str(FORMAT), "task": task, "shard": str(shard)}
            db.executemany("INSERT INTO meta VALUES (?, ?)", list(identity.items()))
    found = check_format(db, path)
    meta = dict(db.execute("SELECT key, value FROM meta"))
    for key, value in {"task": task, "shard": str(shard)}.items():
        if meta.get(key) != value:
            raise LedgerError(f"ledger {path}: its {key} is {meta.get(key)!r}, not {value!r}; give another --ledger")
    boot = _boot()
    if left_open and (boot is None or meta.get("boot") != boot):
        check_structure(db, path)
    if found < FORMAT:
        _migrate(db, path, found)
    missing = _schema_of_a_new_one() - set(db.execute("SELECT type, name FROM sqlite_master"))
    if missing:
        raise damaged(path, "without " + ", ".join(f"{kind} {name}" for kind, name in sorted(missing)))
    if boot is not None and meta.get("boot") != boot:
        db.execute("INSERT OR REPLACE INTO meta VALUES ('boot', ?)", (boot,))


def check_structure(db: sqlite3.Connection, path: Path) -> None:
    """Reads every page.

    Raises:
        LedgerError: one of them is damaged.
    """
    found = db.execute("PRAGMA quick_check(1)").fetchone()[0]
    if found != "ok":
        raise damaged(path, " ".join(found.split()))


def _boot() -> str | None:
    """Which start of this machine it is; None where the system does not say."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    except OSError:
        return None


def _schema_of_a_new_one() -> set[tuple[str, str]]:
    """Kind and name of all tables and indices."""
    with closing(sqlite3.connect(":memory:")) as db:
        _execute_script(db, "ledger.sql")
        return set(db.execute("SELECT type, name FROM sqlite_master"))


def check_format(db: sqlite3.Connection, path: Path) -> int:
    """The format of a ledger that this program can use, at once or after a migration.

    Raises:
        LedgerError: it is no ledger, or its format is newer, or older than any that was ever in use.
    """
    if not db.execute("SELECT count(*) FROM sqlite_master WHERE name = 'meta'").fetchone()[0]:
        raise LedgerError(f"{path} is a database, but not a ledger; give another --ledger")
    row = db.execute("SELECT value FROM meta WHERE key = 'format'").fetchone()
    if row is None or not str(row[0]).isdecimal():
        raise LedgerError(f"{path} is a database, but not a ledger: it names no format; give another --ledger")
    found = int(row[0])
    if found > FORMAT:
        raise LedgerError(
            f"ledger {path} has format {found}, and this program knows formats {OLDEST_FORMAT} to {FORMAT}; a newer "
            "version of the program wrote it, so update this one"
        )
    if found < OLDEST_FORMAT:
        raise LedgerError(f"ledger {path} has format {found}, which no released program wrote; give another --ledger")
    return found


def _migrate(db: sqlite3.Connection, path: Path, found: int) -> None:
    with _one_transaction(db):
        for number in range(found, FORMAT):
            _execute_script(db, MIGRATIONS[number])
        db.execute("UPDATE meta SET value = ? WHERE key = 'format'", (str(FORMAT),))
    path.chmod(PRIVATE)  # earlier formats were made with whatever mode the shell's umask gave


@contextmanager
def _one_transaction(db: sqlite3.Connection) -> Iterator[None]:
    db.execute("BEGIN IMMEDIATE")
    try:
        yield
        db.execute("COMMIT")
    except BaseException:
        if db.in_transaction:
            db.execute("ROLLBACK")
        raise


def _execute_script(db: sqlite3.Connection, name: str) -> None:
    """Not `executescript`, which would commit the transaction around it."""
    statement = ""
    for line in files("aggregator.ledger").joinpath(name).read_text(encoding="utf-8").splitlines(keepends=True):
        statement += line
        if sqlite3.complete_statement(statement):
            db.execute(statement)
            statement = ""
    assert not statement.strip() or statement.lstrip().startswith("--"), f"{name} ends within a statement"
