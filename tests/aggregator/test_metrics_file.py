"""The file for Prometheus: its format, how often it is written, and that it harms nobody."""

import re
from pathlib import Path

from aggregator.metrics_file import WRITE_SECONDS, Figures, MetricsFile

FIGURES = Figures(
    version=7,
    committed_at=1_700_000_000.25,
    waiting_devices=2,
    counters={"merged": 30, "duplicate": 1, "refused": 4, "devices": 6},
    connected=True,
)
SAMPLE = re.compile(r'([a-z_]+)\{task="har",shard="0"(?:,outcome="([a-z]+)")?\} (\S+)')


def samples(path: Path) -> dict[tuple[str, str | None], float]:
    """As a scraper reads them; every family has its help and type before its first sample."""
    found: dict[tuple[str, str | None], float] = {}
    known: set[str] = set()
    for line in path.read_text().splitlines():
        if line.startswith("# TYPE "):
            known.add(line.split()[2])
        elif not line.startswith("# HELP "):
            match = SAMPLE.fullmatch(line)
            assert match is not None, line
            assert match[1] in known
            found[match[1], match[2]] = float(match[3])
    return found


def test_what_it_tells(tmp_path: Path) -> None:
    path = tmp_path / "fedkd.prom"
    MetricsFile(path, task="har", shard=0).stands(FIGURES, now=5.0)
    assert samples(path) == {
        ("fedkd_updates_total", "merged"): 30,
        ("fedkd_updates_total", "duplicate"): 1,
        ("fedkd_updates_total", "refused"): 4,
        ("fedkd_model_version", None): 7,
        ("fedkd_model_committed_timestamp_seconds", None): 1_700_000_000.25,
        ("fedkd_devices", None): 6,
        ("fedkd_waiting_devices", None): 2,
        ("fedkd_broker_connected", None): 1,
    }
    assert list(tmp_path.iterdir()) == [path]


def test_it_is_written_now_and_then(tmp_path: Path) -> None:
    path = tmp_path / "fedkd.prom"
    file = MetricsFile(path, task="har", shard=0)
    file.stands(FIGURES, now=5.0)
    path.unlink()
    file.stands(FIGURES, now=5.0 + WRITE_SECONDS - 0.1)
    assert not path.exists()
    file.stands(FIGURES, now=5.0 + WRITE_SECONDS)
    assert path.exists()


def test_a_disk_that_refuses_costs_nothing_else(tmp_path: Path) -> None:
    MetricsFile(tmp_path / "missing" / "fedkd.prom", task="har", shard=0).stands(FIGURES, now=0.0)
