"""The ledger's file: errors, lock, creation, identification, migration.

`ledger.sql` has the tables of a new ledger. A ledger of an older format is migrated when it is opened, by the scripts
in `MIGRATIONS`, in order and in one transaction: if the program dies meanwhile, or the disk is full, the ledger keeps
its old format. A ledger of a newer format is refused by name, because this release cannot know what its tables mean.
"""

import os
import sqlite3
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager, suppress
from importlib.resources import files
from pathlib import Path

from wire_contract.errors import ContractError
from wire_contract.files.file_lock import FileLock, FileLocked

FORMAT = 4

MIGRATIONS: Mapping[int, str] = {2: "ledger_2_to_3.sql", 3: "ledger_3_to_4.sql"}
"""Migration scripts, by the format that they start from."""

OLDEST_FORMAT = min(MIGRATIONS)

PAGE_BYTES = 8_192
"""Page size of a new ledger. A row with an update of the default 2 KiB fills just over half of SQLite's default page of
4,096 bytes, so each row would occupy a page of its own."""

PRIVATE = 0o600
"""File mode: a ledger shows which devices took part, and contains their updates."""


class LedgerError(ContractError):
    """The ledger cannot be used; the message says what to do."""


class LedgerBusy(LedgerError):
    """Temporary: the disk is full or has an I/O error, or another program holds a lock. Nothing was changed."""


@contextmanager
def plain_errors(path: Path) -> Iterator[None]:
    """Translates SQLite's errors into one line.

    Raises:
        LedgerBusy: temporary errors.
        LedgerError: permanent errors.
    """
    try:
        yield
    except sqlite3.IntegrityError:
        raise  # a bug of ours, not damage
    except sqlite3.OperationalError as error:
        code = getattr(error, "sqlite_errorcode", 0) & 0xFF
        if code == sqlite3.SQLITE_ERROR:  # an invalid statement: a table has changed
            raise damaged(path, str(error)) from error
        is_locked = code in {sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED}
        advice = "end the other program that is using it" if is_locked else "free disk space or check the disk"
        raise LedgerBusy(f"ledger {path}: {error}; {advice}") from error
    except sqlite3.DatabaseError as error:
        raise damaged(path, str(error)) from error


def damaged(path: Path, how: str) -> LedgerError:
    """The error for damage, wherever it is found."""
    return LedgerError(
        f"ledger {path} is damaged ({how}); restore a backup (`aggregator restore`), or move it away to begin anew"
    )


def lock(path: Path) -> FileLock:
    """Takes the lock beside the ledger, until it is released.

    Args:
        path: of the ledger itself, not of a symbolic link to it: the lock would lie beside the link.

    Raises:
        LedgerError: another program holds it, it cannot be created, or no ledger can be at `path`.
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
    """Checked here because SQLite reports it like a full disk, which is temporary."""
    return os.access(path, os.R_OK | os.W_OK, effective_ids=os.access in os.supports_effective_ids)


def give_to(path: Path, *, owner_of: Path) -> None:
    """Run by root, gives a new file to the user of the program; other users can only create files of their own."""
    if hasattr(os, "geteuid") and os.geteuid() == 0:
        owner = owner_of.stat()
        os.chown(path, owner.st_uid, owner.st_gid)


def was_left_open(path: Path) -> bool:
    """Whether the previous program ended without closing the ledger; call before opening it."""
    log_path = path.with_name(path.name + "-wal")
    return log_path.exists() and log_path.stat().st_size > 0


def connect(path: Path) -> sqlite3.Connection:
    """Opens the database file, or creates it for its owner only."""
    # SQLite gives its -wal and -shm files the mode of the database. If the file cannot be created, connect says why.
    with suppress(OSError):
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, PRIVATE))
    return sqlite3.connect(path, isolation_level=None)


def prepare(db: sqlite3.Connection, path: Path, *, task: str, shard: int, left_open: bool) -> None:
    """Creates the tables of a new ledger, or checks format, task and shard of an existing one and migrates it.

    It reads few pages, so that a large ledger opens at once; damage elsewhere is reported when that page is read. The
    whole structure is checked only if the machine stopped while the ledger was open, because a disk that does not
    honour flushes may then have lost data.

    Args:
        db: the open file.
        path: of the file, for messages.
        task: expected task.
        shard: expected shard.
        left_open: whether the previous program did not close the ledger.

    Raises:
        LedgerError: not a ledger, of another task or shard, of a newer format, or damaged.
        sqlite3.Error: see `plain_errors`.
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
    """Checks the structure of the whole file.

    Raises:
        LedgerError: it is damaged.
    """
    found = db.execute("PRAGMA quick_check(1)").fetchone()[0]
    if found != "ok":
        raise damaged(path, " ".join(found.split()))


def _boot() -> str | None:
    """Identifies the current boot of this machine; None if the system has no such identifier."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    except OSError:
        return None


def _schema_of_a_new_one() -> set[tuple[str, str]]:
    """Kind and name of all tables and indices of a new ledger."""
    with closing(sqlite3.connect(":memory:")) as db:
        _execute_script(db, "ledger.sql")
        return set(db.execute("SELECT type, name FROM sqlite_master"))


def check_format(db: sqlite3.Connection, path: Path) -> int:
    """Returns the format of a ledger that this release can use or migrate.

    Raises:
        LedgerError: not a ledger, or its format is newer, or older than any released one.
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
    path.chmod(PRIVATE)  # earlier releases created files with the mode of the umask


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
    """Unlike `executescript`, does not commit the surrounding transaction."""
    statement = ""
    for line in files("aggregator.ledger").joinpath(name).read_text(encoding="utf-8").splitlines(keepends=True):
        statement += line
        if sqlite3.complete_statement(statement):
            db.execute(statement)
            statement = ""
    assert not statement.strip() or statement.lstrip().startswith("--"), f"{name} ends within a statement"
