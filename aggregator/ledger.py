"""The durable memory of the aggregator, in SQLite (the tables and their meaning: ledger.sql).

One transaction a batch, one transaction a version; `synchronous=FULL`, so that what was committed survives power loss.
A restart takes the newest snapshot and adds the journal after it in the journal's order: the same additions on the
same bits give the same weights. A lock file beside the ledger keeps a second aggregator out for as long as the first
one lives, however it ends.
"""

import json
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields
from importlib.resources import files
from itertools import takewhile
from pathlib import Path
from types import TracebackType
from typing import Self

import msgspec
import numpy as np

from aggregator.admission import LastOfDevice
from wire_contract.errors import ContractError
from wire_contract.file_lock import FileLock, FileLocked
from wire_contract.layout import Layout, Vector
from wire_contract.limits import KEPT_DELTAS
from wire_contract.messages import Evaluation, RefusalReason, Update

FORMAT = 2
SNAPSHOTS_KEPT = 2
INCARNATIONS_KEPT = 16
"""So many reinstallations of one device are remembered; older ones can no longer be on their way."""

DeviceKey = tuple[str, bytes]
"""Device and incarnation."""


class LedgerError(ContractError):
    """The ledger cannot be used; the text says what to do."""


class LedgerBusy(LedgerError):
    """The disk refused a write for now (full, or an input/output error); nothing was changed."""


@dataclass(frozen=True, kw_only=True)
class MergedUpdate:
    """One accepted update on its way into the journal."""

    update: Update
    payload: bytes
    into_version: int
    staleness: int
    weight: float


@dataclass(frozen=True, kw_only=True)
class RefusedUpdate:
    """One update that was read and refused: remembered, so that it is counted once."""

    update: Update
    reason: RefusalReason


@dataclass(frozen=True, kw_only=True)
class Batch:
    """What one transaction writes."""

    merged: Sequence[MergedUpdate] = ()
    refused: Sequence[RefusedUpdate] = ()
    unreadable: Sequence[RefusalReason] = ()
    """Refusals without an identity."""
    duplicates: int = 0
    evaluations: Sequence[Evaluation] = ()

    def __bool__(self) -> bool:
        return bool(self.merged or self.refused or self.unreadable or self.duplicates or self.evaluations)


@dataclass(frozen=True, kw_only=True)
class VersionRow:
    """One version of the model line."""

    version: int
    parent: int | None
    digest: bytes
    encoding: str
    chunks: int | None
    """That its snapshot was published in, 0 inside the manifest; None: it was not published whole."""
    committed_at: float
    model: bytes | None = None
    """The model message; only the newest version and the newest snapshot keep it."""
    delta: bytes | None = None
    """The delta message; only the newest KEPT_DELTAS versions keep theirs."""


@dataclass(frozen=True, kw_only=True)
class JournalRow:
    """One merged update as the journal has it."""

    device: str
    weight: float
    payload: bytes


@contextmanager
def _plain_errors(path: Path) -> Iterator[None]:
    try:
        yield
    except sqlite3.IntegrityError:
        raise  # a broken invariant of ours, not of the file
    except sqlite3.OperationalError as error:
        raise LedgerBusy(f"ledger {path}: {error}; free disk space or check the disk") from error
    except sqlite3.DatabaseError as error:
        raise LedgerError(
            f"ledger {path} is damaged ({error}); restore a copy, or move it away to begin anew"
        ) from error


