"""Errors of the outbox. Each is one line that names the file and says what to do.

OutboxError
├── OutboxInUse        another process has it open
├── OutboxForeign      it belongs to another task, device or program
├── OutboxDamaged      the file is corrupt
├── OutboxFull         its limit is reached
├── OutboxUnwritable   no permission, or no such folder; existing content is untouched
└── OutboxBlocked      the disk takes no writes for now: full, or an input/output error; nothing was changed
"""

import errno
import sqlite3
from pathlib import Path

_DISK_ERRORS = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EIO})
_PASSING_ON_OPENING = frozenset({sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR, sqlite3.SQLITE_BUSY})
_PASSING = _PASSING_ON_OPENING | {sqlite3.SQLITE_LOCKED, sqlite3.SQLITE_READONLY, sqlite3.SQLITE_CANTOPEN}
"""SQLite errors that may go away by themselves. A disk that becomes read-only while the program runs may recover; at
the start, a person has to act."""


class OutboxError(Exception):
    """The outbox cannot be used, or cannot do what was asked."""


class OutboxInUse(OutboxError):
    def __init__(self, path: Path) -> None:
        super().__init__(
            f"outbox {path} is in use by another process; run each device only once, or give another state folder"
        )


class OutboxForeign(OutboxError):
    def __init__(self, path: Path, why: str, remedy: str) -> None:
        super().__init__(f"outbox {path} cannot be used: {why}; {remedy}")


class OutboxDamaged(OutboxError):
    def __init__(self, path: Path, why: str) -> None:
        super().__init__(
            f"outbox {path} is damaged ({why}); move it away to start a new one; updates not yet sent are lost"
        )


class OutboxFull(OutboxError):
    def __init__(self, path: Path, *, entries_max: int) -> None:
        super().__init__(f"outbox {path} is full: {entries_max} updates wait for their receipts")
        self.entries_max = entries_max


class OutboxUnwritable(OutboxError):
    def __init__(self, path: Path, why: str) -> None:
        super().__init__(
            f"outbox {path} cannot be written ({why}); fix the permissions or give another state folder, and start "
            "again; its content is untouched"
        )


class OutboxBlocked(OutboxError):
    def __init__(self, path: Path, why: str) -> None:
        super().__init__(
            f"outbox {path} cannot be written now ({why}); free some space or check the disk; nothing is lost"
        )


def of_the_system(path: Path, error: OSError) -> OutboxError:
    """The outbox error for an error of the operating system."""
    why = error.strerror or str(error)
    return OutboxBlocked(path, why) if error.errno in _DISK_ERRORS else OutboxUnwritable(path, why)


def of_sqlite(path: Path, error: sqlite3.DatabaseError, *, at_work: bool) -> OutboxError:
    """The outbox error for an error of SQLite; `at_work`: the outbox has been opened successfully."""
    if not isinstance(error, sqlite3.OperationalError):
        return OutboxDamaged(path, str(error))
    is_gone = error.sqlite_errorcode == sqlite3.SQLITE_READONLY_DBMOVED
    passes = error.sqlite_errorcode & 0xFF in (_PASSING if at_work else _PASSING_ON_OPENING)
    return OutboxBlocked(path, str(error)) if passes and not is_gone else OutboxUnwritable(path, str(error))
