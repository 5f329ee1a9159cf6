"""The benchmark of students with BatchNorm, run small."""

import json
from pathlib import Path

import pytest

from benchmarks.__main__ import main
from benchmarks.batchnorm import ARMS


def test_a_small_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "figures.json"
    assert main(["batchnorm", "--seeds", "1", "--versions", "6", "--processes", "1", "--json", str(file)]) == 0
    figures = json.loads(file.read_text())
    assert set(figures["arms"]) == set(ARMS)
    for arm in ARMS:
        (one,) = figures["arms"][arm]
        assert 0.3 < one["accuracy"] <= 1.0
        assert one.get("not_finite", 0) == one.get("floored", 0) == 0
    printed = capsys.readouterr().out
    assert all(arm in printed for arm in ARMS)
