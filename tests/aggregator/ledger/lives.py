"""Ledgers with many versions, and what is asked of them."""

from dataclasses import replace

from aggregator.ledger.ledger import Ledger
from aggregator.ledger.pruning import Kept
from aggregator.merging.fedbuff import FEDBUFF
from aggregator.merging.rule import Step
from benchmarks.long_ledgers import batch
from tests.aggregator.synthetic import T0

SHORT = Kept(journal_versions=3, staleness_max=5)


def rows(ledger: Ledger, table: str) -> int:
    return int(ledger._db.execute(f"SELECT count(*) FROM {table}").fetchone()[0])


def next_version(ledger: Ledger, *, updates: int = 20, payload_bytes: int = 0) -> None:
    """The same weights under the next number, and the updates that it was made of."""
    row, weights = ledger.newest()
    number = row.version + 1
    ledger.commit_batch(batch(into_version=number, updates=updates, payload_bytes=payload_bytes), now=T0)
    ledger.commit_version(replace(row, version=number, chunks=0), Step(weights), rule=FEDBUFF.name)


def prune_all(ledger: Ledger, kept: Kept = SHORT) -> int:
    """As often as there is something to do; so many times."""
    for pieces in range(100):
        before = ledger._db.total_changes
        ledger.prune(kept)
        if ledger._db.total_changes == before:
            return pieces
    raise AssertionError("it never ends")
