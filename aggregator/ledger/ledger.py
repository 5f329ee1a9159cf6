"""The durable memory of the aggregator, in SQLite. ledger.sql explains the tables, ledger_format.py opens the file.

One transaction a batch, one transaction a version; `synchronous=FULL`, so that what was committed survives power loss.
A restart takes the newest snapshot and adds the journal after it in the journal's order: the same additions on the
same bits give the same weights. A lock file beside the ledger keeps a second aggregator out for as long as the first
one lives, however it ends.
"""

import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import takewhile
from pathlib import Path
from types import TracebackType
from typing import Self

import msgspec
import numpy as np

from aggregator.admission import INCARNATIONS_KEPT, DeviceKey, LastOfDevice
from aggregator.ledger.file_format import LedgerError, connect, lock, plain_errors, prepare, was_left_open
from aggregator.ledger.pruning import Kept, forget_blobs, is_due, prune, read_horizon
from aggregator.ledger.records import (
    VERSION_COLUMNS,
    VERSION_FIELDS,
    Batch,
    BufferedUpdate,
    Mark,
    VersionRow,
    insert_batch,
    insert_version,
)
from aggregator.ledger.rule_state import read_state, write_state
from aggregator.ledger.write_ahead_log import BUSY_MILLISECONDS, WriteAheadLog
from aggregator.merging.peers import Claim
from aggregator.merging.rule import RuleState, Step
from wire_contract.errors import ContractError
from wire_contract.layout import Layout, Vector
from wire_contract.limits import KEPT_DELTAS


