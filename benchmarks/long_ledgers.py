"""Writes ledgers as they are after a long time, in bulk: for measurements, and for tests of what must not grow."""

import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from aggregator.ledger.ledger import Ledger
from aggregator.ledger.records import Batch, MergedUpdate, row_of
from aggregator.merging.fedbuff import FEDBUFF
from aggregator.merging.rule import Step
from aggregator.model_line import LineSettings, opening_release
from wire_contract.codec import encode
from wire_contract.encoding import encode_vector
from wire_contract.layout import Layout, TensorSpec
from wire_contract.messages import Update
from wire_contract.publication.release import first_release

TASK = "long-life"
LAYOUT = Layout((TensorSpec("weight", (32, 16)),))
"""Small on purpose: the ledger's rows are measured, not its weights."""
SETTINGS = LineSettings(task=TASK, model_encoding="float32")
T0 = 1_700_000_000.0
"""Any fixed time, so that files are reproducible."""
SECONDS_A_VERSION = 10.0
"""Any fixed pace: only the order of the times matters to a ledger."""

_JOURNAL = """
    WITH RECURSIVE number (n) AS (SELECT 0 UNION ALL SELECT n + 1 FROM number WHERE n + 1 < :updates)
    INSERT INTO journal (into_version, device, incarnation, sequence, base_version, staleness, samples, weight,
        size_bytes, train_seconds, payload, merged_at, scale, norm)
    SELECT 1 + n / :a_version, printf('device-%07d', n % :devices), x'0101010101010101', 1 + n / :devices,
        max(0, n / :a_version - n % 7), n % 7, 100, 1.0, :size, 1.0, zeroblob(:size), :t0 + :seconds * (n / :a_version),
        1.0, 1.5
    FROM number
"""
_VERSIONS = """
    WITH RECURSIVE number (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM number WHERE n + 1 < :versions)
    INSERT INTO version (version, parent, digest, encoding, chunks, committed_at)
    SELECT n, n - 1, randomblob(32), 'float32', 0, :t0 + :seconds * n FROM number
"""
_ACCOUNTS = """
    INSERT INTO account (device, first_version, last_version, versions, updates, weight, samples, staleness, slot_norm,
        last_journal_id, last_merged_at)
    SELECT device, min(into_version), max(into_version), count(DISTINCT into_version), count(*), sum(weight), 100, 0,
        1.5, max(id), max(merged_at)
    FROM journal GROUP BY device
"""
_REST = (
    """INSERT INTO device SELECT device, x'0101010101010101', max(sequence), NULL, max(merged_at)
        FROM journal GROUP BY device""",
    "INSERT INTO counter SELECT 'merged', '', count(*) FROM journal",
    "INSERT INTO counter SELECT 'merged_bytes', '', sum(size_bytes) FROM journal",
    "INSERT INTO merged_staleness SELECT staleness, count(*) FROM journal GROUP BY staleness",
    "INSERT INTO evaluation SELECT version, 'evaluator', 100, '{\"accuracy\": 0.9}' FROM version",
)


@dataclass(frozen=True, kw_only=True)
class LedgerSize:
    """The size of a ledger's history."""

    versions: int
    updates_per_version: int = 20
    devices: int = 1_000
    payload_bytes: int = 0
    """Payload of each update in the journal."""


def write(path: Path, life: LedgerSize) -> None:
    """Writes a ledger with all versions and updates, without pruning, and closes it.

    Payloads are zeros and digests random; only the newest version is real.
    """
    weights = np.random.default_rng(0).standard_normal(LAYOUT.size).astype(np.float32)
    release = opening_release(SETTINGS, LAYOUT, weights, published_at=T0)
    with Ledger(path, task=TASK) as ledger:
        ledger.begin_line(row_of(release), LAYOUT, weights)
    values = {
        "versions": life.versions,
        "updates": life.versions * life.updates_per_version,
        "a_version": life.updates_per_version,
        "devices": life.devices,
        "size": life.payload_bytes,
        "t0": T0,
        "seconds": SECONDS_A_VERSION,
    }
    with closing(sqlite3.connect(path, isolation_level=None)) as db:
        db.execute("PRAGMA synchronous = OFF")
        db.execute("PRAGMA cache_size = -200000")
        db.execute("BEGIN")
        for statement in (_JOURNAL, _VERSIONS, _ACCOUNTS, *_REST):
            db.execute(statement, values)
        db.execute("COMMIT")
    with Ledger(path, task=TASK) as ledger:
        newest = first_release(
            weights,
            task=TASK,
            layout=LAYOUT,
            encoding="float32",
            published_at=T0 + SECONDS_A_VERSION * life.versions,
            version=life.versions,
            parent=life.versions - 1,
        )
        ledger.commit_version(row_of(newest), Step(weights), rule=FEDBUFF.name)


def batch(*, into_version: int, updates: int, payload_bytes: int = 0, prefix: str = "device") -> Batch:
    """A batch for one version: one update per device, each from a new incarnation."""
    tensors = encode_vector(np.ones(LAYOUT.size, dtype=np.float32), LAYOUT, "int8")
    merged = []
    for number in range(updates):
        update = Update(
            task=TASK,
            device=f"{prefix}-{number:07d}",
            incarnation=into_version.to_bytes(8, "big"),
            sequence=1,
            base_version=into_version - 1,
            base_digest=bytes(32),
            layout_fingerprint=LAYOUT.fingerprint,
            samples=100,
            local_steps=1,
            train_seconds=1.0,
            tensors=tensors,
        )
        payload = encode(update)
        merged.append(
            MergedUpdate(
                update=update,
                payload=payload + bytes(max(0, payload_bytes - len(payload))),
                into_version=into_version,
                staleness=0,
                weight=1.0,
                norm=1.0,
            )
        )
    return Batch(merged=merged)


class Steps:
    """Counts instructions of SQLite's virtual machine."""

    def __init__(self) -> None:
        self.count = 0

    def __call__(self) -> int:
        self.count += 1
        return 0


@contextmanager
def counted_steps(db: sqlite3.Connection) -> Iterator[Steps]:
    """Counts the instructions executed on this connection."""
    steps = Steps()
    db.set_progress_handler(steps, 1)
    try:
        yield steps
    finally:
        db.set_progress_handler(None, 1)
