"""Row types of the ledger, and the statements that write them (see `ledger.sql`)."""

import json
import sqlite3
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, fields

import msgspec

from aggregator.admission import Duplicate, Judged, Merge, Refuse
from wire_contract.layout import Vector
from wire_contract.message_fields import RefusalReason
from wire_contract.messages import Evaluation, Update
from wire_contract.publication.release import Release

MAIN_METRIC = "main_metric"
"""Key in `meta`: the main metric of the newest evaluation, as JSON."""


@dataclass(frozen=True, kw_only=True)
class MergedUpdate:
    """An accepted update, to be written to the journal."""

    update: Update
    payload: bytes
    into_version: int
    staleness: int
    weight: float
    scale: float = 1.0
    """Factor on the decoded difference, applied before the weight."""
    norm: float | None = None
    """‖Δ‖₂ of the decoded difference, before that factor."""
    statistics_scale: float = 1.0
    """Factor on the running statistics' difference from the model's."""
    statistics_norm: float | None = None
    """Their distance from the model's, before that factor; None: the layout has none."""


@dataclass(frozen=True, kw_only=True)
class RefusedUpdate:
    """A refusal that is stored, so that it is counted once."""

    update: Update
    reason: RefusalReason


@dataclass(frozen=True, kw_only=True)
class Batch:
    """The content of one transaction."""

    merged: Sequence[MergedUpdate] = ()
    refused: Sequence[RefusedUpdate] = ()
    unremembered: Sequence[RefusalReason] = ()
    """Refusals that are only counted: of undecodable updates, and of those that may have been merged long ago."""
    duplicates: int = 0
    evaluations: Sequence[Evaluation] = ()

    def __bool__(self) -> bool:
        return bool(self.merged or self.refused or self.unremembered or self.duplicates or self.evaluations)


def batch_of(judged: Sequence[Judged], evaluations: Sequence[Evaluation] = ()) -> Batch:
    """The transaction that records these judgements and evaluations."""
    merged: list[MergedUpdate] = []
    refused: list[RefusedUpdate] = []
    unremembered: list[RefusalReason] = []
    duplicates = 0
    for one in judged:
        match one.verdict:
            case Merge(weight, staleness, norm, scale, statistics_norm, statistics_scale):
                assert one.update is not None
                merged.append(
                    MergedUpdate(
                        update=one.update,
                        payload=one.payload,
                        into_version=one.version + 1,
                        staleness=staleness,
                        weight=weight,
                        scale=scale,
                        norm=norm,
                        statistics_scale=statistics_scale,
                        statistics_norm=statistics_norm,
                    )
                )
            case Duplicate() | Refuse(seen_before=True):
                duplicates += 1
            case Refuse(reason, is_remembered=is_remembered):
                if one.update is None or not is_remembered:
                    unremembered.append(reason)
                else:
                    refused.append(RefusedUpdate(update=one.update, reason=reason))
    return Batch(
        merged=merged, refused=refused, unremembered=unremembered, duplicates=duplicates, evaluations=evaluations
    )


@dataclass(frozen=True, kw_only=True)
class VersionRow:
    """One version of the model line."""

    version: int
    parent: int | None
    digest: bytes
    encoding: str
    chunks: int | None
    """Number of snapshot chunks; 0 if the snapshot is inside the manifest, None if there is no snapshot."""
    committed_at: float
    model: bytes | None = None
    """The model message; kept for the newest version and the newest snapshot only."""
    delta: bytes | None = None
    """The delta message; kept for the newest KEPT_DELTAS versions only."""


def row_of(release: Release) -> VersionRow:
    """The row of the version in `release`."""
    return VersionRow(
        version=release.version,
        parent=release.parent,
        digest=release.published.digest,
        encoding=release.encoding,
        chunks=len(release.chunks) if release.is_snapshot else None,
        committed_at=release.published_at,
        model=release.model,
        delta=release.deltas[0] if release.deltas else None,
    )


@dataclass(frozen=True, kw_only=True)
class Mark:
    """What distinguishes a version of this line from one of another line."""

    version: int
    parent: int | None
    digest: bytes
    committed_at: float


@dataclass(frozen=True, kw_only=True)
class BufferedUpdate:
    """One buffered update, read from the journal."""

    device: str
    base_version: int
    staleness: int
    samples: int
    weight: float
    scale: float
    norm: float | None
    statistics_scale: float
    statistics_norm: float | None
    payload: bytes


_INTO_JOURNAL = """
    INSERT INTO journal (into_version, device, incarnation, sequence, base_version, staleness, samples, weight,
        size_bytes, train_seconds, payload, merged_at, scale, norm, statistics_scale, statistics_norm)
    VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
"""


def _journal_values(merged: MergedUpdate, now: float) -> tuple[object, ...]:
    """Parameters of `_INTO_JOURNAL`; `now` in Unix seconds, here and below."""
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
        merged.statistics_scale,
        merged.statistics_norm,
    )


# An unknown norm (NULL) makes the sum of its slot unknown as well.
_INTO_ACCOUNT = """
    INSERT INTO account VALUES (
        :device, :into_version, NULL, :into_version, 1, 1, :weight, :samples, :staleness, :norm, NULL, NULL,
        :journal_id, :now, :statistics_norm, NULL
    )
    ON CONFLICT DO UPDATE SET
        previous_version = iif(last_version = :into_version, previous_version, last_version),
        previous_samples = iif(last_version = :into_version, previous_samples, samples),
        previous_slot_norm = iif(last_version = :into_version, previous_slot_norm, slot_norm),
        previous_statistics_norm = iif(last_version = :into_version, previous_statistics_norm, statistics_norm),
        statistics_norm = :statistics_norm,
        slot_norm = iif(last_version = :into_version, slot_norm, 0) + :norm,
        versions = versions + (last_version != :into_version),
        last_version = :into_version,
        updates = updates + 1,
        weight = weight + :weight,
        samples = :samples,
        staleness = :staleness,
        last_journal_id = :journal_id,
        last_merged_at = :now
"""


