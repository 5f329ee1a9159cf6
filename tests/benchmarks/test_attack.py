"""The attack benchmark, run small on the example task. What the bounds withstand: simulators/world/test_attacks.py."""

import json
from pathlib import Path

import pytest

from benchmarks import attack
from benchmarks.__main__ import main
from benchmarks.attack import BELIEVED, BOUNDED, student_t

EXAMPLE = Path(__file__).parents[2] / "examples" / "own_task.py"


def test_a_small_run_prints_a_table_and_writes_its_figures(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(attack, "QUICK", (("huge", "known"),))
    file = tmp_path / "out" / "attack.json"
    arguments = ["attack", "--task", f"{EXAMPLE}:task", "--which", "quick", "--versions", "12", "--processes", "1"]
    assert main([*arguments, "--json", str(file)]) == 0
    figures = json.loads(file.read_text(encoding="utf-8"))
    attacked = ["huge, known, true samples", "huge, known, false samples"]
    assert list(figures["runs"]) == [BOUNDED, BELIEVED, "silent, known", *attacked]
    assert all(len(run["accuracy"]) == 13 for runs in figures["runs"].values() for run in runs)
    assert figures["cost"]["refused"] == 0
    assert 0.5 < figures["cost"]["scale_mean"] <= 1
    for name in attacked:
        one = figures["attacks"][name]
        assert one["refused"] == 1, "its norm is far over that of the others"
        assert one["merged"] > 0, "honest before"
        assert one["lost_worst"] == pytest.approx(one["silent"] - one["accuracy"])
    printed = capsys.readouterr().out
    assert f"{figures['cost']['bounded']:.3f} with the bounds" in printed
    assert all(name in printed for name in attacked)


def test_too_few_devices_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = EXAMPLE.read_text(encoding="utf-8")
    (tmp_path / "few.py").write_text(source.replace("range(1, 11)", "range(1, 5)"), encoding="utf-8")
    assert main(["attack", "--task", f"{tmp_path / 'few.py'}:task"]) == 2
    assert "has 4 devices; a version needs 4 besides the hostile one" in capsys.readouterr().err


@pytest.mark.parametrize(("freedom", "expected"), [(1, 12.71), (7, 2.365), (15, 2.131), (30, 2.042), (1_000, 1.962)])
def test_the_interval_is_that_of_few_seeds(freedom: int, expected: float) -> None:
    assert student_t(freedom) == pytest.approx(expected, rel=0.005)
