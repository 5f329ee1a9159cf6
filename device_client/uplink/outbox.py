"""The durable memory of a device: updates still without a receipt, the local student, and the newest model.

One SQLite file (WAL, synchronous=FULL: a commit survives a power cut), written by one process at a time. Its tables are
in `outbox.sql` and the files that follow it; `outbox_schema` upgrades older files.

The guarantee: an update, its sequence number and the resulting local student are committed together or not at
all, and nothing is sent before that. So a sequence number never names two different updates, whenever the device is
killed.

A disk that takes no writes for now (full, or an input/output error) raises `OutboxBlocked` and changes nothing. Updates
that were settled meanwhile are not sent again by this process, and `record` deletes them when the disk takes writes
again. A process that dies before that sends them again, and the aggregator answers that they are duplicates.
"""

import os
import sqlite3
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Self

from device_client.downlink.model_trust import TrustedVersion
from device_client.presence import this_firmware
from device_client.uplink.error_feedback import UnmergedUpdate
from device_client.uplink.outbox_errors import OutboxBlocked, OutboxFull, OutboxInUse, of_sqlite, of_the_system
from device_client.uplink.outbox_rows import (
    CACHED_MANIFEST_LIMITS,
    Entry,
    joined_key_ids,
    key_ids_of,
    payload_digest,
    student_of,
    student_row,
)
from device_client.uplink.outbox_schema import bring_up_to_date
from device_client.uplink.rounds import LocalStudent
from wire_contract import codec
from wire_contract.errors import DecodeError
from wire_contract.files.file_lock import FileLock, FileLocked
from wire_contract.messages import Identity, Manifest

ENTRIES_MAX = 64
"""Default for the most updates that may wait; at 2 kB each they take 128 kB."""
_KEEP_CONTENT = "INSERT INTO untold SELECT sequence, payload, base_version FROM queue WHERE sequence = ?"


