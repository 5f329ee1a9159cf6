"""What the ledger is given and gives back, row by row, and how each row stands in its table (ledger.sql)."""

import sqlite3
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, fields

from wire_contract.layout import Vector
from wire_contract.messages import Evaluation, RefusalReason, Update

DeviceKey = tuple[str, bytes]
"""Device and incarnation."""


@dataclass(frozen=True, kw_only=True)
class MergedUpdate:
    """One accepted update on its way into the journal."""

    update: Update
    payload: bytes
    into_version: int
    staleness: int
    weight: float
    scale: float = 1.0
    """Factor on the decoded difference, before it is weighted."""
    norm: float | None = None
    """‖Δ‖₂ of the decoded difference, before that factor."""


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
    unremembered: Sequence[RefusalReason] = ()
    """Refusals that are only counted: of what could not be read, and of what may have been merged long ago."""
    duplicates: int = 0
    evaluations: Sequence[Evaluation] = ()

    def __bool__(self) -> bool:
        return bool(self.merged or self.refused or self.unremembered or self.duplicates or self.evaluations)


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
class Mark:
    """What tells a version of this line from one of another."""

    version: int
    parent: int | None
    digest: bytes
    committed_at: float


@dataclass(frozen=True, kw_only=True)
class JournalRow:
    """One merged update as the journal has it."""

    device: str
    samples: int
    weight: float
    scale: float
    norm: float | None
    payload: bytes


@dataclass(frozen=True, kw_only=True)
class Account:
    """One device's part in the line since the ledger began. Versions are those whose buffer took an update of it."""

    device: str
    first_version: int
    last_version: int
    """The newest one; it may still be in the making."""
    versions: int
    """In so many it had a part."""
    updates: int
    samples: int
    """As its newest update claimed."""
    slot_norm: float | None
    """Σ norm over its updates in `last_version`; None: not known, from before format 3."""
    last_merged_at: float
    """Unix seconds."""


INTO_JOURNAL = """
    INSERT INTO journal (into_version, device, incarnation, sequence, base_version, staleness, samples, weight,
        size_bytes, train_seconds, payload, merged_at, scale, norm)
    VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
"""


def journal_values(merged: MergedUpdate, now: float) -> tuple[object, ...]:
    """Parameters of `INTO_JOURNAL`; `now` is in Unix seconds, here and below."""
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
        merged.scale,
        merged.norm,
    )


# A norm that is not known (NULL) makes the sum of its slot unknown, too.
INTO_ACCOUNT = """
    INSERT INTO account VALUES (?1, ?2, NULL, ?2, 1, 1, ?3, ?4, ?5, ?6, NULL, NULL, ?7, ?8)
    ON CONFLICT DO UPDATE SET
        previous_version = iif(last_version = ?2, previous_version, last_version),
        previous_samples = iif(last_version = ?2, previous_samples, samples),
        previous_slot_norm = iif(last_version = ?2, previous_slot_norm, slot_norm),
        slot_norm = iif(last_version = ?2, slot_norm, 0) + ?6,
        versions = versions + (last_version != ?2),
        last_version = ?2,
        updates = updates + 1,
        weight = weight + ?3,
        samples = ?4,
        staleness = ?5,
        last_journal_id = ?7,
        last_merged_at = ?8
"""


def account_values(merged: MergedUpdate, journal_id: int | None, now: float) -> tuple[object, ...]:
    """Parameters of `INTO_ACCOUNT`, of the update that has row `journal_id`."""
    update = merged.update
    return (
        update.device,
        merged.into_version,
        merged.weight,
        update.samples,
        merged.staleness,
        merged.norm,
        journal_id,
        now,
    )


ACCOUNT_FIELDS = tuple(field.name for field in fields(Account))

VERSION_FIELDS = tuple(field.name for field in fields(VersionRow))
VERSION_COLUMNS = ", ".join(VERSION_FIELDS)


def insert_version(db: sqlite3.Connection, row: VersionRow, weights: Vector) -> None:
    """Writes a version with its master weights (layout.size,)."""
    values = (*(getattr(row, name) for name in VERSION_FIELDS), weights.astype("<f4").tobytes())
    marks = ", ".join("?" * len(values))
    db.execute(f"INSERT INTO version ({VERSION_COLUMNS}, weights) VALUES ({marks})", values)  # noqa: S608


def counted(batch: Batch) -> Counter[tuple[str, str]]:
    """What a batch adds to the totals, by outcome and reason."""
    found = Counter(("refused", str(refused.reason)) for refused in batch.refused)
    found.update(("refused", str(reason)) for reason in batch.unremembered)
    found["duplicate", ""] = batch.duplicates
    found["merged", ""] = len(batch.merged)
    found["merged_bytes", ""] = sum(len(merged.payload) for merged in batch.merged)
    return +found
