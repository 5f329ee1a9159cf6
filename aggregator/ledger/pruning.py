"""Pruning: keeps the size of a ledger within its settings, however many versions there were.

Blobs of older versions are deleted in the transaction of the newest one (`forget_blobs`). Rows are deleted later, in a
transaction of their own and only when many have expired (`prune`), so committing a version costs the same after a
million versions as after ten. Totals (counters, staleness histogram, accounts of devices) are never deleted, and the
state of the merging rule belongs to the rule (`rule_state.py`).

The journal is complete from its *horizon* on. An update based on version horizon - 1 or later can only have been merged
into a version that the journal still has, so it is always known whether it was. An update with an older base from an
incarnation that is no longer stored is refused (`admission.beyond_memory`). So nothing is merged twice.
"""

import sqlite3
from dataclasses import dataclass
from typing import Self

from aggregator.model_line import LineSettings
from aggregator.status import VERSIONS_KEPT as SUMMARY_VERSIONS_KEPT
from wire_contract.limits import KEPT_DELTAS

SNAPSHOTS_KEPT = 2
"""Newest versions that keep their master weights. A restart needs those of the newest. The one before is a spare; each
costs the size of a model."""

SLACK_VERSIONS = 64
"""Versions that must have expired before rows are deleted: rarely many at once, rather than a few with each version. 64
is chosen, not measured."""

ROWS_PRUNED = 1_024
"""Rows of a table that are deleted at a time, or twice as many as the newest version has updates if that is more:
enough to catch up, and little enough that a large backlog delays no version for long."""

VERSION_ROWS_KEPT = 128
"""Newest version rows that stay whatever their numbers (`move-forward` skips numbers): they name the snapshots and
deltas that still have to be deleted from the broker."""


@dataclass(frozen=True, kw_only=True)
class Kept:
    """How much history a ledger keeps."""

    journal_versions: int = 10_000
    """Versions whose updates the journal keeps."""
    staleness_max: int = 1_000
    """In versions: rows of all versions that an update may still name as its base are needed for their digests."""

    @classmethod
    def of(cls, settings: LineSettings) -> Self:
        """As the operator set it."""
        return cls(journal_versions=settings.journal_versions_kept, staleness_max=settings.policy.staleness_max)

    def horizon(self, newest: int) -> int:
        """Oldest version whose updates are kept, if `newest` is the newest version."""
        return newest - max(self.journal_versions, SNAPSHOTS_KEPT) + 1

    def oldest_version(self, newest: int) -> int:
        """Oldest version whose row is kept; a version's row is never deleted before its journal."""
        return newest - max(self.journal_versions, self.staleness_max + 1, SUMMARY_VERSIONS_KEPT) + 1


def forget_blobs(db: sqlite3.Connection, newest: int) -> None:
    """Deletes weights and messages of versions that neither a broker nor a restart can need again."""
    # The index is named because SQLite would otherwise scan all versions instead of using a partial index.
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
    """First version from which on the journal is complete."""
    row = db.execute("SELECT value FROM meta WHERE key = 'journal_horizon'").fetchone()
    return 0 if row is None else int(row[0])


def is_due(db: sqlite3.Connection, newest: int, kept: Kept) -> bool:
    """Whether enough rows have expired; reads only a few rows."""
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
    """Deletes a bounded number of expired rows, oldest first, within the caller's transaction."""
    of_newest = db.execute("SELECT count(*) FROM journal WHERE into_version = ?", (newest,)).fetchone()[0]
    count = max(ROWS_PRUNED, 2 * SLACK_VERSIONS, 2 * of_newest)
    horizon = max(kept.horizon(newest), read_horizon(db))
    db.execute("INSERT OR REPLACE INTO meta VALUES ('journal_horizon', ?)", (horizon,))
    db.execute(
        # The newest row always stays, so that no id is assigned twice.
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
        # `status` shows the newest evaluated version, however old it is, so its evaluations stay.
        "DELETE FROM evaluation WHERE (version, device) IN (SELECT version, device FROM evaluation"
        " WHERE version < ? AND version < (SELECT max(version) FROM evaluation) ORDER BY version LIMIT ?)",
        (first, count),
    )


def _newest_but(db: sqlite3.Connection, rows: int) -> int | None:
    """The version that has this many newer ones; None if there are fewer."""
    row = db.execute("SELECT version FROM version ORDER BY version DESC LIMIT 1 OFFSET ?", (rows,)).fetchone()
    return None if row is None else int(row[0])
