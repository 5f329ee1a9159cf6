"""How costs grow with a ledger's age: commit of a version, start, file size, write-ahead log beside a reader.

The ledgers are written in bulk (`long_ledgers.py`) with all rows, as if nothing had been pruned, so the figures hold
for any `--journal-versions-kept`.
"""

import resource
import sqlite3
import statistics
import tempfile
import time
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

from aggregator.ledger import file_format
from aggregator.ledger.ledger import Ledger
from aggregator.ledger.pruning import Kept
from aggregator.ledger.reading import read_history, read_shares, read_totals
from aggregator.ledger.restoring import restore
from aggregator.merging.fedbuff import FEDBUFF
from aggregator.merging.rule import Step
from aggregator.status import Tally
from benchmarks import long_ledgers
from benchmarks.long_ledgers import SECONDS_A_VERSION, SETTINGS, T0, TASK, LedgerSize, batch, counted_steps, write
from benchmarks.settings import LedgerSettings

REPEATED = 25
"""Commits; the median is reported."""
PAYLOAD_BYTES = 2_048
"""The default size of an update (`--update-bytes`)."""
SAMPLED_VERSIONS = 2_500
"""Versions from which the size of updates with payloads is extrapolated."""


def run(settings: LedgerSettings) -> dict[str, Any]:
    """Measures in a temporary folder; returns the figures."""
    figures: dict[str, Any] = {"updates_per_version": settings.updates_per_version, "ages": []}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for versions in settings.versions:
            life = LedgerSize(versions=versions, updates_per_version=settings.updates_per_version)
            figures["ages"].append(_age(folder / f"age-{versions}", life))
        rows = settings.rows // settings.updates_per_version * settings.updates_per_version
        life = LedgerSize(
            versions=rows // settings.updates_per_version,
            updates_per_version=settings.updates_per_version,
            devices=min(settings.devices, rows),
        )
        figures["opening"] = _opening(folder / "large", life)
        sampled = min(SAMPLED_VERSIONS, life.versions)
        figures["megabytes_per_million_with_bytes"] = _megabytes_per_million(
            folder / "sampled", replace(life, versions=sampled, payload_bytes=PAYLOAD_BYTES, devices=1_000)
        )
        figures["log"] = _log(folder / "log", settings.reader_versions)
    return figures


def _age(path: Path, life: LedgerSize) -> dict[str, Any]:
    write(path, life)
    figures: dict[str, Any] = {"versions": life.versions, "updates": life.versions * life.updates_per_version}
    seconds: dict[str, list[float]] = {"batch": [], "version": []}
    with Ledger(path, task=TASK) as ledger:
        for number in range(life.versions + 1, life.versions + REPEATED + 1):
            row, weights = ledger.newest()
            updates = batch(into_version=number, updates=life.updates_per_version, payload_bytes=PAYLOAD_BYTES)
            began = time.perf_counter()
            ledger.commit_batch(updates, now=T0)
            seconds["batch"].append(time.perf_counter() - began)
            began = time.perf_counter()
            ledger.commit_version(replace(row, version=number), Step(weights), rule=FEDBUFF.name)
            seconds["version"].append(time.perf_counter() - began)
        row, weights = ledger.newest()
        updates = batch(into_version=row.version + 1, updates=life.updates_per_version, payload_bytes=PAYLOAD_BYTES)
        with counted_steps(ledger._db) as steps:  # noqa: SLF001 - no public interface gives this
            ledger.commit_batch(updates, now=T0)
        figures["batch_steps"] = steps.count
        with counted_steps(ledger._db) as steps:  # noqa: SLF001
            ledger.commit_version(replace(row, version=row.version + 1), Step(weights), rule=FEDBUFF.name)
        figures["version_steps"] = steps.count
        began = time.perf_counter()
        ledger.prune(Kept(journal_versions=100))
        figures["prune_seconds"] = time.perf_counter() - began
    for name, values in seconds.items():
        figures[f"{name}_seconds"] = statistics.median(values)
    path.unlink()
    return figures


