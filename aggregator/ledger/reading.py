"""Reads a ledger without disturbing the aggregator that writes it: totals, versions, journal, history."""

import json
import os
import sqlite3
from collections.abc import Container, Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass
from itertools import takewhile
from pathlib import Path

import msgspec
import numpy as np

from aggregator.ledger.file_format import FORMAT, OLDEST_FORMAT, LedgerError, check_format
from aggregator.ledger.line_facts import read_description
from aggregator.ledger.records import MAIN_METRIC
from aggregator.status import RATE_SECONDS, VERSIONS_KEPT, StatusHistory
from wire_contract.layout import Vector
from wire_contract.limits import SUMMARY_EVALUATIONS_MAX
from wire_contract.main_metric import ACCURACY, MainMetric
from wire_contract.summary import MeasuredVersion, SeenDevice

READABLE = range(OLDEST_FORMAT, FORMAT + 1)
"""Formats that this release reads or can migrate."""

_RATE_UPDATES_MAX = 100_000
"""Newest updates that are read to compute the rate; one aggregator does not merge more per minute."""


@dataclass(frozen=True, kw_only=True)
class Totals:
    """Totals since the ledger was created."""

    task: str
    begun: bool
    """Whether there is a version; a ledger whose first start failed has none."""
    version: int
    devices: int
    merged: int
    duplicates: int
    refused: int
    refused_by_reason: Mapping[str, int]
    bytes_in: int
    """Payload bytes of the merged updates."""
    updated_at: float
    """Unix seconds of the newest version or merge; 0 before the first."""
    waiting: int
    """Merged updates that wait for the next version."""
    waiting_devices: int
    """Number of devices with such updates."""
    devices_min: int | None
    """--devices-min at the last start; None if that release did not store it."""
    closed_at: float | None
    """Unix seconds at which the line was closed; None: it is open."""
    evaluation: Mapping[str, float]
    """Metrics of the newest evaluated version, averaged over evaluators; empty if there is none."""
    evaluated_version: int | None
    main_metric: str
    """Name of the main metric, as the newest evaluation declares it."""
    higher_is_better: bool
    """Direction of the main metric."""
    label_count: int | None
    """Number of the line's labels; None: the line began without a description."""
    labels: tuple[str, ...]
    """Their names; empty if they are too long together."""


@dataclass(frozen=True, kw_only=True)
class JournalEntry:
    """One merged update in the journal."""

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
    """Commit time of a version."""

    version: int
    committed_at: float


def read_task(path: Path) -> str:
    """The task of a ledger of any format in `READABLE`.

    Raises:
        LedgerError: there is no ledger, it is damaged, or has a newer format.
    """
    with reading(path, formats=READABLE) as db:
        task: str = db.execute("SELECT value FROM meta WHERE key = 'task'").fetchone()[0]
        return task


def read_totals(path: Path) -> Totals:
    """The totals that `status` shows.

    Raises:
        LedgerError: there is no ledger, or it is damaged.
    """
    with reading(path) as db:
        newest = db.execute("SELECT version, committed_at FROM version ORDER BY version DESC LIMIT 1").fetchone()
        version, committed_at = newest or (0, 0.0)
        waiting, waiting_devices = db.execute(
            "SELECT count(*), count(DISTINCT device) FROM journal WHERE into_version > ?", (version,)
        ).fetchone()
        noted = db.execute("SELECT value FROM meta WHERE key = 'devices_min'").fetchone()
        closed = db.execute("SELECT value FROM meta WHERE key = 'closed_at'").fetchone()
        merged_at = db.execute(
            "SELECT coalesce((SELECT merged_at FROM journal ORDER BY id DESC LIMIT 1), 0)"
        ).fetchone()[0]
        reasons = dict(db.execute("SELECT reason, count FROM counter WHERE outcome = 'refused'"))
        counts = dict(db.execute("SELECT outcome, sum(count) FROM counter GROUP BY outcome"))
        evaluated, metrics = _newest_evaluation(db)
        main = _main_metric(db)
        line = read_description(db, path)
        return Totals(
            task=db.execute("SELECT value FROM meta WHERE key = 'task'").fetchone()[0],
            begun=newest is not None,
            version=version,
            devices=db.execute("SELECT count(DISTINCT device) FROM device").fetchone()[0],
            merged=counts.get("merged", 0),
            duplicates=counts.get("duplicate", 0),
            refused=counts.get("refused", 0),
            refused_by_reason=reasons,
            bytes_in=counts.get("merged_bytes", 0),
            updated_at=merged_at if waiting else committed_at,  # by order: clocks may have jumped
            waiting=waiting,
            waiting_devices=waiting_devices,
            devices_min=None if noted is None else int(noted[0]),
            closed_at=None if closed is None else float(closed[0]),
            evaluation=metrics,
            evaluated_version=evaluated,
            main_metric=main.name,
            higher_is_better=main.higher_is_better,
            label_count=None if line is None else line.label_count,
            labels=() if line is None else line.labels,
        )