class Ledger:
    """Opened by one aggregator at a time.

    Raises:
        LedgerError: it is damaged, of another format or task, or in use by another aggregator.
    """

    def __init__(self, path: Path, *, task: str, shard: int = 0) -> None:
        self.path = path
        self._lock = _lock(path)
        try:
            with _plain_errors(path):
                self._db = sqlite3.connect(path, isolation_level=None)
        except BaseException:
            self._lock.release()
            raise
        try:
            with _plain_errors(path):
                self._check_identity(task, shard)
                self._db.execute("PRAGMA journal_mode = WAL")  # after the check: a foreign database stays as it is
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
            _insert_version(db, row, weights)

    def commit_version(self, row: VersionRow, weights: Vector, *, journal_versions_kept: int) -> None:
        """Writes a version with its master weights (layout.size,), and forgets what is older than is kept.

        Raises:
            LedgerBusy: the disk refused; nothing was written.
        """
        with self._transaction() as db:
            _insert_version(db, row, weights)
            db.execute(
                "UPDATE version SET weights = NULL WHERE version <= ? AND weights IS NOT NULL",
                (row.version - SNAPSHOTS_KEPT,),
            )
            db.execute(
                "UPDATE version SET model = NULL WHERE version < ? AND model IS NOT NULL"
                " AND version != (SELECT max(version) FROM version WHERE chunks IS NOT NULL)",
                (row.version,),
            )
            db.execute(
                "UPDATE version SET delta = NULL WHERE version <= ? AND delta IS NOT NULL",
                (row.version - KEPT_DELTAS,),
            )
            db.execute(
                "UPDATE journal SET payload = NULL WHERE into_version <= ? AND payload IS NOT NULL",
                (row.version - max(journal_versions_kept, SNAPSHOTS_KEPT),),
            )

    def move_forward(self, row: VersionRow, weights: Vector, *, before: int) -> None:
        """Writes a version that leaves out numbers after `before`, the newest one; what waits goes into the one after.

        Raises:
            LedgerBusy: the disk refused; nothing was written.
        """
        assert row.version > before, f"version {row.version} after {before}"
        with self._transaction() as db:
            _insert_version(db, row, weights)
            db.execute("UPDATE journal SET into_version = ? WHERE into_version = ?", (row.version + 1, before + 1))

    def layout(self) -> Layout | None:
        """The layout of the line; None in an empty ledger."""
        with _plain_errors(self.path):
            row = self._db.execute("SELECT value FROM meta WHERE key = 'layout'").fetchone()
        try:
            return None if row is None else msgspec.msgpack.decode(row[0], type=Layout)
        except (msgspec.MsgspecError, ContractError) as error:
            raise LedgerError(f"ledger {self.path} is damaged: its layout: {error}") from None

    def newest(self) -> tuple[VersionRow, Vector]:
        """The newest version and its master weights (layout.size,)."""
        with _plain_errors(self.path):
            row = self._db.execute(
                f"SELECT {_VERSION_COLUMNS}, weights FROM version ORDER BY version DESC LIMIT 1"  # noqa: S608
            ).fetchone()
        if row is None or row[-1] is None or len(row[-1]) % 4:
            raise LedgerError(f"ledger {self.path} is damaged: its newest version has no weights")
        weights = np.frombuffer(row[-1], dtype="<f4").astype(np.float32)
        return VersionRow(**dict(zip(_VERSION_FIELDS, row, strict=False))), weights

    def newest_snapshot(self) -> VersionRow:
        """The newest version that was published whole."""
        with _plain_errors(self.path):
            row = self._db.execute(
                f"SELECT {_VERSION_COLUMNS} FROM version"  # noqa: S608
                " WHERE chunks IS NOT NULL ORDER BY version DESC LIMIT 1"
            ).fetchone()
        if row is None:
            raise LedgerError(f"ledger {self.path} is damaged: no version was published whole")
        return VersionRow(**dict(zip(_VERSION_FIELDS, row, strict=True)))

    def deltas(self) -> list[tuple[int, bytes]]:
        """Version and delta message of the newest versions, newest first, up to the first one without a delta."""
        with _plain_errors(self.path):
            rows = self._db.execute(
                "SELECT version, delta FROM version ORDER BY version DESC LIMIT ?", (KEPT_DELTAS,)
            ).fetchall()
        return list(takewhile(lambda row: row[1] is not None, rows))

    def chunked_snapshots(self, count: int) -> list[tuple[int, int]]:
        """Version and number of chunks of the newest snapshots that were published in chunks, newest first."""
        with _plain_errors(self.path):
            rows = self._db.execute(
                "SELECT version, chunks FROM version WHERE chunks > 0 ORDER BY version DESC LIMIT ?", (count,)
            )
            return rows.fetchall()

    def digests(self, *, since: int) -> dict[int, bytes]:
        """Version to digest of the published weights, from version `since` on."""
        with _plain_errors(self.path):
            rows = self._db.execute("SELECT version, digest FROM version WHERE version >= ?", (since,))
            return dict(rows.fetchall())

    # -- updates

    def commit_batch(self, batch: Batch, *, now: float) -> None:
        """Writes everything of `batch`, or nothing.

        Raises:
            LedgerBusy: the disk refused; nothing was written.
        """
        with self._transaction() as db:
            db.executemany(
                "INSERT INTO journal (into_version, device, incarnation, sequence, base_version, staleness, samples,"
                " weight, size_bytes, train_seconds, payload, merged_at) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
                [_journal_values(merged, now) for merged in batch.merged],
            )
            answered: list[tuple[Update, RefusalReason | None]] = [(merged.update, None) for merged in batch.merged]
            answered += [(refused.update, refused.reason) for refused in batch.refused]
            db.executemany(
                "INSERT INTO device VALUES (?, ?, ?, ?, ?) ON CONFLICT (device, incarnation) DO UPDATE SET"
                " sequence = excluded.sequence, refusal = excluded.refusal, seen_at = excluded.seen_at"
                " WHERE excluded.sequence > sequence",
                [(u.device, u.incarnation, u.sequence, reason, now) for u, reason in answered],
            )
            db.executemany(
                "INSERT INTO counter VALUES (?, ?, 1) ON CONFLICT DO UPDATE SET count = count + 1",
                [("refused", refused.reason) for refused in batch.refused]
                + [("refused", reason) for reason in batch.unreadable]
                + [("duplicate", "")] * batch.duplicates,
            )
            db.executemany(
                "INSERT OR REPLACE INTO evaluation VALUES (?, ?, ?, ?)",
                [(e.version, e.device, e.samples, json.dumps(e.metrics)) for e in batch.evaluations],
            )

    def last_of_devices(self) -> dict[DeviceKey, LastOfDevice]:
        """The newest answered update of each device incarnation."""
        with _plain_errors(self.path):
            rows = self._db.execute("SELECT device, incarnation, sequence, refusal FROM device")
            return {(device, incarnation): LastOfDevice(last, why) for device, incarnation, last, why in rows}

    def last_merged(self, key: DeviceKey) -> LastOfDevice | None:
        """The newest update of a device incarnation in the journal, which forgets none."""
        with _plain_errors(self.path):
            row = self._db.execute(
                "SELECT max(sequence) FROM journal WHERE device = ? AND incarnation = ?", key
            ).fetchone()
            return None if row[0] is None else LastOfDevice(row[0])

    def contributed(self, *, since: int, until: int) -> dict[str, int]:
        """The newest version from `since` to `until`, both included, that each device had a part in."""
        with _plain_errors(self.path):
            rows = self._db.execute(
                "SELECT device, max(into_version) FROM journal WHERE into_version BETWEEN ? AND ? GROUP BY device",
                (since, until),
            )
            return dict(rows.fetchall())

    def forget_incarnations(self, device: str) -> Sequence[DeviceKey]:
        """Drops the oldest incarnations of a device beyond those kept; returns what was dropped."""
        with self._transaction() as db:
            rows = db.execute(
                "SELECT device, incarnation FROM device WHERE device = ? ORDER BY seen_at DESC LIMIT -1 OFFSET ?",
                (device, INCARNATIONS_KEPT),
            ).fetchall()
            db.executemany("DELETE FROM device WHERE device = ? AND incarnation = ?", rows)
            return rows

    def journal(self, *, into_version: int) -> Iterator[JournalRow]:
        """The updates of one buffer, in the order of merging."""
        with _plain_errors(self.path):
            rows = self._db.execute(
                "SELECT device, weight, payload FROM journal WHERE into_version = ? ORDER BY id", (into_version,)
            )
            for device, weight, payload in rows:
                if payload is None:
                    raise LedgerError(f"ledger {self.path}: the journal of version {into_version} was emptied")
                yield JournalRow(device=device, weight=weight, payload=payload)

    # -- inside

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        with _plain_errors(self.path):
            self._db.execute("BEGIN IMMEDIATE")
            try:
                yield self._db
                self._db.execute("COMMIT")
            except BaseException:
                if self._db.in_transaction:
                    self._db.execute("ROLLBACK")
                raise

    def _check_identity(self, task: str, shard: int) -> None:
        self._db.execute("PRAGMA synchronous = FULL")
        expected = {"format": str(FORMAT), "task": task, "shard": str(shard)}
        tables = self._db.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]
        if not tables:
            script = files("aggregator").joinpath("ledger.sql").read_text(encoding="utf-8")
            self._db.executescript(f"BEGIN IMMEDIATE; {script}")
            self._db.executemany("INSERT INTO meta VALUES (?, ?)", list(expected.items()))
            self._db.execute("COMMIT")
        check = self._db.execute("PRAGMA quick_check(1)").fetchone()[0]
        if check != "ok":
            raise LedgerError(f"ledger {self.path} is damaged ({check}); restore a copy, or move it away")
        if not self._db.execute("SELECT count(*) FROM sqlite_master WHERE name = 'meta'").fetchone()[0]:
            raise LedgerError(f"{self.path} is a database, but not a ledger; give another --ledger")
        found = dict(self._db.execute("SELECT key, value FROM meta"))
        for key, value in expected.items():
            if found.get(key) != value:
                raise LedgerError(
                    f"ledger {self.path}: its {key} is {found.get(key)!r}, not {value!r}; give another --ledger"
                )