class Ledger:
    """Opened by one aggregator at a time.

    Raises:
        LedgerBusy: the disk is full, or another program holds the file locked.
        LedgerError: it is damaged, of another format or task, or in use by another aggregator.
    """

    def __init__(self, path: Path, *, task: str, shard: int = 0) -> None:
        path = path.resolve()  # whatever names it: its lock lies beside the file itself, as SQLite's files do
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
                self._db.execute("PRAGMA journal_mode = WAL")  # after the check: a foreign database stays as it is
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
        """Lets the next aggregator in."""
        self._db.close()
        self._lock.release()

    # -- the model line

    def begin_line(self, row: VersionRow, layout: Layout, weights: Vector) -> None:
        """Writes the first version of an empty ledger."""
        with self._transaction() as db:
            db.execute("INSERT INTO meta VALUES ('layout', ?)", (msgspec.msgpack.encode(layout),))
            insert_version(db, row, weights)

    def commit_version(self, row: VersionRow, step: Step, *, rule: str) -> None:
        """Writes a version with what made it: the master weights and the state of the merging rule with that name.

        Costs the same however many versions there were before.

        Raises:
            LedgerBusy: the disk refused; nothing was written.
        """
        with self._transaction() as db:
            insert_version(db, row, step.weights)
            write_state(db, rule, row.version, step.state)
            forget_blobs(db, row.version)

    def rule_state(self, rule: str) -> RuleState:
        """What the merging rule with this name remembers as of the newest version; empty if another one made that."""
        with plain_errors(self.path):
            return read_state(self._db, rule)

    def prune(self, kept: Kept) -> None:
        """Deletes a bounded number of rows beyond what is kept, if enough are.

        Raises:
            LedgerBusy: the disk refused; nothing was deleted.
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
        """From this version on the journal is complete: it has every update that any of them was made of."""
        return self._horizon

    def shrink_log(self) -> None:
        """Empties SQLite's write-ahead log where it has grown large; it cannot while somebody reads an older state."""
        self._log.shrink()

    def move_forward(self, row: VersionRow, weights: Vector, *, before: int) -> None:
        """Writes a version that leaves out numbers after `before`, the newest one; what waits goes into the one after.

        Raises:
            LedgerBusy: the disk refused; nothing was written.
        """
        assert row.version > before, f"version {row.version} after {before}"
        with self._transaction() as db:
            insert_version(db, row, weights)
            moved = (row.version + 1, before + 1)
            db.execute("UPDATE journal SET into_version = ? WHERE into_version = ?", moved)
            db.execute("UPDATE account SET last_version = ? WHERE last_version = ?", moved)
            db.execute("UPDATE account SET first_version = ? WHERE first_version = ?", moved)

    def note_devices_min(self, devices_min: int) -> None:
        """What the operator wants of each version from now on, for whoever reads the ledger.

        Raises:
            LedgerBusy: the disk refused; nothing was written.
        """
        with self._transaction() as db:
            db.execute("INSERT OR REPLACE INTO meta VALUES ('devices_min', ?)", (str(devices_min),))

    def layout(self) -> Layout | None:
        """The layout of the line; None in an empty ledger."""
        with plain_errors(self.path):
            row = self._db.execute("SELECT value FROM meta WHERE key = 'layout'").fetchone()
        try:
            return None if row is None else msgspec.msgpack.decode(row[0], type=Layout)
        except (msgspec.MsgspecError, ContractError) as error:
            raise LedgerError(f"ledger {self.path} is damaged: its layout: {error}") from None

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
        """The newest version that was published whole."""
        with plain_errors(self.path):
            row = self._db.execute(
                f"SELECT {VERSION_COLUMNS} FROM version"  # noqa: S608
                " WHERE chunks IS NOT NULL ORDER BY version DESC LIMIT 1"
            ).fetchone()
        if row is None:
            raise LedgerError(f"ledger {self.path} is damaged: no version was published whole")
        return VersionRow(**dict(zip(VERSION_FIELDS, row, strict=True)))

    def deltas(self) -> list[tuple[int, bytes]]:
        """Version and delta message of the newest versions, newest first, up to the first one without a delta."""
        with plain_errors(self.path):
            rows = self._db.execute(
                "SELECT version, delta FROM version ORDER BY version DESC LIMIT ?", (KEPT_DELTAS,)
            ).fetchall()
        return list(takewhile(lambda row: row[1] is not None, rows))

    def chunked_snapshots(self, count: int) -> list[tuple[int, int]]:
        """Version and number of chunks of the newest snapshots that were published in chunks, newest first."""
        with plain_errors(self.path):
            rows = self._db.execute(
                "SELECT version, chunks FROM version WHERE chunks > 0 ORDER BY version DESC LIMIT ?", (count,)
            )
            return rows.fetchall()

    def newest_versions(self, count: int) -> list[int]:
        """The numbers of the newest versions, newest first."""
        with plain_errors(self.path):
            rows = self._db.execute("SELECT version FROM version ORDER BY version DESC LIMIT ?", (count,))
            return [version for (version,) in rows]

    def digests(self, *, since: int) -> dict[int, bytes]:
        """Version to digest of the published weights, from version `since` on."""
        with plain_errors(self.path):
            rows = self._db.execute("SELECT version, digest FROM version WHERE version >= ?", (since,))
            return dict(rows.fetchall())

    def mark_from(self, version: int) -> Mark | None:
        """The oldest version that is not below `version`; None: all are."""
        return self._mark("WHERE version >= ? ORDER BY version LIMIT 1", (version,))

    def moved_forward(self) -> Mark | None:
        """The newest version that left out numbers after its parent; None: there is none."""
        return self._mark("WHERE parent < version - 1 ORDER BY version DESC LIMIT 1", ())

    def stamp_newest(self, *, at: float) -> None:
        """Says that the newest version was published at `at`, Unix seconds, and not when it was committed.

        Raises:
            LedgerBusy: the disk refused; nothing was written.
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
        """Writes everything of `batch`, or nothing.

        Raises:
            LedgerBusy: the disk refused; nothing was written.
        """
        with self._transaction() as db:
            insert_batch(db, batch, now)

    def last_of_devices(self) -> dict[DeviceKey, LastOfDevice]:
        """The newest answered update of each device incarnation."""
        with plain_errors(self.path):
            rows = self._db.execute("SELECT device, incarnation, sequence, refusal FROM device")
            return {(device, incarnation): LastOfDevice(last, why) for device, incarnation, last, why in rows}

    def last_merged(self, key: DeviceKey) -> LastOfDevice | None:
        """The newest update of a device incarnation in the journal, which forgets none from its horizon on."""
        with plain_errors(self.path):
            row = self._db.execute(
                "SELECT max(sequence) FROM journal WHERE device = ? AND incarnation = ?", key
            ).fetchone()
            return None if row[0] is None else LastOfDevice(row[0])

    def contributed(self, *, since: int, until: int) -> dict[str, int]:
        """The newest version from `since` to `until`, both included, that each device had a part in.

        `until` is the newest committed version, so that at most the one after it is left out.
        """
        with plain_errors(self.path):
            rows = self._db.execute(
                "SELECT device, iif(last_version <= ?1, last_version, previous_version) AS version FROM account"
                " WHERE version >= ?2",
                (until, since),
            )
            return dict(rows.fetchall())

    def claims(self, count: int, *, until: int) -> dict[str, Claim]:
        """What devices claimed in the newest version up to `until`, the newest committed one, that each had a part in.

        Of the `count` devices whose such version is newest; where versions are equal, names decide (`peers.py`).
        """
        with plain_errors(self.path):
            rows = self._db.execute(
                "SELECT device, last_version, samples, slot_norm FROM account WHERE last_version <= ?1"
                " UNION ALL SELECT device, previous_version, previous_samples, previous_slot_norm FROM account"
                " WHERE last_version > ?1 AND previous_samples IS NOT NULL"
                " ORDER BY 2 DESC, 1 DESC LIMIT ?2",
                (until, count),
            )
            return {device: Claim(version, samples, norm) for device, version, samples, norm in rows}

    def forget_incarnations(self, device: str) -> Sequence[DeviceKey]:
        """Drops the oldest incarnations of a device beyond those kept; returns what was dropped."""
        with self._transaction() as db:
            rows = db.execute(
                "SELECT device, incarnation FROM device WHERE device = ? ORDER BY seen_at DESC LIMIT -1 OFFSET ?",
                (device, INCARNATIONS_KEPT),
            ).fetchall()
            db.executemany("DELETE FROM device WHERE device = ? AND incarnation = ?", rows)
            return rows

    def journal(self, *, into_version: int) -> Iterator[BufferedUpdate]:
        """The updates of one buffer, in the order of merging."""
        with plain_errors(self.path):
            rows = self._db.execute(
                "SELECT device, base_version, staleness, samples, weight, scale, norm, payload FROM journal"
                " WHERE into_version = ? ORDER BY id",
                (into_version,),
            )
            for device, base_version, staleness, samples, weight, scale, norm, payload in rows:
                if payload is None:
                    raise LedgerError(f"ledger {self.path}: the journal of version {into_version} was emptied")
                yield BufferedUpdate(
                    device=device,
                    base_version=base_version,
                    staleness=staleness,
                    samples=samples,
                    weight=weight,
                    scale=scale,
                    norm=norm,
                    payload=payload,
                )

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
