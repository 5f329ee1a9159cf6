"""The har task on files written here, and on the real one where it is present."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from device_client.task import SplitError, TaskError
from device_client.tasks.har import FILE, file_in, further_persons
from device_client.tasks.loading import load_task

SHARED = Path(__file__).parents[3].parent / "shared" / "data" / "watch_har"
PERSONS = np.repeat(np.arange(1, 8), 6)  # 1 to 5 train, 6 and 7 test


def fields(**changed: Any) -> dict[str, Any]:
    rows = len(PERSONS)
    return {
        "x": np.arange(rows * 50 * 6).reshape(rows, 50, 6).astype(np.int16),
        "y": (np.arange(rows) % 3).astype(np.uint8),
        "subject": PERSONS.astype(np.uint8),
        "split": np.where(PERSONS <= 5, "train", "test"),
        "scale": np.array([0.005, 0.005, 0.005, 0.001, 0.001, 0.001], dtype=np.float32),
        "labels": np.array(["SIT", "WALK", "TURN"]),
    } | changed


@pytest.fixture
def write(tmp_path: Path) -> Callable[..., Path]:
    def written(name: str = FILE, folder: str = "data", **changed: Any) -> Path:
        place = tmp_path / folder
        place.mkdir(exist_ok=True)
        content = {key: value for key, value in fields(**changed).items() if value is not None}
        np.savez(place / name, **content)
        return place

    return written


def test_persons_are_shared_out_by_number(write: Callable[..., Path]) -> None:
    task = load_task("har", data=write())
    assert task.devices == ("person-04", "person-05")
    assert task.classes == ("SIT", "WALK", "TURN")
    assert task.teacher_data is not None
    seen = [task.teacher_data(), task.examples_of("person-04"), task.held_out()]
    assert [sorted(set(part.persons.tolist())) for part in seen if part.persons is not None] == [
        ["1", "2", "3"],
        ["4"],
        ["6", "7"],
    ]


def test_windows_are_channels_first_in_physical_units(write: Callable[..., Path]) -> None:
    task = load_task("har", data=write())
    inputs = task.examples_of("person-04").inputs
    row = int(np.flatnonzero(PERSONS == 4)[0])
    assert inputs.shape == (6, 6, 50)
    assert float(inputs[0, 0, 1]) == pytest.approx(fields()["x"][row, 1, 0] * 0.005, rel=1e-6)
    assert float(inputs[0, 5, 9]) == pytest.approx(fields()["x"][row, 9, 5] * 0.001, rel=1e-6)


def test_student_and_teacher_answer_per_class_and_the_teacher_is_ten_times_larger(write: Callable[..., Path]) -> None:
    task = load_task("har", data=write())
    assert task.teacher is not None
    student, teacher = task.student(), task.teacher()
    assert student(torch.zeros(2, 6, 50)).shape == teacher(torch.zeros(2, 6, 50)).shape == (2, 3)
    sizes = [sum(parameter.numel() for parameter in network.parameters()) for network in (student, teacher)]
    assert sizes[1] >= 10 * sizes[0]


def test_another_name_will_do_when_it_is_the_only_file(write: Callable[..., Path]) -> None:
    folder = write("mine.npz")
    assert file_in(folder) == folder / "mine.npz"
    write("another.npz")
    with pytest.raises(TaskError, match=f"expected .*{FILE}.* but it has 2 npz files"):
        file_in(folder)


def test_a_missing_folder_or_file_says_what_is_expected(tmp_path: Path) -> None:
    with pytest.raises(TaskError, match=f"expected .*{FILE}.* but there is no such folder"):
        load_task("har", data=tmp_path / "nowhere")
    with pytest.raises(TaskError, match=f"expected .*{FILE}.* but it has 0 npz files"):
        load_task("har", data=tmp_path)


@pytest.mark.parametrize(
    ("changed", "says"),
    [
        ({"y": None, "scale": None}, "fields y, scale are missing"),
        ({"x": np.zeros((42, 50, 3), dtype=np.int16)}, r"field x has shape \(42, 50, 3\)"),
        ({"x": np.zeros((0, 50, 6), dtype=np.int16)}, "field x has shape"),
        ({"x": np.float32(3)}, "field x has shape"),
        ({"y": np.zeros(3, dtype=np.uint8)}, r"field y has shape \(3,\), not \(42,\)"),
        ({"y": np.zeros(42)}, "field y holds float64"),
        ({"y": np.full(42, 3)}, "field y goes from 3 to 3, but there are 3 labels"),
        ({"x": np.full((42, 50, 6), "a")}, "field x holds <U1, not numbers"),
        ({"split": np.full(42, "validation")}, "field split holds"),
        ({"split": np.full(42, "train")}, "7 train and 0 test persons"),
        ({"scale": np.full(6, np.nan, dtype=np.float32)}, "not finite"),
        ({"y": np.array([None] * 42)}, "not a readable npz"),
    ],
)
def test_a_broken_file_is_named_with_its_field(write: Callable[..., Path], changed: dict[str, Any], says: str) -> None:
    with pytest.raises(TaskError, match=says):
        load_task("har", data=write(**changed))


def test_a_file_that_is_no_npz_is_refused(tmp_path: Path) -> None:
    (tmp_path / FILE).write_bytes(b"PK not really")
    with pytest.raises(TaskError, match="not a readable npz"):
        load_task("har", data=tmp_path)


def test_a_person_on_both_sides_is_refused(write: Callable[..., Path]) -> None:
    split = fields()["split"]
    split[0] = "test"
    with pytest.raises(SplitError, match="person 1 is in both the train and the test data"):
        load_task("har", data=write(split=split))


def test_further_persons_are_all_tested_on_unless_they_trained(write: Callable[..., Path]) -> None:
    known = write()
    further = write(folder="further", subject=PERSONS + 20)
    assert len(further_persons(further, known=known)) == 42, "whatever their split says"
    with pytest.raises(SplitError, match="person 5 is in both the training and the further test data"):
        further_persons(
            write(folder="mixed", subject=np.where(PERSONS == 7, 5, 30 + PERSONS), split=split_of_seven()), known=known
        )
    with pytest.raises(TaskError, match="has the classes"):
        further_persons(write(folder="other", subject=PERSONS + 20, labels=np.array(["A", "B", "C"])), known=known)


def split_of_seven() -> Any:
    return np.full(len(PERSONS), "test")


@pytest.mark.skipif(not SHARED.is_dir(), reason="the watch_har data is not next to this repository")
def test_the_real_file() -> None:
    task = load_task("har", data=SHARED)
    assert task.classes == ("SEATED", "STANDING_UP", "WALKING", "TURNING", "SITTING_DOWN")
    assert len(task.devices) == 12
    assert sum(len(task.examples_of(device)) for device in task.devices) == 5484
    gravity = float(task.held_out().inputs[:, :3].mean(dim=2).norm(dim=1).median())
    assert gravity == pytest.approx(9.81, abs=0.6)
