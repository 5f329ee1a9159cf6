"""Metrics as a text file in Prometheus' exposition format.

Read by the textfile collector of node_exporter, which reads the `*.prom` files of a folder. So the aggregator opens no
port, and Prometheus gets a few metrics without InfluxDB. The age of the file shows in scrapes as
`node_textfile_mtime_seconds`. Format: https://prometheus.io/docs/instrumenting/exposition_formats/ (text, 0.0.4).
"""

import contextlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from wire_contract.files.atomic_write import write_atomically
from wire_contract.files.output_files import check_output_file

WRITE_SECONDS = 15.0
"""Time between two writes: Prometheus' usual scrape interval."""
_BEGINNING = b"# HELP fedkd_"
"""First bytes of every file of ours, by which it is recognised before it is overwritten."""


@dataclass(frozen=True, kw_only=True)
class Figures:
    """The metrics in the file."""

    version: int
    committed_at: float
    """Commit time of that version, Unix seconds."""
    waiting_devices: int
    """Devices with a buffered update."""
    counters: Mapping[str, int]
    """Totals since the ledger was created: merged, duplicate, refused, devices."""
    connected: bool


class MetricsFile:
    """Replaces the file periodically. If the disk is full, only the metrics are missing."""

    def __init__(self, path: Path, *, task: str, shard: int) -> None:
        """Checks the path; writes nothing yet.

        Raises:
            FileUnusable: `path` cannot be written, or is a file of another kind.
        """
        self._path = path
        self._temporary = path.with_name(f"{path.name}.new")
        for file in (path, self._temporary):
            check_output_file(file, flag="--metrics-file", is_ours=lambda start: start.startswith(_BEGINNING))
        self._labels = f'task="{task}",shard="{shard}"'  # names of the contract hold nothing that needs escaping
        self._due_at = 0.0

    def stands(self, figures: Figures, *, now: float) -> None:
        """Writes `figures` if due; `now` in monotonic seconds."""
        if now < self._due_at:
            return
        self._due_at = now + WRITE_SECONDS
        with contextlib.suppress(OSError):
            content = "".join(self._lines(figures)).encode("ascii")
            write_atomically(self._path, content, sync="nothing", temporary=self._temporary)

    def _lines(self, figures: Figures) -> Iterator[str]:
        labels = self._labels
        outcomes = ("merged", "duplicate", "refused")
        yield "# HELP fedkd_updates_total Updates answered since the ledger was created.\n"
        yield "# TYPE fedkd_updates_total counter\n"
        for outcome in outcomes:
            yield f'fedkd_updates_total{{{labels},outcome="{outcome}"}} {figures.counters.get(outcome, 0)}\n'
        gauges: Mapping[str, tuple[str, float]] = {
            "fedkd_model_version": ("Newest committed version of the model.", figures.version),
            "fedkd_model_committed_timestamp_seconds": (
                "When that version was committed, Unix seconds.",
                figures.committed_at,
            ),
            "fedkd_devices": ("Devices that were ever answered.", figures.counters.get("devices", 0)),
            "fedkd_waiting_devices": ("Devices with an update waiting for the next version.", figures.waiting_devices),
            "fedkd_broker_connected": ("1 while there is a connection to the broker.", int(figures.connected)),
        }
        for name, (text, value) in gauges.items():
            yield f"# HELP {name} {text}\n# TYPE {name} gauge\n{name}{{{labels}}} {value!r}\n"
