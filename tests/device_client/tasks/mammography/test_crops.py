"""Task mammography-crops on generated files, and on the real ones where they are present."""

from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from device_client.learning.asyncfedkd import train_alone
from device_client.learning.evaluation import evaluate
from device_client.task import Examples, SplitError, Task, TaskError, pooled
from device_client.tasks.loading import load_task
from device_client.tasks.mammography.crop_network import (
    CROP_STUDENT,
    WINDOW_STUDENT,
    CropAugmentation,
    CropClassifier,
    symmetric,
)
from device_client.tasks.mammography.crops import (
    HOSPITAL_SHARES,
    SMALL_FILE,
    crops_of_folder,
    folds,
    further_patients,
    hospitals_of,
)
from tests.device_client.tasks.mammography.crop_files import PATIENTS, write_crops

SHARED = Path(__file__).parents[4].parent / "shared" / "data"


def patients_of(examples: Examples) -> set[str]:
    assert examples.persons is not None
    return set(examples.persons.tolist())


def sides_of(task: Task) -> list[Examples]:
    assert task.teacher_data is not None
    return [task.held_out(), task.teacher_data(), *(task.examples_of(device) for device in task.devices)]


@pytest.mark.parametrize("large", [False, True])
def test_each_patient_is_on_one_side(tmp_path: Path, *, large: bool) -> None:
    sides = sides_of(load_task("mammography-crops", data=write_crops(tmp_path, large=large)))
    assert len(sides) == 2 + len(HOSPITAL_SHARES)
    assert all(not patients_of(one) & patients_of(other) for one, other in combinations(sides, 2))
    assert sum(len(patients_of(side)) for side in sides) == PATIENTS


def test_patients_marked_test_are_held_out(tmp_path: Path) -> None:
    task = load_task("mammography-crops", data=write_crops(tmp_path, large=True, split=True))
    assert patients_of(task.held_out()) == {str(number) for number in range(4, PATIENTS + 1, 4)}


def test_small_crops_have_three_classes_and_are_shown_whole(tmp_path: Path) -> None:
    task = load_task("mammography-crops", data=write_crops(tmp_path, large=False))
    assert task.labels == ("normal", "benign", "malignant")
    held_out = task.held_out()
    assert tuple(held_out.inputs.shape[1:]) == (1, 48, 48)
    assert 0 <= float(held_out.inputs.min()) < float(held_out.inputs.max()) <= 1
    assert task.student()(held_out.inputs).shape == (len(held_out), 3)


def test_large_crops_are_shown_as_windows_in_which_no_place_is_the_middle(tmp_path: Path) -> None:
    folder = write_crops(tmp_path, large=True)
    task = load_task("mammography-crops", data=folder)
    assert task.labels == ("normal", "lesion")
    crops = crops_of_folder(folder)
    windows = crops.of(["2"], "windows")
    assert tuple(windows.inputs.shape) == (2 * 9, 1, 32, 32)
    brightest = {int(at) for at in windows.inputs[:9].flatten(1).argmax(dim=1)}
    assert len(brightest) == 9, "the spot is elsewhere in each window"
    assert tuple(crops.of(["2"], "whole").inputs.shape) == (2, 1, 56, 56)
    whole = crops.of(["2"], "whole").inputs
    torch.testing.assert_close(windows.inputs[0, 0], whole[0, 0, :32, :32])


def test_devices_train_on_windows_at_another_place_each_time(tmp_path: Path) -> None:
    windows = crops_of_folder(write_crops(tmp_path, large=True)).to_train(["2"], "windows")
    torch.manual_seed(0)
    seen = [windows[0][0] for _ in range(40)]
    assert {tuple(window.shape) for window in seen} == {(1, 32, 32)}
    assert len({int(window.argmax()) for window in seen}) > 20
    torch.manual_seed(0)
    assert torch.equal(windows[0][0], seen[0]), "the same seed draws the same windows"


def test_the_middle_of_a_crop_is_told_from_its_border_where_places_may_be_seen() -> None:
    spots = torch.zeros(2, 1, 48, 48)
    spots[0, :, 24:30, 24:30] = spots[1, :, 16:22, 16:22] = 1.0
    for size in (CROP_STUDENT, WINDOW_STUDENT):
        torch.manual_seed(0)
        middle, corner = CropClassifier(size, 2).eval()(spots)
        assert torch.allclose(middle, corner, atol=1e-3) == (size is WINDOW_STUDENT)


