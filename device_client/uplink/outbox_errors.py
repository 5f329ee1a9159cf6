"""Errors of the outbox. Each is one line that names the file and says what to do.

OutboxError
├── OutboxInUse        another process has it open
├── OutboxForeign      it belongs to another task, device or program
├── OutboxDamaged      the file is not what was written
├── OutboxFull         its bound is reached
├── OutboxUnwritable   no permission, no such folder; what was there before is untouched
└── OutboxBlocked      the disk takes no write for now: full, or an input/output error; nothing was changed
"""

import errno
import sqlite3
from pathlib import Path

_DISK_ERRORS = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EIO})
_PASSING_ON_OPENING = frozenset({sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR, sqlite3.SQLITE_BUSY})
_PASSING = _PASSING_ON_OPENING | {sqlite3.SQLITE_LOCKED, sqlite3.SQLITE_READONLY, sqlite3.SQLITE_CANTOPEN}
"""What SQLite may stop to say. A disk that turns read-only at work may come back; at the start somebody has to act."""


class OutboxError(Exception):
    """The outbox cannot do what was asked."""


class OutboxInUse(OutboxError):
    def __init__(self, path: Path) -> None:
        super().__init__(
            f"outbox {path} is in use by another process; a device runs once, or give another state folder"
        )


class OutboxForeign(OutboxError):
    def __init__(self, path: Path, why: str, remedy: str) -> None:
        super().__init__(f"outbox {path} cannot be used: {why}; {remedy}")


class OutboxDamaged(OutboxError):
    def __init__(self, path: Path, why: str) -> None:
        super().__init__(
            f"outbox {path} is damaged ({why}); move it away to begin a new one, updates not yet sent are lost"
        )


class OutboxFull(OutboxError):
    def __init__(self, path: Path, *, entries_max: int) -> None:
        super().__init__(f"outbox {path} is full: {entries_max} updates wait for their receipts")
        self.entries_max = entries_max


class OutboxUnwritable(OutboxError):
    def __init__(self, path: Path, why: str) -> None:
        super().__init__(
            f"outbox {path} cannot be written ({why}); mend the permissions or give another state folder, and start "
            "again; what it holds is untouched"
        )


class OutboxBlocked(OutboxError):
    def __init__(self, path: Path, why: str) -> None:
        super().__init__(
            f"outbox {path} cannot be written now ({why}); free some space or check the disk, nothing is lost"
        )


def of_the_system(path: Path, error: OSError) -> OutboxError:
    """What an error of the system means for the outbox at `path`."""
    why = error.strerror or str(error)
    return OutboxBlocked(path, why) if error.errno in _DISK_ERRORS else OutboxUnwritable(path, why)


def of_sqlite(path: Path, error: sqlite3.DatabaseError, *, at_work: bool) -> OutboxError:
    """What an error of SQLite means for the outbox at `path`; `at_work`: it has been opened."""
    if not isinstance(error, sqlite3.OperationalError):
        return OutboxDamaged(path, str(error))
    is_gone = error.sqlite_errorcode == sqlite3.SQLITE_READONLY_DBMOVED
    passes = error.sqlite_errorcode & 0xFF in (_PASSING if at_work else _PASSING_ON_OPENING)
    return OutboxBlocked(path, str(error)) if passes and not is_gone else OutboxUnwritable(path, str(error))
