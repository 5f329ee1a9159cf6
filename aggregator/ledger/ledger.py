"""The aggregator's durable state, in SQLite. `ledger.sql` documents the tables, `file_format.py` opens the file.

One transaction per batch and one per version, with `synchronous=FULL`, so that commits survive power loss. A restart
(`restoring.py`) takes the newest weights and adds the journal after them in its order: the same additions on the same
bits give the same weights. A lock file beside the ledger excludes a second aggregator for as long as the first process
lives, however it ends.
"""

import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import takewhile
from pathlib import Path
from types import TracebackType
from typing import Self

import numpy as np

from aggregator.admission import INCARNATIONS_KEPT, DeviceKey, LastOfDevice
from aggregator.ledger.file_format import LedgerError, connect, lock, plain_errors, prepare, was_left_open
from aggregator.ledger.line_facts import read_description, read_layout, write_description, write_layout
from aggregator.ledger.pruning import Kept, forget_blobs, is_due, prune, read_horizon
from aggregator.ledger.records import (
    BUFFERED_UPDATES,
    NEWEST_CLAIMS,
    NEWEST_CONTRIBUTIONS,
    VERSION_COLUMNS,
    VERSION_FIELDS,
    Batch,
    BufferedUpdate,
    Mark,
    VersionRow,
    insert_batch,
    insert_version,
    move_buffered,
)
from aggregator.ledger.rule_state import read_state, write_state
from aggregator.ledger.write_ahead_log import BUSY_MILLISECONDS, WriteAheadLog
from aggregator.merging.peers import Claim
from aggregator.merging.rule import RuleState, Step
from wire_contract.layout import Layout, Vector
from wire_contract.limits import KEPT_DELTAS
from wire_contract.line_description import LineDescription