def test_every_fold_and_hospital_has_findings(tmp_path: Path) -> None:
    crops = crops_of_folder(write_crops(tmp_path, large=False))
    groups = folds(crops)
    assert sorted(name for group in groups for name in group) == crops.patient_names()
    assert all(set(crops.labels[np.isin(crops.patients, group)].tolist()) == {0, 1, 2} for group in groups)
    sizes = [len(group) for group in hospitals_of(crops.patient_names()).values()]
    assert sizes == [12, 10, 8, 6, 4]


def test_the_student_is_small_and_the_teacher_much_larger(tmp_path: Path) -> None:
    for large, parameters in ((False, 12_135), (True, 9_810)):
        task = load_task("mammography-crops", data=write_crops(tmp_path / str(large), large=large))
        assert task.teacher is not None
        student, teacher = (sum(p.numel() for p in network().parameters()) for network in (task.student, task.teacher))
        assert student == parameters
        assert teacher > 20 * student


def test_a_few_steps_learn(tmp_path: Path) -> None:
    task = load_task("mammography-crops", data=write_crops(tmp_path, large=True))
    torch.manual_seed(1)
    student = task.student()
    before = evaluate(student, task.held_out(), task)["loss"]
    data = pooled([task.examples_of(device) for device in task.devices])
    train_alone(student, None, data, task.recipe, objective=task.objective, epochs=2, seed=1)
    assert evaluate(student, task.held_out(), task)["loss"] < 0.7 * before


def test_augmentation_keeps_shapes_and_follows_its_generator() -> None:
    crops = torch.rand(4, 1, 48, 48)
    one, other = (CropAugmentation()(crops, torch.Generator().manual_seed(3)) for _ in range(2))
    assert one.shape == crops.shape
    assert torch.equal(one, other)
    assert not torch.equal(one, crops)


def test_there_are_eight_symmetries() -> None:
    crop = torch.arange(9.0).reshape(1, 1, 3, 3)
    assert len({tuple(symmetric(crop, number).flatten().tolist()) for number in range(8)}) == 8


@pytest.mark.parametrize(
    ("changed", "says"),
    [
        ({"severity": None}, "fields severity are missing"),
        ({"images": np.zeros((80, 48, 48))}, "field images is float64"),
        ({"images": np.zeros((80, 47, 48), dtype=np.uint8)}, r"not uint8 \(crop, 48, 48\)"),
        ({"patient": np.zeros(3)}, r"field patient has shape \(3,\), not \(80,\)"),
        ({"severity": np.full(80, "X")}, "field severity holds other values"),
        ({"split": np.full(80, "validation")}, "field split holds .*validation"),
        ({"patient": np.array([None] * 80)}, "not a readable npz"),
    ],
)
def test_a_broken_file_is_named_with_its_field(tmp_path: Path, changed: dict[str, Any], says: str) -> None:
    with np.load(write_crops(tmp_path, large=False) / SMALL_FILE) as archive:
        fields = {name: archive[name] for name in archive.files} | changed
    np.savez(tmp_path / SMALL_FILE, **{name: field for name, field in fields.items() if field is not None})
    with pytest.raises(TaskError, match=says):
        load_task("mammography-crops", data=tmp_path)


def test_it_says_what_data_it_needs(tmp_path: Path) -> None:
    with pytest.raises(TaskError, match="needs a data folder"):
        load_task("mammography-crops", data=None)
    with pytest.raises(TaskError, match="has neither"):
        load_task("mammography-crops", data=tmp_path)
    write_crops(tmp_path, large=False)
    write_crops(tmp_path, large=True)
    with pytest.raises(TaskError, match="has both"):
        load_task("mammography-crops", data=tmp_path)
    with pytest.raises(TaskError, match="too few"):
        load_task("mammography-crops", data=write_crops(tmp_path / "few", large=False, patients=4))


def test_further_patients_may_not_be_known_ones(tmp_path: Path) -> None:
    known = write_crops(tmp_path / "known", large=True)
    further = write_crops(tmp_path / "further", large=True, first=100, patients=6)
    assert len(further_patients(further, known=known)) == 12 * 9
    with pytest.raises(SplitError, match="person 1, "):
        further_patients(known, known=known)
    with pytest.raises(TaskError, match="different size"):
        further_patients(further, known=write_crops(tmp_path / "small", large=False))


@pytest.mark.skipif(not SHARED.is_dir(), reason="the mammography data is not next to this repository")
@pytest.mark.parametrize(("folder", "crops"), [("mias48", 319), ("mias", 260)])
def test_the_real_files(folder: str, crops: int) -> None:
    task = load_task("mammography-crops", data=SHARED / folder)
    windows = 9 if folder == "mias" else 1
    counts = [len(side) for side in sides_of(task)]
    assert counts[0] / windows + sum(counts[1:]) == crops
