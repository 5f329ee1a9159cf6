"""Keeps SQLite's write-ahead log small.

SQLite resets the log by itself while nobody reads. If readers overlap without a gap, it has to be asked to.
"""

import logging
import sqlite3
from pathlib import Path

from aggregator.ledger.file_format import plain_errors

log = logging.getLogger(__name__)

LOG_BYTES_MAX = 16 << 20
"""Size above which the log is truncated. Twice what SQLite lets it grow to by itself (1,000 pages of 8 KiB), so only a
log that readers hold is larger."""

BUSY_MILLISECONDS = 5_000
"""Wait for another program's lock; the default of Python's sqlite3. It outlasts an ordinary reader or backup step, and
the heartbeat (120 s) does not expire meanwhile."""
_SHRINK_MILLISECONDS = 50
"""Longest wait for readers; no update is handled meanwhile. Chosen, not measured."""


class WriteAheadLog:
    """The log of one open ledger."""

    def __init__(self, db: sqlite3.Connection, ledger: Path) -> None:
        self._db = db
        self._ledger = ledger
        self._path = ledger.with_name(ledger.name + "-wal")
        self._bytes_max = LOG_BYTES_MAX
        db.execute(f"PRAGMA journal_size_limit = {LOG_BYTES_MAX // 4}")

    def shrink(self) -> None:
        """Truncates the log if it has grown large, which is impossible while a program reads an older state."""
        size_bytes = self._path.stat().st_size if self._path.exists() else 0
        if size_bytes < LOG_BYTES_MAX:
            self._bytes_max = LOG_BYTES_MAX
        if size_bytes < self._bytes_max:
            return
        with plain_errors(self._ledger):
            self._db.execute(f"PRAGMA busy_timeout = {_SHRINK_MILLISECONDS}")
            is_busy = self._db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()[0]
            self._db.execute(f"PRAGMA busy_timeout = {BUSY_MILLISECONDS}")
        if is_busy:  # retried when the log has doubled, so that a reader that never ends costs little
            self._bytes_max = 2 * size_bytes
            log.warning(
                "ledger %s: %s has %.0f MB and cannot shrink before a program that reads the ledger ends (`fuser %s` "
                "tells which)",
                self._ledger,
                self._path.name,
                size_bytes / 1e6,
                self._path,
            )
