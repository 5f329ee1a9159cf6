"""Reads a ledger without disturbing the aggregator that writes it: totals, versions, and who contributed what."""

import json
import sqlite3
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path

from aggregator.ledger import LedgerError


@dataclass(frozen=True, kw_only=True)
class Totals:
    """Since the ledger began."""

    task: str
    version: int
    devices: int
    merged: int
    duplicates: int
    refused: int
    refused_by_reason: Mapping[str, int]
    bytes_in: int
    """Payload bytes of the merged updates."""
    updated_at: float
    """Unix seconds of the newest version or merge."""
    waiting: int
    """Merged updates that no version holds yet."""
    evaluation: Mapping[str, float]
    """Metrics of the newest evaluated version, mean over evaluators; empty when there is none."""
    evaluated_version: int | None


@dataclass(frozen=True, kw_only=True)
class Contribution:
    """One merged update."""

    device: str
    sequence: int
    base_version: int
    into_version: int
    staleness: int
    samples: int
    weight: float
    size_bytes: int
    merged_at: float


@dataclass(frozen=True, kw_only=True)
class VersionMoment:
    """When a version was committed."""

    version: int
    committed_at: float


def read_totals(path: Path) -> Totals:
    """What `status` shows.

    Raises:
        LedgerError: there is no ledger, or it is damaged.
    """
    with _reading(path) as db:
        version, committed_at = db.execute(
            "SELECT coalesce(max(version), 0), coalesce(max(committed_at), 0) FROM version"
        ).fetchone()
        merged, size, merged_at, waiting = db.execute(
            "SELECT count(*), coalesce(sum(size_bytes), 0), coalesce(max(merged_at), 0),"
            " coalesce(sum(into_version > ?), 0) FROM journal",
            (version,),
        ).fetchone()
        reasons = dict(db.execute("SELECT reason, count FROM counter WHERE outcome = 'refused'"))
        duplicates = db.execute("SELECT coalesce(sum(count), 0) FROM counter WHERE outcome = 'duplicate'").fetchone()[0]
        evaluated, metrics = _newest_evaluation(db)
        return Totals(
            task=db.execute("SELECT value FROM meta WHERE key = 'task'").fetchone()[0],
            version=version,
            devices=db.execute("SELECT count(DISTINCT device) FROM device").fetchone()[0],
            merged=merged,
            duplicates=duplicates,
            refused=sum(reasons.values()),
            refused_by_reason=reasons,
            bytes_in=size,
            updated_at=max(committed_at, merged_at),
            waiting=waiting,
            evaluation=metrics,
            evaluated_version=evaluated,
        )


def read_contributions(path: Path) -> list[Contribution]:
    """Every merged update, in the order of merging.

    Raises:
        LedgerError: there is no ledger, or it is damaged.
    """
    with _reading(path) as db:
        rows = db.execute(
            "SELECT device, sequence, base_version, into_version, staleness, samples, weight, size_bytes, merged_at"
            " FROM journal ORDER BY id"
        )
        names = [column[0] for column in rows.description]
        return [Contribution(**dict(zip(names, row, strict=True))) for row in rows]


def read_versions(path: Path) -> list[VersionMoment]:
    """Every version, oldest first.

    Raises:
        LedgerError: there is no ledger, or it is damaged.
    """
    with _reading(path) as db:
        rows = db.execute("SELECT version, committed_at FROM version ORDER BY version")
        return [VersionMoment(version=version, committed_at=at) for version, at in rows]


def _newest_evaluation(db: sqlite3.Connection) -> tuple[int | None, dict[str, float]]:
    version = db.execute("SELECT max(version) FROM evaluation").fetchone()[0]
    if version is None:
        return None, {}
    told = [json.loads(row[0]) for row in db.execute("SELECT metrics FROM evaluation WHERE version = ?", (version,))]
    names = {name for metrics in told for name in metrics}
    means = {}
    for name in sorted(names):
        values = [metrics[name] for metrics in told if name in metrics]
        means[name] = sum(values) / len(values)
    return version, means


@contextmanager
def _reading(path: Path) -> Iterator[sqlite3.Connection]:
    if not path.is_file():
        raise LedgerError(f"ledger {path}: there is no such file")
    try:
        with closing(sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True)) as db:
            if not db.execute("SELECT count(*) FROM meta WHERE key = 'task'").fetchone()[0]:
                raise LedgerError(f"ledger {path} cannot be read: it names no task")
            yield db
    except sqlite3.DatabaseError as error:
        raise LedgerError(f"ledger {path} cannot be read: {error}") from error