def read_journal(path: Path) -> list[JournalEntry]:
    """All merged updates that the journal still has, in the order of merging.

    Raises:
        LedgerError: there is no ledger, or it is damaged.
    """
    with reading(path) as db:
        rows = db.execute(
            "SELECT device, sequence, base_version, into_version, staleness, samples, weight, size_bytes, merged_at"
            " FROM journal ORDER BY id"
        )
        names = [column[0] for column in rows.description]
        return [JournalEntry(**dict(zip(names, row, strict=True))) for row in rows]


def read_shares(path: Path) -> list[tuple[str, float, float]]:
    """Every device that was ever answered: name, sum of merged weights, Unix seconds of its newest merge.

    Raises:
        LedgerError: there is no ledger, or it is damaged.
    """
    with reading(path) as db:
        return db.execute(
            "SELECT device, coalesce(weight, 0.0), coalesce(last_merged_at, 0.0)"
            " FROM (SELECT DISTINCT device FROM device) LEFT JOIN account USING (device)"
        ).fetchall()


def read_versions(path: Path) -> list[VersionMoment]:
    """All versions that the ledger still has, oldest first.

    Raises:
        LedgerError: there is no ledger, or it is damaged.
    """
    with reading(path) as db:
        rows = db.execute("SELECT version, committed_at FROM version ORDER BY version")
        return [VersionMoment(version=version, committed_at=at) for version, at in rows]


def read_newest_weights(path: Path) -> Vector:
    """The master weights (layout.size,) of the newest version.

    Raises:
        LedgerError: there is no ledger or version, or it is damaged.
    """
    with reading(path) as db:
        newest = db.execute("SELECT weights FROM version ORDER BY version DESC LIMIT 1").fetchone()
        if newest is None:
            raise LedgerError(f"{path} has no version yet")
        return np.frombuffer(newest[0], dtype="<f4")


def read_history(path: Path, *, now: float) -> StatusHistory:
    """Earlier activity for the status of an aggregator that starts at `now`, Unix seconds.

    Raises:
        LedgerError: there is no ledger, or it is damaged.
    """
    with reading(path) as db:
        versions = db.execute(
            "SELECT version, committed_at FROM version ORDER BY version DESC LIMIT ?", (VERSIONS_KEPT,)
        )
        newest_first = db.execute("SELECT merged_at FROM journal ORDER BY id DESC LIMIT ?", (_RATE_UPDATES_MAX,))
        recent = [at for (at,) in takewhile(lambda row: row[0] > now - RATE_SECONDS, newest_first)]
        main = _main_metric(db)
        return StatusHistory(
            committed_at=dict(versions.fetchall()),
            main=main,
            evaluations=_newest_measured(db, main),
            staleness=dict(db.execute("SELECT staleness, updates FROM merged_staleness").fetchall()),
            devices=_seen_devices(db),
            merged_at=recent[::-1],
            bytes_up=db.execute(
                "SELECT coalesce(sum(count), 0) FROM counter WHERE outcome = 'merged_bytes'"
            ).fetchone()[0],
        )


def _newest_measured(db: sqlite3.Connection, main: MainMetric) -> list[MeasuredVersion]:
    rows = db.execute(
        "SELECT version, device, metrics, committed_at FROM evaluation JOIN version USING (version)"
        " ORDER BY version DESC, device DESC LIMIT ?",
        (SUMMARY_EVALUATIONS_MAX,),
    )
    told = [(version, device, main.value_in(json.loads(metrics)), at) for version, device, metrics, at in rows]
    return [MeasuredVersion(version, device, value, at) for version, device, value, at in told if value is not None]


