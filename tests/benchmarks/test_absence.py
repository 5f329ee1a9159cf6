"""The absence benchmark, run small: at QoS 0 one manifest comes to who was away, at QoS 1 one for each version."""

import json
from pathlib import Path

import pytest

from benchmarks import absence
from benchmarks.__main__ import main
from tests.broker.mosquitto import free_port, program

pytestmark = pytest.mark.broker


def test_a_small_run(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    program("mosquitto")
    monkeypatch.setattr(absence, "_free_port", free_port)  # tests run beside this one
    file = tmp_path / "figures.json"
    assert main(["absence", "--versions", "9", "--json", str(file)]) == 0
    figures = json.loads(file.read_text())
    queued, newest = figures["received"]["qos_1"], figures["received"]["qos_0"]
    assert queued["version"] == newest["version"] == 9
    assert queued["messages_by_kind"]["model"] == 9 + 1, "each that was missed, and the retained one"
    assert newest["messages_by_kind"]["model"] == 1
    # At QoS 1 the manifests come one after another, and a snapshot may be taken that is old a moment later.
    assert newest["bytes_by_kind"]["chunk"] == figures["snapshot_bytes"] <= queued["bytes_by_kind"]["chunk"]
    assert "QoS 0" in capsys.readouterr().out
