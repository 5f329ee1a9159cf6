"""The durable memory of a device: what it learned and has not been thanked for, its local student, the newest model.

One SQLite file (WAL, synchronous=FULL: a commit survives the power cut), written by one process at a time. Its tables
stand in `outbox.sql` and the files that follow it; `outbox_schema.py` brings older files up to date.

What is promised: an update, the sequence it took and the student it left behind are committed together or not at all,
and nothing is sent before; so a sequence never stands for two different updates, whenever the device is killed.

A disk that takes no write for now (full, an input/output error) raises `OutboxBlocked` and changes nothing. Updates
whose fate is known are then left out by this process all the same, and `record` writes it down when it can. A process
that dies before that sends them again, and the aggregator answers that it has had them.
"""

import hashlib
import os
import sqlite3
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np

from device_client.downlink.model_trust import Believed
from device_client.presence import this_firmware
from device_client.uplink.error_feedback import Untold
from device_client.uplink.outbox_errors import OutboxBlocked, OutboxFull, OutboxInUse, of_sqlite, of_the_system
from device_client.uplink.outbox_schema import bring_up_to_date
from device_client.uplink.rounds import Line
from wire_contract import codec
from wire_contract.errors import DecodeError
from wire_contract.files.file_lock import FileLock, FileLocked
from wire_contract.limits import MODEL_LIMITS, Limits
from wire_contract.messages import KEY_ID_BYTES, PAYLOAD_DIGEST_BYTES, Identity, Manifest

ENTRIES_MAX = 64
"""Default bound of the queue, in updates."""
_KEEP_CONTENT = "INSERT INTO untold SELECT sequence, payload, base_version FROM queue WHERE sequence = ?"
_CACHED_MANIFEST_LIMITS = Limits(
    compressed_bytes=MODEL_LIMITS.compressed_bytes * 2, decompressed_bytes=MODEL_LIMITS.decompressed_bytes * 2
)
"""A manifest with a large model inline is over the limits of the wire, which it never travels."""