def _lock(path: Path) -> FileLock:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        return FileLock(path.with_name(path.name + ".lock"))
    except FileLocked as error:
        raise LedgerError(
            f"ledger {path}: another aggregator (process {error.holder}) is using it; two would merge updates twice"
        ) from None
    except OSError as error:
        raise LedgerError(f"ledger {path}: {error.strerror}; give a --ledger in a folder that can be written") from None


def _journal_values(merged: MergedUpdate, now: float) -> tuple[object, ...]:
    update = merged.update
    return (
        merged.into_version,
        update.device,
        update.incarnation,
        update.sequence,
        update.base_version,
        merged.staleness,
        update.samples,
        merged.weight,
        len(merged.payload),
        update.train_seconds,
        merged.payload,
        now,
    )


_VERSION_FIELDS = tuple(field.name for field in fields(VersionRow))
_VERSION_COLUMNS = ", ".join(_VERSION_FIELDS)


def _insert_version(db: sqlite3.Connection, row: VersionRow, weights: Vector) -> None:
    values = (*(getattr(row, name) for name in _VERSION_FIELDS), weights.astype("<f4").tobytes())
    marks = ", ".join("?" * len(values))
    db.execute(f"INSERT INTO version ({_VERSION_COLUMNS}, weights) VALUES ({marks})", values)  # noqa: S608