def _opening(path: Path, life: LedgerSize) -> dict[str, Any]:
    write(path, life)
    figures: dict[str, Any] = {
        "rows": life.versions * life.updates_per_version,
        "devices": life.devices,
        "megabytes": path.stat().st_size / 1e6,
    }
    starts = [_start_seconds(path, T0 + SECONDS_A_VERSION * life.versions) for _ in range(3)]
    figures["start_seconds"] = statistics.median(wall for wall, _ in starts)
    figures["start_cpu_seconds"] = statistics.median(cpu for _, cpu in starts)
    began = time.perf_counter()
    with closing(sqlite3.connect(path)) as db:
        file_format.check_structure(db, path)
    figures["structure_seconds"] = time.perf_counter() - began
    figures["peak_megabytes"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3
    return figures


def _start_seconds(path: Path, now: float) -> tuple[float, float]:
    """Wall and CPU time of what an aggregator does with its ledger before it connects."""
    began, cpu_began = time.perf_counter(), time.process_time()
    with Ledger(path, task=TASK) as ledger:
        restore(ledger, SETTINGS)
        read_shares(path)
        read_totals(path)
        Tally(read_history(path, now=now), now=now)
    return time.perf_counter() - began, time.process_time() - cpu_began


def _megabytes_per_million(path: Path, life: LedgerSize) -> float:
    write(path, life)
    return path.stat().st_size / (life.versions * life.updates_per_version)


def _log(path: Path, versions: int) -> dict[str, Any]:
    """Size of the write-ahead log: without a reader, beside an open read transaction, and after its end."""
    write(path, LedgerSize(versions=2))
    log_path = path.with_name(path.name + "-wal")
    figures: dict[str, Any] = {"versions": versions}
    with Ledger(path, task=TASK) as ledger, closing(sqlite3.connect(path)) as reader:
        _work(ledger, versions)
        figures["megabytes_alone"] = log_path.stat().st_size / 1e6
        reader.execute("BEGIN")
        reader.execute("SELECT count(*) FROM version").fetchone()
        _work(ledger, versions)
        figures["megabytes_beside_a_reader"] = log_path.stat().st_size / 1e6
        reader.execute("COMMIT")
        _work(ledger, 2)
        figures["megabytes_afterwards"] = log_path.stat().st_size / 1e6
    return figures


def _work(ledger: Ledger, versions: int) -> None:
    for _ in range(versions):
        row, weights = ledger.newest()
        number = row.version + 1
        ledger.commit_batch(batch(into_version=number, updates=20, payload_bytes=PAYLOAD_BYTES), now=T0)
        ledger.commit_version(replace(row, version=number), Step(weights), rule=FEDBUFF.name)
        ledger.prune(Kept.of(long_ledgers.SETTINGS))
        ledger.shrink_log()


def table(figures: dict[str, Any]) -> str:
    """The figures as text."""
    opening, log = figures["opening"], figures["log"]
    per_million = opening["megabytes"] / opening["rows"] * 1e6
    return f"""\
commit: median time, and instructions of SQLite's virtual machine
{"versions":>9} {"updates":>9} {"batch":>15} {"version":>15} {"a piece pruned":>15}
{chr(10).join(_row(age) for age in figures["ages"])}
start with {opening["rows"]:,} updates of {opening["devices"]:,} devices in the journal: \
{opening["start_seconds"]:.2f} s ({opening["start_cpu_seconds"]:.2f} s of CPU time); \
after a power failure {opening["structure_seconds"]:.2f} s more
file: {per_million:.0f} MB per million updates without payload, \
{figures["megabytes_per_million_with_bytes"]:.0f} MB with {PAYLOAD_BYTES} bytes each
write-ahead log after {log["versions"]} versions: {log["megabytes_alone"]:.1f} MB; beside an open reader \
{log["megabytes_beside_a_reader"]:.1f} MB; after its end {log["megabytes_afterwards"]:.1f} MB"""


def _row(age: dict[str, Any]) -> str:
    return (
        f"{age['versions']:>9,} {age['updates']:>9,}"
        f" {1e3 * age['batch_seconds']:>6.1f} ms {age['batch_steps']:>5}"
        f" {1e3 * age['version_seconds']:>6.1f} ms {age['version_steps']:>5}"
        f" {1e3 * age['prune_seconds']:>12.1f} ms"
    )