@dataclass(frozen=True)
class Entry:
    """One update that waits for its receipt."""

    identity: Identity
    payload: bytes
    base_version: int
    attempts: int
    """Times sent so far, by all processes."""


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
        """Opens the outbox at `path`, or makes it.

        Raises:
            OutboxInUse: another process has it open.
            OutboxForeign: it belongs to another task or device, or to a newer program.
            OutboxDamaged: the file is not what was written.
            OutboxUnwritable: the folder or the file cannot be written.
            OutboxBlocked: the disk is full; opening it later may go well.
        """
        self.path = path
        self.entries_max = entries_max
        self._is_open = False
        try:
            path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)  # nobody else may read what a device learned
            self._lock = FileLock(path.with_name(path.name + ".lock"))
        except FileLocked:
            raise OutboxInUse(path) from None
        except OSError as error:
            raise of_the_system(path, error) from None
        try:
            # The file may tell about its owner's data, so nobody else may read it; SQLite's side files follow it.
            os.close(os.open(path, os.O_CREAT | os.O_RDWR, 0o600))
        except OSError as error:
            self._lock.release()
            raise of_the_system(path, error) from None
        self._database = sqlite3.connect(":memory:")
        try:
            try:
                row = self._open(task, device, random_bytes)
            except OutboxBlocked:
                # Alone on the file SQLite does without the one of shared memory, for which a full disk has no room. So
                # what waits is sent all the same, if nothing else has to be written.
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
        """Sequences in the file whose fate is known and not written down; True: their content is to be told again."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        with suppress(sqlite3.Error):
            self._database.close()
        self._lock.release()

    # The queue.

    def __len__(self) -> int:
        """Updates that wait."""
        return self._count - len(self._settled)

    @property
    def is_full(self) -> bool:
        return len(self) >= self.entries_max

    @property
    def incarnation(self) -> bytes:
        return self._incarnation

    @property
    def next_identity(self) -> Identity:
        """Of the update that is added next."""
        return Identity(self._device, self._incarnation, self._last_sequence + 1)

    def add(self, identity: Identity, payload: bytes, line: Line, *, retold: Collection[int] = ()) -> Entry:
        """Keeps an update, together with the student it led to.

        Args:
            identity: `next_identity`, which stands in the payload.
            payload: the encoded update.
            line: the local student after it.
            retold: sequences of `untold` whose content is in the update and the line's residual.

        Raises:
            OutboxFull: so many wait already; nothing was changed.
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
                line.base_version,
            )
            self._put_line(line, retold)
        self._last_sequence = identity.sequence
        self._count += 1
        return Entry(identity, payload, line.base_version, 0)

    def head(self) -> Entry | None:
        """The oldest update that is to be sent."""
        marks = ", ".join("?" * len(self._settled))
        return self._entry(f"WHERE sequence NOT IN ({marks}) ORDER BY sequence LIMIT 1", *self._settled)

    def find(self, sequence: int) -> Entry | None:
        return self._entry("WHERE sequence = ?", sequence)

    def find_payload(self, digest: bytes) -> Entry | None:
        """By the first 8 bytes of the payload's SHA-256."""
        return self._entry("WHERE payload_digest = ?", digest)

    def attempted(self, entry: Entry) -> Entry:
        """Counts one more time sent; to be called before, so that a kill in between cannot hide it."""
        with self._transaction():
            self._execute("UPDATE queue SET attempts = attempts + 1 WHERE sequence = ?", entry.identity.sequence)
        return Entry(entry.identity, entry.payload, entry.base_version, entry.attempts + 1)

    def settle(self, sequence: int, *, untold: bool = False) -> bool:
        """An update is not to be sent any more; `record` writes that down.

        Args:
            sequence: of an update in the queue; of any other, nothing happens.
            untold: nobody took in what it told, so that has to be told again (see `untold`).

        Returns:
            Whether that is new.
        """
        if sequence in self._settled or self.find(sequence) is None:
            return False
        self._settled[sequence] = untold
        return True

    @property
    def is_recorded(self) -> bool:
        """Whether each known fate is written down."""
        return not self._settled

    def record(self) -> None:
        """Writes down what `settle` was told.

        Raises:
            OutboxBlocked: nothing was changed.
        """
        if not self._settled:
            return
        with self._transaction():
            for sequence, untold in self._settled.items():
                if untold:
                    self._execute(_KEEP_CONTENT, sequence)
                self._execute("DELETE FROM queue WHERE sequence = ?", sequence)
        self._count -= len(self._settled)
        self._settled.clear()

    def untold(self) -> list[Untold]:
        """The updates that were not taken in, whose content is to be told again; oldest first."""
        with self._errors():
            rows = self._execute("SELECT sequence, payload, base_version FROM untold ORDER BY sequence").fetchall()
        return [Untold(int(row[0]), bytes(row[1]), int(row[2])) for row in rows]

    # The local student and the newest model.

    def line(self) -> Line | None:
        with self._errors():
            row = self._row("SELECT base_version, base_digest, rounds, weights, finished_at, residual FROM line")
        if row is None:
            return None
        weights = np.frombuffer(row[3], dtype="<f4").astype(np.float32)
        residual = None if row[5] is None else np.frombuffer(row[5], dtype="<f4").astype(np.float32)
        return Line(int(row[0]), bytes(row[1]), int(row[2]), weights, float(row[4]), residual)

    def save_line(self, line: Line, *, retold: Collection[int] = ()) -> None:
        """The local student without an update: its last round gave none. `retold`: as for `add`."""
        with self._transaction():
            self._put_line(line, retold)

    def model(self, *, pinned: Collection[bytes] = ()) -> Manifest | None:
        """The cached model, as a manifest with the model inline; to be verified like any other.

        None where there is none, or where it cannot be read: the broker has it, and a cache must not stop the updates
        that wait here. None as well where it rests on the word of a key that is not among the `pinned` ones (ids), or
        on nobody's; without pinned keys any will do.
        """
        with self._errors():
            row = self._row("SELECT manifest, pins FROM model")
        if row is None:
            return None
        trusted_then = _key_ids(bytes(row[1]))
        if pinned and not (trusted_then and trusted_then <= set(pinned)):
            return None
        try:
            return codec.decode(bytes(row[0]), Manifest, limits=_CACHED_MANIFEST_LIMITS)
        except DecodeError:
            return None

    def save_model(self, manifest: Manifest, *, pinned: Collection[bytes] = ()) -> None:
        """Keeps the newest global model: `manifest` has it inline, and was checked with the `pinned` keys (ids)."""
        assert manifest.inline is not None
        with self._transaction():
            self._execute(
                "INSERT OR REPLACE INTO model VALUES (1, ?, ?)", codec.encode(manifest), b"".join(sorted(pinned))
            )

    def drop_model(self) -> None:
        """The cached model is of no use any more."""
        with self._transaction():
            self._execute("DELETE FROM model")

    def believed(self) -> Believed | None:
        """The highest version that a pinned key vouched for."""
        with self._errors():
            row = self._row("SELECT version, digest, key_ids FROM believed")
        return None if row is None else Believed(int(row[0]), bytes(row[1]), _key_ids(bytes(row[2])))

    def save_believed(self, believed: Believed) -> None:
        """So that no older one is taken after a restart."""
        key_ids = b"".join(sorted(believed.key_ids))
        with self._transaction():
            self._execute(
                "INSERT OR REPLACE INTO believed VALUES (1, ?, ?, ?)", believed.version, believed.digest, key_ids
            )

    # SQLite.

    def _open(self, task: str, device: str, random_bytes: Callable[[int], bytes], *pragmas: str) -> tuple[Any, ...]:
        """Incarnation, last sequence, and how many wait."""
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

    def _put_line(self, line: Line, retold: Collection[int]) -> None:
        self._execute(
            "INSERT OR REPLACE INTO line VALUES (1, ?, ?, ?, ?, ?, ?)",
            line.base_version,
            line.base_digest,
            line.rounds,
            line.weights.astype("<f4").tobytes(),
            line.finished_at,
            None if line.residual is None else line.residual.astype("<f4").tobytes(),
        )
        for sequence in retold:
            self._execute("DELETE FROM untold WHERE sequence = ?", sequence)

    def _entry(self, which: str, *values: object) -> Entry | None:
        with self._errors():
            row = self._row(
                f"SELECT sequence, payload, base_version, attempts FROM queue {which}",  # noqa: S608 — our own words
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
                with suppress(sqlite3.Error):  # what is folded into the main file, the log may write over
                    self._execute("PRAGMA wal_checkpoint")
                raise

    @contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.DatabaseError as error:
            raise of_sqlite(self.path, error, at_work=self._is_open) from error


def payload_digest(payload: bytes) -> bytes:
    """What a receipt names an update by when the aggregator could not read it."""
    return hashlib.sha256(payload).digest()[:PAYLOAD_DIGEST_BYTES]


def _key_ids(joined: bytes) -> frozenset[bytes]:
    return frozenset(joined[start : start + KEY_ID_BYTES] for start in range(0, len(joined), KEY_ID_BYTES))
