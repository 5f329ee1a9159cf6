"""The communication benchmark, run small on the example task."""

import json
from pathlib import Path
from typing import Any

import pytest

from benchmarks.__main__ import main
from benchmarks.communication.arms import arms
from benchmarks.communication.command import first_reaching

EXAMPLE = Path(__file__).parents[2] / "examples" / "own_task.py"
KEYS = {
    *("name", "letter", "bytes_up", "bytes_down", "accuracy_student", "accuracy_teacher", "reduction"),
    *("bytes_up_to_target", "bytes_down_to_target", "reduction_to_target", "encode_microseconds"),
    *("decode_microseconds", "peak_bytes", "bits_per_parameter", "entropy_bits_per_parameter"),
}


@pytest.fixture(scope="module")
def figures(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    file = tmp_path_factory.mktemp("out") / "communication.json"
    arguments = ["communication", "--task", f"{EXAMPLE}:task", "--seeds", "1", "--rounds", "2", "--processes", "1"]
    assert main([*arguments, "--json", str(file)]) == 0
    assert file.with_suffix(".png").read_bytes().startswith(b"\x89PNG")
    found: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    return found


def test_every_way_is_a_row_with_its_figures(figures: dict[str, Any]) -> None:
    rows = {row["name"]: row for row in figures["rows"]}
    assert set(rows) == {arm.name for arm in arms(10)}
    assert sorted({row["letter"] for row in rows.values()}) == ["a", "b", "c", "d", "e", "f"]
    assert all(row.keys() >= KEYS for row in rows.values())
    assert 0 < figures["centralised"] <= 1
    assert rows["fedavg_teacher"]["accuracy_student"] is None
    assert all(0 < row["accuracy_student"] <= 1 for name, row in rows.items() if name != "fedavg_teacher")


def test_bytes_are_those_of_what_travelled(figures: dict[str, Any]) -> None:
    rows = {row["name"]: row for row in figures["rows"]}
    teacher, student = rows["fedavg_teacher"], rows["fedavg_student"]
    assert teacher["bytes_up"] > 2 * teacher["update_bytes"] > 2 * student["update_bytes"] > 0
    assert teacher["reduction"] == 0
    both = student["bytes_up"] + student["bytes_down"]
    assert student["reduction"] == pytest.approx(1 - both / (teacher["bytes_up"] + teacher["bytes_down"]))
    assert rows["ours_384"]["bytes_up"] <= rows["ours_4096"]["bytes_up"] <= student["bytes_up"]


def test_decoding_is_set_beside_an_int8_pass(figures: dict[str, Any]) -> None:
    large = figures["large_vector"]
    assert large["parameters"] == 250_000
    names = ("default", "4 KiB", "16 KiB", "top 1 %", "top 3 %")
    assert [row["name"] for row in large["rows"]] == [*names, *(f"{name}, 12 tensors" for name in names)]
    assert all(row["decode_to_int8_add"] > 0 for row in large["rows"])
    assert all(1 <= row["to_entropy"] <= 1.05 for row in large["rows"])
    assert large["int8_add_microseconds"] > 0


@pytest.mark.parametrize(
    ("accuracies", "version"),
    [((0.1, 0.9, 0.1, 0.1), None), ((0.1, 0.7, 0.9, 0.8, 0.9), 3), ((0.8, 0.8, 0.8), 2), ((0.9, 0.9), None)],
)
def test_the_target_is_reached_when_three_versions_reach_it(accuracies: tuple[float, ...], version: int | None) -> None:
    curve = [{"version": at, "accuracy": {"held_out": value}} for at, value in enumerate(accuracies)]
    point = first_reaching(curve, 0.8 - 1e-9, "held_out")
    assert (None if point is None else point["version"]) == version


def test_each_job_that_is_done_is_a_line(capfd: pytest.CaptureFixture[str]) -> None:
    arguments = ["--task", f"{EXAMPLE}:task", "--seeds", "2", "--rounds", "1", "--processes", "2", "--arms", "ours"]
    assert main(["communication", *arguments]) == 0
    said = capfd.readouterr()
    lines = [line for line in said.err.splitlines() if " is done after " in line]
    assert [line.split("/")[0] for line in lines] == [str(at) for at in range(1, 7)]
    assert {line.split(" ", 1)[1].split(" is done")[0] for line in lines} == {
        f"{what}, seed {seed}" for what in ("teacher", "centralised", "ours") for seed in (1, 2)
    }
    assert "ours" in said.out


def test_low_rank_deltas_travel_as_deltas(figures: dict[str, Any]) -> None:
    rows = {row["name"]: row for row in figures["rows"]}
    assert rows["fedkd"]["bytes_down"] < rows["fedavg_student"]["bytes_down"]


@pytest.mark.parametrize("wrong", [("--seeds", "0"), ("--rounds", "0")])
def test_nothing_to_measure_is_one_line(wrong: tuple[str, str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["communication", "--task", f"{EXAMPLE}:task", *wrong]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "greater than or equal to 1" in line


def test_an_unknown_way_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["communication", "--task", f"{EXAMPLE}:task", "--arms", "nonsense"]) == 2
    assert "fedkd" in capsys.readouterr().err
