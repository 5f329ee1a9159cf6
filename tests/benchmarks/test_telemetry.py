"""The telemetry benchmark, run small: its figures are there, and its points are accounted for."""

import json
from pathlib import Path

import pytest

from aggregator.telemetry import collecting
from benchmarks.__main__ import main
from benchmarks.telemetry import backend
from tests.broker.mosquitto import free_port, program

SMALL = ["telemetry", "--pairs", "1", "--updates", "300", "--down-seconds", "0.5", "--fleet", "500"]


@pytest.mark.parametrize("server", ["influxd", "stand-in"])
def test_a_small_run(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, server: str
) -> None:
    monkeypatch.setattr(collecting, "CLOSE_SECONDS_MAX", 60.0)  # a busy machine leaves no point unsent here
    monkeypatch.setattr(backend, "free_port", free_port)  # tests run beside this one
    if server == "influxd":
        program("influxd", install="sudo apt-get install influxdb")
    else:
        monkeypatch.setattr(backend.shutil, "which", lambda _: None)
    assert main([*SMALL, "--json", str(tmp_path / "figures.json")]) == 0
    figures = json.loads((tmp_path / "figures.json").read_text())
    assert {"rate_ratio_on", "rate_ratio_down", "series", "cpu_microseconds_on"} <= set(figures)
    assert figures["cpu_microseconds_per_single_update"] > 0
    assert figures["cpu_microseconds_per_condensed_update"] > 0
    assert figures["caught_up"]
    dropped = sum(count for name, count in figures.items() if name.startswith("points_dropped_"))
    assert figures["points_recorded"] == figures["points_sent"] + dropped > 0
    assert figures["points_stored"] == (figures["points_sent"] if server == "influxd" else None)
    assert figures["series"] < 1_000
    assert ("stand-in" in figures["server"]) == (server == "stand-in")
    assert "goal 0.97" in capsys.readouterr().out