def _main_metric(db: sqlite3.Connection) -> MainMetric:
    noted = db.execute("SELECT value FROM meta WHERE key = ?", (MAIN_METRIC,)).fetchone()
    try:
        return ACCURACY if noted is None else msgspec.json.decode(noted[0], type=MainMetric)
    except msgspec.MsgspecError as error:
        raise LedgerError(f"a ledger is damaged: its main metric: {error}") from None


def _seen_devices(db: sqlite3.Connection) -> list[SeenDevice]:
    """All devices in the order of their last answers, newest last."""
    accounts = db.execute("SELECT device, updates, staleness FROM account")
    merged = {device: (count, staleness) for device, count, staleness in accounts}
    # With a single max(), SQLite takes the other columns from the row with the maximum.
    answered = db.execute("SELECT device, refusal, max(seen_at) AS at FROM device GROUP BY device ORDER BY at")
    seen = []
    for device, refusal, at in answered:
        count, staleness = merged.get(device, (0, 0))
        seen.append(SeenDevice(device, "merged" if refusal is None else "refused", staleness, at, count))
    return seen


def _newest_evaluation(db: sqlite3.Connection) -> tuple[int | None, dict[str, float]]:
    version = db.execute("SELECT max(version) FROM evaluation").fetchone()[0]
    if version is None:
        return None, {}
    told = [json.loads(row[0]) for row in db.execute("SELECT metrics FROM evaluation WHERE version = ?", (version,))]
    names = {name for metrics in told for name in metrics}
    means = {}
    for name in sorted(names):
        values = [metrics[name] for metrics in told if name in metrics]
        means[name] = sum(value / len(values) for value in values)  # the sum of large values could overflow
    return version, means


@contextmanager
def reading(path: Path, *, formats: Container[int] = (FORMAT,)) -> Iterator[sqlite3.Connection]:
    """A read-only connection.

    Raises:
        LedgerError: there is no ledger, it is damaged, or its format is not one of `formats`.
    """
    path = path.resolve()  # SQLite's other files lie beside the file itself, not beside a link to it
    if path.is_dir():
        raise LedgerError(f"ledger {path} is a folder; give the name of a file")
    if not path.is_file():
        raise LedgerError(f"ledger {path}: there is no such file")
    # Checked without opening the file: closing it would drop the locks that SQLite holds on it in this process.
    if not os.access(path, os.R_OK, effective_ids=os.access in os.supports_effective_ids):
        raise LedgerError(f"ledger {path}: this user may not read it; run this as the aggregator's user")
    try:
        with closing(_open(path)) as db:
            found = check_format(db, path)
            if found not in formats:
                raise LedgerError(
                    f"ledger {path} has format {found}, from an earlier version of this program; start the aggregator "
                    f"on it once, which brings it to format {FORMAT}"
                )
            if not db.execute("SELECT count(*) FROM meta WHERE key = 'task'").fetchone()[0]:
                raise LedgerError(f"ledger {path} cannot be read: it names no task")
            yield db
    except sqlite3.DatabaseError as error:
        raise LedgerError(f"ledger {path} cannot be read: {error}") from error


def _open(path: Path) -> sqlite3.Connection:
    """A read-only connection that also works without write access to the folder, and on a read-only mount.

    SQLite reads a file in WAL mode only together with its -wal and -shm files, and creates them if they are missing. A
    clean stop removes them; the main file is then complete and can be opened as immutable.
    """
    address = path.absolute().as_uri()
    db = sqlite3.connect(f"{address}?mode=ro", uri=True)
    try:
        db.execute("PRAGMA schema_version").fetchone()
    except sqlite3.OperationalError:
        db.close()
        write_ahead_log = path.with_name(f"{path.name}-wal")
        if write_ahead_log.exists() and write_ahead_log.stat().st_size:
            raise LedgerError(
                f"ledger {path}: its newest changes are in {write_ahead_log.name}, which SQLite reads only with write "
                f"access to the folder; run this as the aggregator's user, or copy both files and read the copy"
            ) from None
        return sqlite3.connect(f"{address}?mode=ro&immutable=1", uri=True)
    except BaseException:
        db.close()
        raise
    return db
