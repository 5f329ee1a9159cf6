"""The ledger benchmark, run small: its figures are there and say that age costs nothing."""

import json
from pathlib import Path

import pytest

from benchmarks.__main__ import main

SMALL = ["ledger", "--versions", "50", "--versions", "500", "--rows", "20000", "--devices", "1000"]


def test_a_small_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*SMALL, "--reader-versions", "400", "--json", str(tmp_path / "figures.json")]) == 0
    figures = json.loads((tmp_path / "figures.json").read_text())
    young, old = figures["ages"]
    assert (young["versions"], old["versions"], old["updates"]) == (50, 500, 10_000)
    for name in ("batch_steps", "version_steps"):
        assert old[name] == pytest.approx(young[name], rel=0.2)
    assert (figures["opening"]["rows"], figures["opening"]["devices"]) == (20_000, 1_000)
    assert 2_048 < figures["megabytes_per_million_with_bytes"] < 5_000
    log = figures["log"]
    assert log["megabytes_beside_a_reader"] > 2 * log["megabytes_afterwards"]
    assert "20,000 updates of 1,000 devices" in capsys.readouterr().out
