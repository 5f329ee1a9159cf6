"""The durable memory of a device: what it learned and has not been thanked for, its local student, the newest model.

One SQLite file (WAL, synchronous=FULL: a commit survives the power cut), written by one process at a time. Its tables
stand in `outbox.sql`, and what later schemas added in `outbox_2.sql`.

What is promised: an update, the sequence it took and the student it left behind are committed together or not at all,
and nothing is sent before; so a sequence never stands for two different updates, whenever the device is killed.
"""

import hashlib
import os
import sqlite3
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any, Self

import numpy as np

from device_client.model_trust import Believed
from device_client.outbox_errors import (
    OutboxDamaged,
    OutboxForeign,
    OutboxFull,
    OutboxInUse,
    OutboxUnwritable,
)
from device_client.rounds import Line
from wire_contract import codec
from wire_contract.errors import DecodeError
from wire_contract.file_lock import FileLock, FileLocked
from wire_contract.limits import MODEL_LIMITS, Limits
from wire_contract.messages import INCARNATION_BYTES, KEY_ID_BYTES, PAYLOAD_DIGEST_BYTES, Identity, Manifest

ENTRIES_MAX = 64
"""Default bound of the queue, in updates."""
_APPLICATION_ID = 0x464B444F
"""FKDO, in the header of the file: tells a device's outbox from any other SQLite file."""
_SCHEMA = 2
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
        """
        self.path = path
        self.entries_max = entries_max
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._lock = FileLock(path.with_name(path.name + ".lock"))
        except FileLocked:
            raise OutboxInUse(path) from None
        except OSError as error:
            raise OutboxUnwritable(path, error.strerror or str(error)) from None
        try:
            # The file may tell about its owner's data, so nobody else may read it; SQLite's side files follow it.
            os.close(os.open(path, os.O_CREAT | os.O_RDWR, 0o600))
            self._database = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
        except OSError as error:
            self._lock.release()
            raise OutboxUnwritable(path, error.strerror or str(error)) from None
        try:
            with self._errors():
                self._open(task, device, random_bytes)
                row = self._row("SELECT incarnation, last_sequence, (SELECT count(*) FROM queue) FROM identity")
                assert row is not None
        except BaseException:
            self.close()
            raise
        self._incarnation = bytes(row[0])
        self._last_sequence = int(row[1])
        self._count = int(row[2])
        self._device = device

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
        return self._count

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

    def add(self, identity: Identity, payload: bytes, line: Line) -> Entry:
        """Keeps an update, together with the student it led to.

        Args:
            identity: `next_identity`, which stands in the payload.
            payload: the encoded update.
            line: the local student after it.

        Raises:
            OutboxFull: so many wait already; nothing was changed.
            OutboxUnwritable: nothing was changed.
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
            self._put_line(line)
        self._last_sequence = identity.sequence
        self._count += 1
        return Entry(identity, payload, line.base_version, 0)

    def head(self) -> Entry | None:
        """The oldest update."""
        return self._entry("ORDER BY sequence LIMIT 1")

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

    def remove(self, sequence: int) -> None:
        """Forgets an update whose fate is known."""
        with self._transaction():
            removed = self._execute("DELETE FROM queue WHERE sequence = ?", sequence).rowcount
        self._count -= removed

    # The local student and the newest model.

    def line(self) -> Line | None:
        with self._errors():
            row = self._row("SELECT base_version, base_digest, rounds, weights, finished_at, residual FROM line")
        if row is None:
            return None
        weights = np.frombuffer(row[3], dtype="<f4").astype(np.float32)
        residual = None if row[5] is None else np.frombuffer(row[5], dtype="<f4").astype(np.float32)
        return Line(int(row[0]), bytes(row[1]), int(row[2]), weights, float(row[4]), residual)

    def save_line(self, line: Line) -> None:
        """The local student without an update: its last round gave none."""
        with self._transaction():
            self._put_line(line)

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

    def _open(self, task: str, device: str, random_bytes: Callable[[int], bytes]) -> None:
        application_id, schema = (self._pragma(name) for name in ("application_id", "user_version"))
        is_empty = (application_id, schema, self._row("SELECT count(*) FROM sqlite_schema")) == (0, 0, (0,))
        if not is_empty and application_id != _APPLICATION_ID:
            raise OutboxForeign(self.path, "it is a database of another program")
        if schema > _SCHEMA:
            raise OutboxForeign(self.path, f"a newer program wrote it (schema {schema}, newest known {_SCHEMA})")
        self._execute("PRAGMA journal_mode = WAL")
        self._execute("PRAGMA synchronous = FULL")
        if is_empty:
            with self._transaction():
                for statement in [*_statements("outbox.sql"), *_statements("outbox_2.sql")]:
                    self._execute(statement)
                self._execute("INSERT INTO identity VALUES (?, ?, ?, 0)", task, device, random_bytes(INCARNATION_BYTES))
                # In the transaction: a kill here leaves an empty file, which is made again.
                self._execute(f"PRAGMA application_id = {_APPLICATION_ID}")
                self._execute(f"PRAGMA user_version = {_SCHEMA}")
            return
        found = self._row("PRAGMA quick_check(1)")
        if found != ("ok",):
            raise OutboxDamaged(self.path, str(found[0]) if found else "no answer")
        owner = self._row("SELECT task, device FROM identity")
        if owner is None:
            raise OutboxDamaged(self.path, "its identity is missing")
        if owner != (task, device):
            raise OutboxForeign(self.path, f"it belongs to device {owner[1]} of task {owner[0]}")
        if schema < _SCHEMA:
            with self._transaction():
                for statement in _statements("outbox_2.sql"):
                    self._execute(statement)
                self._execute(f"PRAGMA user_version = {_SCHEMA}")

    def _put_line(self, line: Line) -> None:
        self._execute(
            "INSERT OR REPLACE INTO line VALUES (1, ?, ?, ?, ?, ?, ?)",
            line.base_version,
            line.base_digest,
            line.rounds,
            line.weights.astype("<f4").tobytes(),
            line.finished_at,
            None if line.residual is None else line.residual.astype("<f4").tobytes(),
        )

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

    def _pragma(self, name: str) -> int:
        row = self._row(f"PRAGMA {name}")
        assert row is not None
        return int(row[0])

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
                raise

    @contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.OperationalError as error:
            raise OutboxUnwritable(self.path, str(error)) from error
        except sqlite3.DatabaseError as error:
            raise OutboxDamaged(self.path, str(error)) from error


def payload_digest(payload: bytes) -> bytes:
    """What a receipt names an update by when the aggregator could not read it."""
    return hashlib.sha256(payload).digest()[:PAYLOAD_DIGEST_BYTES]


def _statements(name: str) -> list[str]:
    """One statement each (so no comment there holds a semicolon): `executescript` would commit before it."""
    return (files("device_client") / name).read_text(encoding="utf-8").split(";")[:-1]


def _key_ids(joined: bytes) -> frozenset[bytes]:
    return frozenset(joined[start : start + KEY_ID_BYTES] for start in range(0, len(joined), KEY_ID_BYTES))
