"""Closes the line of a ledger, even while the aggregator runs, which notices it within a second."""

import sqlite3
from contextlib import closing
from pathlib import Path

from aggregator.ledger.file_format import plain_errors
from aggregator.ledger.reading import reading
from aggregator.ledger.write_ahead_log import BUSY_MILLISECONDS


def close_line(path: Path, *, now: float) -> bool:
    """Marks the line of a ledger as closed at `now`, Unix seconds; False if it was closed before.

    One row in one transaction, beside whatever the aggregator writes: SQLite lets one writer wait for the other.

    Raises:
        LedgerBusy: the disk is full, or another program has locked the file.
        LedgerError: there is no ledger, it is damaged, or its format is not this program's.
    """
    path = path.resolve()
    with reading(path):
        pass  # checks that it is a ledger
    with plain_errors(path), closing(sqlite3.connect(path, isolation_level=None)) as db:
        db.execute(f"PRAGMA busy_timeout = {BUSY_MILLISECONDS}")
        db.execute("PRAGMA synchronous = FULL")
        return db.execute("INSERT OR IGNORE INTO meta VALUES ('closed_at', ?)", (repr(now),)).rowcount > 0
