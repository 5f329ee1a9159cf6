"""The file for Prometheus: its format, how often it is written, and that it harms nobody."""

import re
from pathlib import Path

import pytest

from aggregator.metrics_file import WRITE_SECONDS, Figures, MetricsFile
from wire_contract.errors import FileUnusable

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
    folder = tmp_path / "folder"
    folder.mkdir()
    file = MetricsFile(folder / "fedkd.prom", task="har", shard=0)
    folder.rmdir()
    file.stands(FIGURES, now=0.0)


def test_a_file_of_something_else_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "fedkd.prom"
    for other in (path, tmp_path / "fedkd.prom.new"):
        other.write_bytes(b"SQLite format 3\0")
        with pytest.raises(FileUnusable, match=f"--metrics-file {other} is another kind of file"):
            MetricsFile(path, task="har", shard=0)
        assert other.read_bytes() == b"SQLite format 3\0"
        other.unlink()


def test_its_own_file_and_an_empty_one_are_replaced(tmp_path: Path) -> None:
    path = tmp_path / "fedkd.prom"
    path.touch()
    for _ in range(2):
        MetricsFile(path, task="har", shard=0).stands(FIGURES, now=0.0)
        assert samples(path)


def test_a_path_that_cannot_be_a_file_is_one_line_at_the_start(tmp_path: Path) -> None:
    for path, said in ((tmp_path, "is a folder"), (tmp_path / "a" / "b", "no folder")):
        with pytest.raises(FileUnusable, match=said):
            MetricsFile(path, task="har", shard=0)