def _account_values(merged: MergedUpdate, journal_id: int | None, now: float) -> dict[str, object]:
    """Parameters of `_INTO_ACCOUNT` for the update in row `journal_id` of the journal."""
    update = merged.update
    return {
        "device": update.device,
        "into_version": merged.into_version,
        "weight": merged.weight,
        "samples": update.samples,
        "staleness": merged.staleness,
        "norm": merged.norm,
        "statistics_norm": merged.statistics_norm,
        "journal_id": journal_id,
        "now": now,
    }


BUFFERED_UPDATES = """
    SELECT device, base_version, staleness, samples, weight, scale, norm, statistics_scale, statistics_norm, payload
    FROM journal WHERE into_version = ? ORDER BY id
"""
NEWEST_CONTRIBUTIONS = """
    SELECT device, iif(last_version <= :until, last_version, previous_version) AS version FROM account
    WHERE version >= :since
"""
NEWEST_CLAIMS = """
    SELECT device, last_version, samples, slot_norm, statistics_norm FROM account WHERE last_version <= :until
    UNION ALL SELECT device, previous_version, previous_samples, previous_slot_norm, previous_statistics_norm
    FROM account WHERE last_version > :until AND previous_samples IS NOT NULL
    ORDER BY 2 DESC, 1 DESC LIMIT :count
"""
"""The figures of each device in the newest version up to `until` that it contributed to, of `count` devices."""

VERSION_FIELDS = tuple(field.name for field in fields(VersionRow))
VERSION_COLUMNS = ", ".join(VERSION_FIELDS)


def insert_batch(db: sqlite3.Connection, batch: Batch, now: float) -> None:
    """Writes `batch` within the caller's transaction."""
    for merged in batch.merged:
        journalled = db.execute(_INTO_JOURNAL, _journal_values(merged, now))
        db.execute(_INTO_ACCOUNT, _account_values(merged, journalled.lastrowid, now))
    answered = [(merged.update, None) for merged in batch.merged] + [
        (refused.update, refused.reason) for refused in batch.refused
    ]
    db.executemany(
        "INSERT INTO device VALUES (?, ?, ?, ?, ?) ON CONFLICT (device, incarnation) DO UPDATE SET"
        " sequence = excluded.sequence, refusal = excluded.refusal, seen_at = excluded.seen_at"
        " WHERE excluded.sequence > sequence",
        [(u.device, u.incarnation, u.sequence, reason, now) for u, reason in answered],
    )
    db.executemany(
        "INSERT INTO counter VALUES (?, ?, ?) ON CONFLICT DO UPDATE SET count = count + excluded.count",
        [(outcome, reason, count) for (outcome, reason), count in _counted(batch).items()],
    )
    db.executemany(
        "INSERT INTO merged_staleness VALUES (?, ?) ON CONFLICT DO UPDATE SET updates = updates + excluded.updates",
        Counter(merged.staleness for merged in batch.merged).items(),
    )
    for evaluation in batch.evaluations:
        _insert_evaluation(db, evaluation)


def _insert_evaluation(db: sqlite3.Connection, evaluation: Evaluation) -> None:
    """Also stores the main metric if no newer version is evaluated: in `meta`, where an older program ignores it."""
    if evaluation.main_value is not None:
        newest = db.execute("SELECT coalesce(max(version), 0) FROM evaluation").fetchone()[0]
        if evaluation.version >= newest:
            declared = msgspec.json.encode(evaluation.main).decode()
            db.execute("INSERT OR REPLACE INTO meta VALUES (?, ?)", (MAIN_METRIC, declared))
    db.execute(
        "INSERT OR REPLACE INTO evaluation VALUES (?, ?, ?, ?)",
        (evaluation.version, evaluation.device, evaluation.samples, json.dumps(evaluation.metrics)),
    )


def insert_version(db: sqlite3.Connection, row: VersionRow, weights: Vector) -> None:
    """Writes a version with its master weights (layout.size,), within the caller's transaction."""
    values = (*(getattr(row, name) for name in VERSION_FIELDS), weights.astype("<f4").tobytes())
    marks = ", ".join("?" * len(values))
    db.execute(f"INSERT INTO version ({VERSION_COLUMNS}, weights) VALUES ({marks})", values)  # noqa: S608


def move_buffered(db: sqlite3.Connection, *, into_version: int, instead_of: int) -> None:
    """Moves the updates buffered for one version to another, within the caller's transaction."""
    moved = (into_version, instead_of)
    db.execute("UPDATE journal SET into_version = ? WHERE into_version = ?", moved)
    db.execute("UPDATE account SET last_version = ? WHERE last_version = ?", moved)
    db.execute("UPDATE account SET first_version = ? WHERE first_version = ?", moved)


def _counted(batch: Batch) -> Counter[tuple[str, str]]:
    """Increments of the counters by outcome and reason."""
    found = Counter(("refused", str(refused.reason)) for refused in batch.refused)
    found.update(("refused", str(reason)) for reason in batch.unremembered)
    found["duplicate", ""] = batch.duplicates
    found["merged", ""] = len(batch.merged)
    found["merged_bytes", ""] = sum(len(merged.payload) for merged in batch.merged)
    return +found