class Outbox:
    """Used by one thread at a time."""

    def __init__(
        self,
        path: Path,
        *,
        task: str,
        device: str,
        random_bytes: Callable[[int], bytes] = os.urandom,
        entries_max: int = ENTRIES_MAX,
    ) -> None:
        """Opens the outbox at `path`, or creates it.

        Raises:
            OutboxInUse: another process has it open.
            OutboxForeign: it belongs to another task or device, or to a newer program.
            OutboxDamaged: the file is corrupt.
            OutboxUnwritable: the folder or the file cannot be written.
            OutboxBlocked: the disk is full; opening it later may succeed.
        """
        self.path = path
        self.entries_max = entries_max
        self._is_open = False
        try:
            path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)  # updates tell about private data
            self._lock = FileLock(path.with_name(path.name + ".lock"))
        except FileLocked:
            raise OutboxInUse(path) from None
        except OSError as error:
            raise of_the_system(path, error) from None
        try:
            # Readable by its owner only, for the same reason; SQLite's side files get the same mode.
            os.close(os.open(path, os.O_CREAT | os.O_RDWR, 0o600))
        except OSError as error:
            self._lock.release()
            raise of_the_system(path, error) from None
        self._database = sqlite3.connect(":memory:")
        try:
            try:
                row = self._open(task, device, random_bytes)
            except OutboxBlocked:
                # With exclusive access SQLite needs no shared-memory file, for which a full disk has no room. So
                # waiting updates can be sent even then, if nothing else has to be written.
                row = self._open(task, device, random_bytes, "PRAGMA locking_mode = EXCLUSIVE")
        except BaseException:
            self.close()
            raise
        self._incarnation = bytes(row[0])
        self._last_sequence = int(row[1])
        self._count = int(row[2])
        self._device = device
        self._is_open = True
        self._settled: dict[int, bool] = {}
        """Sequences that are settled but still in the file; True: their content is to be carried over."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        with suppress(sqlite3.Error):
            self._database.close()
        self._lock.release()

    # --- the queue

    def __len__(self) -> int:
        """Updates that wait for a receipt."""
        return self._count - len(self._settled)

    @property
    def is_full(self) -> bool:
        return len(self) >= self.entries_max

    @property
    def incarnation(self) -> bytes:
        return self._incarnation

    @property
    def next_identity(self) -> Identity:
        """The identity of the next update to be added."""
        return Identity(self._device, self._incarnation, self._last_sequence + 1)

    def add(
        self, identity: Identity, payload: bytes, student: LocalStudent, *, carried_over: Collection[int] = ()
    ) -> Entry:
        """Queues an update, and saves the local student after it in the same transaction.

        Args:
            identity: `next_identity`, which the payload states.
            payload: the encoded update.
            student: the local student after it.
            carried_over: sequences of `unmerged` updates whose content is in the update and the student's residual;
                they are deleted.

        Raises:
            OutboxFull: too many updates wait already; nothing was changed.
            OutboxBlocked: nothing was changed.
        """
        assert identity == self.next_identity, f"{identity} is not the next identity, {self.next_identity}"
        if self.is_full:
            raise OutboxFull(self.path, entries_max=self.entries_max)
        with self._transaction():
            self._execute("UPDATE identity SET last_sequence = ?", identity.sequence)
            self._execute(
                "INSERT INTO queue (sequence, payload, payload_digest, base_version) VALUES (?, ?, ?, ?)",
                identity.sequence,
                payload,
                payload_digest(payload),
                student.base_version,
            )
            self._put_local_student(student, carried_over)
        self._last_sequence = identity.sequence
        self._count += 1
        return Entry(identity, payload, student.base_version, 0)

    def head(self) -> Entry | None:
        """The oldest update that waits."""
        marks = ", ".join("?" * len(self._settled))
        return self._entry(f"WHERE sequence NOT IN ({marks}) ORDER BY sequence LIMIT 1", *self._settled)

    def find(self, sequence: int) -> Entry | None:
        return self._entry("WHERE sequence = ?", sequence)

    def find_payload(self, digest: bytes) -> Entry | None:
        """The update with this `payload_digest`."""
        return self._entry("WHERE payload_digest = ?", digest)

    def attempted(self, entry: Entry) -> Entry:
        """Counts one more attempt. Called before sending, so that a kill in between cannot hide the attempt."""
        with self._transaction():
            self._execute("UPDATE queue SET attempts = attempts + 1 WHERE sequence = ?", entry.identity.sequence)
        return Entry(entry.identity, entry.payload, entry.base_version, entry.attempts + 1)

    def settle(self, sequence: int, *, carry_over: bool = False) -> bool:
        """Marks an update as settled: it is not sent again. `record` writes that to the disk.

        Args:
            sequence: of an update in the queue; otherwise nothing happens.
            carry_over: it was not merged, and its content is to be sent with a later update (see `unmerged`).

        Returns:
            Whether it was in the queue and not settled before.
        """
        if sequence in self._settled or self.find(sequence) is None:
            return False
        self._settled[sequence] = carry_over
        return True

    @property
    def is_recorded(self) -> bool:
        """Whether everything that `settle` marked is on the disk."""
        return not self._settled

    def record(self) -> None:
        """Writes to the disk what `settle` marked.

        Raises:
            OutboxBlocked: nothing was changed.
        """
        if not self._settled:
            return
        with self._transaction():
            for sequence, carry_over in self._settled.items():
                if carry_over:
                    self._execute(_KEEP_CONTENT, sequence)
                self._execute("DELETE FROM queue WHERE sequence = ?", sequence)
        self._count -= len(self._settled)
        self._settled.clear()

    def unmerged(self) -> list[UnmergedUpdate]:
        """Updates that were not merged and whose content is to be carried over, oldest first."""
        with self._errors():
            rows = self._execute("SELECT sequence, payload, base_version FROM untold ORDER BY sequence").fetchall()
        return [UnmergedUpdate(int(row[0]), bytes(row[1]), int(row[2])) for row in rows]

    # --- the local student and the newest model

    def local_student(self) -> LocalStudent | None:
        with self._errors():
            row = self._row("SELECT base_version, base_digest, rounds, weights, finished_at, residual FROM line")
        return None if row is None else student_of(row)

    def save_local_student(self, student: LocalStudent, *, carried_over: Collection[int] = ()) -> None:
        """Saves the local student of a round that gave no update. `carried_over`: as for `add`."""
        with self._transaction():
            self._put_local_student(student, carried_over)

    def model(self, *, pinned: Collection[bytes] = ()) -> Manifest | None:
        """The cached model, as a manifest with the model inline; to be verified like any other.

        None if there is none, or if it cannot be read: the broker has it, and a broken cache must not stop the updates
        that wait here. With pinned keys (their ids), also None if it was checked with other keys or with none.
        """
        with self._errors():
            row = self._row("SELECT manifest, pins FROM model")
        if row is None:
            return None
        pinned_then = key_ids_of(bytes(row[1]))
        if pinned and not (pinned_then and pinned_then <= set(pinned)):
            return None
        try:
            return codec.decode(bytes(row[0]), Manifest, limits=CACHED_MANIFEST_LIMITS)
        except DecodeError:
            return None

    def save_model(self, manifest: Manifest, *, pinned: Collection[bytes] = ()) -> None:
        """Caches the newest global model: `manifest` has it inline, and was checked with the `pinned` keys (ids)."""
        assert manifest.inline is not None
        with self._transaction():
            self._execute(
                "INSERT OR REPLACE INTO model VALUES (1, ?, ?)", codec.encode(manifest), joined_key_ids(pinned)
            )

    def drop_model(self) -> None:
        """Deletes the cached model."""
        with self._transaction():
            self._execute("DELETE FROM model")

    def trusted_version(self) -> TrustedVersion | None:
        """The highest version signed by a pinned key."""
        with self._errors():
            row = self._row("SELECT version, digest, key_ids FROM believed")
        return None if row is None else TrustedVersion(int(row[0]), bytes(row[1]), key_ids_of(bytes(row[2])))

    def save_trusted_version(self, trusted: TrustedVersion) -> None:
        """Remembers it, so that no older version is accepted after a restart."""
        key_ids = joined_key_ids(trusted.key_ids)
        with self._transaction():
            self._execute(
                "INSERT OR REPLACE INTO believed VALUES (1, ?, ?, ?)", trusted.version, trusted.digest, key_ids
            )

    # --- SQLite

    def _open(self, task: str, device: str, random_bytes: Callable[[int], bytes], *pragmas: str) -> tuple[Any, ...]:
        """Opens the database. Returns incarnation, last sequence and number of queued updates."""
        with self._errors():
            self._database.close()
            self._database = sqlite3.connect(self.path, isolation_level=None, check_same_thread=False)
            for pragma in pragmas:
                self._execute(pragma)
            bring_up_to_date(
                self.path,
                self._execute,
                self._transaction,
                task=task,
                device=device,
                program=this_firmware(),
                random_bytes=random_bytes,
            )
            row = self._row("SELECT incarnation, last_sequence, (SELECT count(*) FROM queue) FROM identity")
        assert row is not None
        return row

    def _put_local_student(self, student: LocalStudent, carried_over: Collection[int]) -> None:
        self._execute("INSERT OR REPLACE INTO line VALUES (1, ?, ?, ?, ?, ?, ?)", *student_row(student))
        for sequence in carried_over:
            self._execute("DELETE FROM untold WHERE sequence = ?", sequence)

    def _entry(self, which: str, *values: object) -> Entry | None:
        with self._errors():
            row = self._row(
                f"SELECT sequence, payload, base_version, attempts FROM queue {which}",  # noqa: S608 — only our own clauses
                *values,
            )
        if row is None:
            return None
        return Entry(Identity(self._device, self._incarnation, int(row[0])), bytes(row[1]), int(row[2]), int(row[3]))

    def _execute(self, statement: str, *values: object) -> sqlite3.Cursor:
        return self._database.execute(statement, values)

    def _row(self, statement: str, *values: object) -> tuple[Any, ...] | None:
        row: tuple[Any, ...] | None = self._execute(statement, *values).fetchone()
        return row

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        with self._errors():
            self._execute("BEGIN IMMEDIATE")
            try:
                yield
                self._execute("COMMIT")
            except BaseException:
                with suppress(sqlite3.Error):  # a full disk has rolled back already
                    self._execute("ROLLBACK")
                with suppress(sqlite3.Error):  # then the log reuses its space, and need not grow
                    self._execute("PRAGMA wal_checkpoint")
                raise

    @contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.DatabaseError as error:
            raise of_sqlite(self.path, error, at_work=self._is_open) from error
