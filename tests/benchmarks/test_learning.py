"""The learning benchmark, run small on the example task, and on a har file written here."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from benchmarks.__main__ import main
from benchmarks.learning import ARMS, fleet, holding_out, plan_of
from device_client.task import Task, scheduled
from device_client.tasks.loading import load_task

EXAMPLE = Path(__file__).parents[2] / "examples" / "own_task.py"


def written(folder: Path, persons: range, *, tested: int) -> Path:
    """A har file of some persons with four windows each; the last `tested` are test persons."""
    folder.mkdir()
    subject = np.repeat(np.array(persons), 4)
    random = np.random.default_rng(1)
    np.savez(
        folder / "spsw_sw_win50.npz",
        x=random.integers(-2000, 2000, (len(subject), 50, 6)).astype(np.int16),
        y=np.arange(len(subject)) % 2,
        subject=subject,
        split=np.where(subject > persons[-1] - tested, "test", "train"),
        scale=np.full(6, 0.005, dtype=np.float32),
        labels=np.array(["SIT", "WALK"]),
    )
    return folder


def test_a_small_run_prints_a_table_and_writes_its_figures(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "out" / "learning.json"
    arguments = ["learning", "--task", f"{EXAMPLE}:task", "--seeds", "1", "--versions", "3", "--json", str(file)]
    assert main(arguments) == 0
    figures = json.loads(file.read_text(encoding="utf-8"))
    assert {*ARMS, "teacher", "student_parameters", "teacher_parameters", "per_seed", "seconds"} <= set(figures)
    assert all(0 <= figures[arm] <= 1 and len(figures["per_seed"][arm]) == 1 for arm in ARMS)
    assert figures["teacher_parameters"] > 10 * figures["student_parameters"]
    assert figures["epochs"] == 4, "3 versions x 6 updates x 2 epochs over 10 devices"
    assert "further" not in figures
    assert not figures["hold_out"]
    printed = capsys.readouterr().out
    assert f"{figures['federated']:.3f}" in printed


def test_further_persons_are_measured_with_the_same_keys(tmp_path: Path) -> None:
    data, further = written(tmp_path / "data", range(1, 9), tested=1), written(tmp_path / "f", range(20, 22), tested=0)
    file = tmp_path / "learning.json"
    arguments = ["learning", "--task", "har", "--data", str(data), "--test-data", str(further), "--seeds", "1"]
    assert main([*arguments, "--versions", "1", "--json", str(file)]) == 0
    figures = json.loads(file.read_text(encoding="utf-8"))
    assert {*ARMS, "student_parameters", "teacher_parameters", "per_seed"} <= set(figures["further"])
    assert (figures["further"]["persons"], figures["further"]["examples"]) == (2, 8)


def test_devices_can_be_held_out_so_that_the_test_persons_are_not_looked_at(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    task = load_task("har", data=written(tmp_path / "data", range(1, 12), tested=1))
    first, second, *others = task.devices
    folded = holding_out(task, (first, second))
    assert folded.devices == tuple(others)
    tested = folded.held_out().persons
    assert tested is not None
    assert set(tested.tolist()) == {*persons_of(task, first), *persons_of(task, second)}
    arguments = ["learning", "--task", "har", "--data", str(tmp_path / "data"), "--seeds", "1", "--versions", "1"]
    for names in ("nobody", ",".join(task.devices[1:])):
        assert main([*arguments, "--hold-out", names]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert "nobody: no device of task har, which has " in lines[0]
    assert "but only 1 would" in lines[1]


def test_the_learning_rate_has_fallen_to_its_floor_when_the_run_ends(tmp_path: Path) -> None:
    task = load_task("har", data=written(tmp_path / "data", range(1, 12), tested=1))
    for taking_part in (task, holding_out(task, task.devices[:2])):
        versions = plan_of(taking_part, None).versions
        recipe = scheduled(taking_part, versions).recipe
        assert recipe.learning_rate_at(versions - 1) == pytest.approx(recipe.schedule_floor * recipe.learning_rate)
        assert recipe.learning_rate_at(versions // 2) > 0.4 * recipe.learning_rate
    inverse = replace(task, recipe=replace(task.recipe, schedule="inverse"))
    assert scheduled(inverse, 7) is inverse


def persons_of(task: Task, device: str) -> set[str]:
    persons = task.examples_of(device).persons
    assert persons is not None
    return set(persons.tolist())


def test_what_cannot_be_measured_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = written(tmp_path / "data", range(1, 9), tested=1)
    assert main(["learning", "--task", "har"]) == 2
    assert main(["learning", "--task", "har", "--data", str(data), "--test-data", str(data)]) == 2
    assert main(["learning", "--task", f"{EXAMPLE}:task", "--test-data", str(data)]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert [line.split(": ", 1)[0] for line in lines] == ["benchmarks"] * 3
    assert "--data FOLDER" in lines[0]
    assert "person 1, 2, 3, 4, 5, 6, 7 is in both" in lines[1]
    assert "only with the tasks har and ecg" in lines[2]


def test_the_fleet_has_a_slow_one_and_an_absent_one_and_follows_its_seed() -> None:
    names = tuple(f"d{number}" for number in range(12))
    devices = fleet(names, 1)
    assert sum(device.round_seconds == 10.0 for device in devices) == 1
    assert sum(bool(device.offline) for device in devices) == 1
    assert devices == fleet(names, 1) != fleet(names, 2)
