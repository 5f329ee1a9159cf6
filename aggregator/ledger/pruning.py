"""What a ledger forgets, so that it stays as large as its settings say, however long the line is.

The blobs of older versions go in the transaction of the newest one (`forget_blobs`). Rows go later, in a transaction of
their own and only when many are due (`prune`): a version's commit costs the same after a million versions as after
ten. What has been counted (counters, staleness, the accounts of devices) stays.

The journal is complete from its *horizon* on. An update whose base is the version before the horizon, or a later one,
can only have gone into a version that is still there. So whether it was merged can always be told, and an older one of
an incarnation that is no longer remembered is refused (`ModelLine`): nothing is merged twice.
"""

import sqlite3
from dataclasses import dataclass
from typing import Self

from aggregator.model_line import LineSettings
from aggregator.status import VERSIONS_KEPT as SUMMARY_VERSIONS_KEPT
from wire_contract.limits import KEPT_DELTAS

SNAPSHOTS_KEPT = 2
"""So many newest versions keep their master weights."""

SLACK_VERSIONS = 64
"""Rows are deleted when so many versions are beyond what is kept, all at once rather than some with each version."""

ROWS_PRUNED = 1_024
"""At most so many rows of a table are deleted at a time, or twice those of the newest version, so that a ledger with a
large arrear holds up no version for long."""

VERSION_ROWS_KEPT = 128
"""The newest rows stay whatever their numbers (`move-forward` leaves numbers out): they name the snapshots and deltas
that are still to be deleted from the broker."""


@dataclass(frozen=True, kw_only=True)
class Kept:
    """How far back a ledger goes."""

    journal_versions: int = 10_000
    """Versions whose updates stay in the journal."""
    staleness_max: int = 1_000
    """Versions. What updates may still name as their base has its digest in a version's row."""

    @classmethod
    def of(cls, settings: LineSettings) -> Self:
        """As the operator has it."""
        return cls(journal_versions=settings.journal_versions_kept, staleness_max=settings.policy.staleness_max)

    def horizon(self, newest: int) -> int:
        """The oldest version whose updates are kept when `newest` is the newest one."""
        return newest - max(self.journal_versions, SNAPSHOTS_KEPT) + 1

    def oldest_version(self, newest: int) -> int:
        """The oldest version that keeps its row: no row goes before its journal does."""
        return newest - max(self.journal_versions, self.staleness_max + 1, SUMMARY_VERSIONS_KEPT) + 1


def forget_blobs(db: sqlite3.Connection, newest: int) -> None:
    """Empties the weights and messages of versions that no broker and no restart needs again."""
    # By name, because SQLite would rather walk through all versions than use a partial index.
    db.execute(
        "UPDATE version INDEXED BY version_with_weights SET weights = NULL WHERE weights IS NOT NULL AND version <= ?",
        (newest - SNAPSHOTS_KEPT,),
    )
    db.execute(
        "UPDATE version INDEXED BY version_with_model SET model = NULL WHERE model IS NOT NULL AND version < ?"
        " AND version != (SELECT version FROM version WHERE chunks IS NOT NULL ORDER BY version DESC LIMIT 1)",
        (newest,),
    )
    db.execute(
        "UPDATE version INDEXED BY version_with_delta SET delta = NULL WHERE delta IS NOT NULL AND version <= ?",
        (newest - KEPT_DELTAS,),
    )


def read_horizon(db: sqlite3.Connection) -> int:
    """The version from which on the journal is complete."""
    row = db.execute("SELECT value FROM meta WHERE key = 'journal_horizon'").fetchone()
    return 0 if row is None else int(row[0])


def is_due(db: sqlite3.Connection, newest: int, kept: Kept) -> bool:
    """Whether enough is beyond what is kept; looks at a few rows."""
    oldest = db.execute("SELECT min(into_version) FROM journal").fetchone()[0]
    if oldest is not None and oldest < kept.horizon(newest) - SLACK_VERSIONS:
        return True
    first = db.execute("SELECT min(version) FROM version").fetchone()[0]
    oldest, newest_evaluated = db.execute(
        "SELECT (SELECT min(version) FROM evaluation), (SELECT max(version) FROM evaluation)"
    ).fetchone()
    if oldest is not None and oldest < min(first, newest_evaluated):
        return True
    many = VERSION_ROWS_KEPT + SLACK_VERSIONS
    return first < kept.oldest_version(newest) - SLACK_VERSIONS and _newest_but(db, many) is not None


def prune(db: sqlite3.Connection, newest: int, kept: Kept) -> None:
    """Deletes a bounded number of rows beyond what is kept, the oldest first, in the transaction of the caller."""
    of_newest = db.execute("SELECT count(*) FROM journal WHERE into_version = ?", (newest,)).fetchone()[0]
    count = max(ROWS_PRUNED, 2 * SLACK_VERSIONS, 2 * of_newest)
    horizon = max(kept.horizon(newest), read_horizon(db))
    db.execute("INSERT OR REPLACE INTO meta VALUES ('journal_horizon', ?)", (horizon,))
    db.execute(
        # The newest row stays in any case, so that no number is given twice.
        "DELETE FROM journal WHERE id != (SELECT max(id) FROM journal) AND id IN"
        " (SELECT id FROM journal WHERE into_version < ? ORDER BY into_version LIMIT ?)",
        (horizon, count),
    )
    _prune_versions(db, kept.oldest_version(newest), count)


def _prune_versions(db: sqlite3.Connection, oldest: int, count: int) -> None:
    kept_in_any_case = _newest_but(db, VERSION_ROWS_KEPT - 1)
    if kept_in_any_case is None:
        return
    oldest = min(oldest, kept_in_any_case)
    db.execute(
        "DELETE FROM version WHERE version IN (SELECT version FROM version WHERE version < ? ORDER BY version LIMIT ?)",
        (oldest, count),
    )
    first = db.execute("SELECT min(version) FROM version").fetchone()[0]
    db.execute(
        # Of the newest evaluated version `status` tells, however long ago that was.
        "DELETE FROM evaluation WHERE (version, device) IN (SELECT version, device FROM evaluation"
        " WHERE version < ? AND version < (SELECT max(version) FROM evaluation) ORDER BY version LIMIT ?)",
        (first, count),
    )


def _newest_but(db: sqlite3.Connection, rows: int) -> int | None:
    """The version with so many newer ones; None: there are fewer."""
    row = db.execute("SELECT version FROM version ORDER BY version DESC LIMIT 1 OFFSET ?", (rows,)).fetchone()
    return None if row is None else int(row[0])