class Ledger:
    """An open ledger, used by one aggregator at a time.

    Raises:
        LedgerBusy: the disk is full, or another program has locked the file.
        LedgerError: it is damaged, has another format or task, or is in use by another aggregator.
    """

    def __init__(self, path: Path, *, task: str, shard: int = 0) -> None:
        path = path.resolve()  # the lock lies beside the file itself, like SQLite's files, not beside a link to it
        self.path = path
        self._lock = lock(path)
        try:
            left_open = was_left_open(path)
            with plain_errors(path):
                self._db = connect(path)
        except BaseException:
            self._lock.release()
            raise
        try:
            with plain_errors(path):
                prepare(self._db, path, task=task, shard=shard, left_open=left_open)
                self._db.execute("PRAGMA journal_mode = WAL")  # only now: a foreign database must not be changed
                self._db.execute(f"PRAGMA busy_timeout = {BUSY_MILLISECONDS}")
                self._log = WriteAheadLog(self._db, path)
                self._horizon = read_horizon(self._db)
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Closes the file and releases the lock."""
        self._db.close()
        self._lock.release()

    # -- the model line

    def begin_line(
        self, row: VersionRow, layout: Layout, weights: Vector, description: LineDescription | None = None
    ) -> None:
        """Writes the first version into an empty ledger."""
        with self._transaction() as db:
            write_layout(db, layout)
            insert_version(db, row, weights)
            if description is not None:
                write_description(db, description)

    def describe_line(self, description: LineDescription) -> None:
        """Adds the description to a line that began without one.

        Raises:
            LedgerBusy: the disk is full; nothing was written.
        """
        with self._transaction() as db:
            write_description(db, description)

    def description(self) -> LineDescription | None:
        """What the outputs and fixed buffers of the line's student are; None: the line began without a description."""
        with plain_errors(self.path):
            return read_description(self._db, self.path)

    def commit_version(self, row: VersionRow, step: Step, *, rule: str) -> None:
        """Writes a version: its row, its master weights, and the state of the merging rule `rule`.

        The cost does not grow with the number of versions.

        Raises:
            LedgerBusy: the disk is full; nothing was written.
        """
        with self._transaction() as db:
            insert_version(db, row, step.weights)
            write_state(db, rule, row.version, step.state)
            forget_blobs(db, row.version)

    def rule_state(self, rule: str) -> RuleState:
        """State of the merging rule with this name as of the newest version; empty if another rule made that
        version.
        """
        with plain_errors(self.path):
            return read_state(self._db, rule)

    def prune(self, kept: Kept) -> None:
        """Deletes a bounded number of expired rows, once enough of them have accumulated.

        Raises:
            LedgerBusy: the disk is full; nothing was deleted.
        """
        with plain_errors(self.path):
            newest = self._db.execute("SELECT max(version) FROM version").fetchone()[0]
            if newest is None or not is_due(self._db, newest, kept):
                return
        with self._transaction() as db:
            prune(db, newest, kept)
        with plain_errors(self.path):
            self._horizon = read_horizon(self._db)

    def horizon(self) -> int:
        """First version from which on the journal is complete: it has every update of that and all later versions."""
        return self._horizon

    def shrink_log(self) -> None:
        """Truncates SQLite's write-ahead log if it has grown large."""
        self._log.shrink()

    def move_forward(self, row: VersionRow, weights: Vector, *, before: int) -> None:
        """Writes a version that skips numbers after `before`, the newest one; buffered updates go into the next
        version.

        Raises:
            LedgerBusy: the disk is full; nothing was written.
        """
        assert row.version > before, f"version {row.version} after {before}"
        with self._transaction() as db:
            insert_version(db, row, weights)
            move_buffered(db, into_version=row.version + 1, instead_of=before + 1)

    def note_devices_min(self, devices_min: int) -> None:
        """Stores --devices-min for programs that read the ledger, such as `status`.

        Raises:
            LedgerBusy: the disk is full; nothing was written.
        """
        with self._transaction() as db:
            db.execute("INSERT OR REPLACE INTO meta VALUES ('devices_min', ?)", (str(devices_min),))

    def is_closed(self) -> bool:
        """Whether the line has ended (`closing.py`)."""
        with plain_errors(self.path):
            return self._db.execute("SELECT 1 FROM meta WHERE key = 'closed_at'").fetchone() is not None

    def layout(self) -> Layout | None:
        """Layout of the model line; None in an empty ledger."""
        with plain_errors(self.path):
            return read_layout(self._db, self.path)

    def newest(self) -> tuple[VersionRow, Vector]:
        """The newest version and its master weights (layout.size,)."""
        with plain_errors(self.path):
            row = self._db.execute(
                f"SELECT {VERSION_COLUMNS}, weights FROM version ORDER BY version DESC LIMIT 1"  # noqa: S608
            ).fetchone()
        if row is None or row[-1] is None or len(row[-1]) % 4:
            raise LedgerError(f"ledger {self.path} is damaged: its newest version has no weights")
        weights = np.frombuffer(row[-1], dtype="<f4").astype(np.float32)
        return VersionRow(**dict(zip(VERSION_FIELDS, row, strict=False))), weights

    def newest_snapshot(self) -> VersionRow:
        """The newest version that was published as a snapshot."""
        with plain_errors(self.path):
            row = self._db.execute(
                f"SELECT {VERSION_COLUMNS} FROM version"  # noqa: S608
                " WHERE chunks IS NOT NULL ORDER BY version DESC LIMIT 1"
            ).fetchone()
        if row is None:
            raise LedgerError(f"ledger {self.path} is damaged: it has no snapshot")
        return VersionRow(**dict(zip(VERSION_FIELDS, row, strict=True)))

    def deltas(self) -> list[tuple[int, bytes]]:
        """Version and delta message of the newest versions, newest first, ending before the first one without a
        delta.
        """
        with plain_errors(self.path):
            rows = self._db.execute(
                "SELECT version, delta FROM version ORDER BY version DESC LIMIT ?", (KEPT_DELTAS,)
            ).fetchall()
        return list(takewhile(lambda row: row[1] is not None, rows))

    def chunked_snapshots(self, count: int) -> list[tuple[int, int]]:
        """Version and chunk count of the newest snapshots that were published in chunks, newest first."""
        with plain_errors(self.path):
            rows = self._db.execute(
                "SELECT version, chunks FROM version WHERE chunks > 0 ORDER BY version DESC LIMIT ?", (count,)
            )
            return rows.fetchall()

    def newest_versions(self, count: int) -> list[int]:
        """Numbers of the newest versions, newest first."""
        with plain_errors(self.path):
            rows = self._db.execute("SELECT version FROM version ORDER BY version DESC LIMIT ?", (count,))
            return [version for (version,) in rows]

    def digests(self, *, since: int) -> dict[int, bytes]:
        """Digests of the published weights by version, from version `since` on."""
        with plain_errors(self.path):
            rows = self._db.execute("SELECT version, digest FROM version WHERE version >= ?", (since,))
            return dict(rows.fetchall())

    def mark_from(self, version: int) -> Mark | None:
        """The oldest version with at least this number; None if there is none."""
        return self._mark("WHERE version >= ? ORDER BY version LIMIT 1", (version,))

    def moved_forward(self) -> Mark | None:
        """The newest version that skipped numbers after its parent; None if there is none."""
        return self._mark("WHERE parent < version - 1 ORDER BY version DESC LIMIT 1", ())

    def stamp_newest(self, *, at: float) -> None:
        """Replaces the publication time of the newest version by `at`, Unix seconds.

        Raises:
            LedgerBusy: the disk is full; nothing was written.
        """
        with self._transaction() as db:
            db.execute("UPDATE version SET committed_at = ? WHERE version = (SELECT max(version) FROM version)", (at,))

    def _mark(self, which: str, values: tuple[int, ...]) -> Mark | None:
        with plain_errors(self.path):
            row = self._db.execute(
                f"SELECT version, parent, digest, committed_at FROM version {which}",  # noqa: S608 - see the callers
                values,
            ).fetchone()
        return None if row is None else Mark(version=row[0], parent=row[1], digest=row[2], committed_at=row[3])

    # -- updates

    def commit_batch(self, batch: Batch, *, now: float) -> None:
        """Writes all of `batch` or nothing; `now` in Unix seconds.

        Raises:
            LedgerBusy: the disk is full; nothing was written.
        """
        with self._transaction() as db:
            insert_batch(db, batch, now)

    def last_of_devices(self) -> dict[DeviceKey, LastOfDevice]:
        """Newest answered update of each device incarnation."""
        with plain_errors(self.path):
            rows = self._db.execute("SELECT device, incarnation, sequence, refusal FROM device")
            return {(device, incarnation): LastOfDevice(last, why) for device, incarnation, last, why in rows}

    def last_merged(self, key: DeviceKey) -> LastOfDevice | None:
        """Newest merged update of a device incarnation in the journal, which is complete from its horizon on."""
        with plain_errors(self.path):
            row = self._db.execute(
                "SELECT max(sequence) FROM journal WHERE device = ? AND incarnation = ?", key
            ).fetchone()
            return None if row[0] is None else LastOfDevice(row[0])

    def contributed(self, *, since: int, until: int) -> dict[str, int]:
        """Newest version from `since` to `until`, inclusive, that each device contributed to.

        `until` is the newest committed version: contributions to the version in the making do not count.
        """
        with plain_errors(self.path):
            rows = self._db.execute(NEWEST_CONTRIBUTIONS, {"until": until, "since": since})
            return dict(rows.fetchall())

    def claims(self, count: int, *, until: int) -> dict[str, Claim]:
        """Each device's figures in the newest version up to `until`, the newest committed one, that it contributed to.

        For the `count` devices with the newest such version; ties are broken by name (`merging/peers.py`).
        """
        with plain_errors(self.path):
            rows = self._db.execute(NEWEST_CLAIMS, {"until": until, "count": count})
            return {device: Claim(*figures) for device, *figures in rows}

    def forget_incarnations(self, device: str) -> Sequence[DeviceKey]:
        """Deletes the oldest incarnations of a device beyond those kept, and returns them."""
        with self._transaction() as db:
            rows = db.execute(
                "SELECT device, incarnation FROM device WHERE device = ? ORDER BY seen_at DESC LIMIT -1 OFFSET ?",
                (device, INCARNATIONS_KEPT),
            ).fetchall()
            db.executemany("DELETE FROM device WHERE device = ? AND incarnation = ?", rows)
            return rows

    def journal(self, *, into_version: int) -> Iterator[BufferedUpdate]:
        """The updates buffered for a version, in the order of merging."""
        with plain_errors(self.path):
            rows = self._db.execute(BUFFERED_UPDATES, (into_version,))
            names = [column for column, *_ in rows.description]
            for row in rows:
                found = dict(zip(names, row, strict=True))
                if found["payload"] is None:
                    raise LedgerError(f"ledger {self.path}: the journal of version {into_version} was emptied")
                yield BufferedUpdate(**found)

    # -- inside

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        with plain_errors(self.path):
            self._db.execute("BEGIN IMMEDIATE")
            try:
                yield self._db
                self._db.execute("COMMIT")
            except BaseException:
                if self._db.in_transaction:
                    self._db.execute("ROLLBACK")
                raise
