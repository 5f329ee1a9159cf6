"""`check-task --shortcuts` names what predicts the label beside the task's subject."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from torch import nn

from device_client.scores.ranking import auc
from device_client.task import Examples, Task, multi_label, reconstruction, regression
from device_client.trial.probes import Shortcut, centre_filter, cross_validated, folds_by_person
from device_client.trial.shortcuts import find_shortcuts, shortcut_table
from device_client.trial.trial import Trial
from tests.device_client.trial.test_check_task import checked as checked_by_command
from tests.device_client.trial.test_check_task import written

ROIS = Path(__file__).parents[4] / "shared" / "data" / "mias" / "mias_roi_224.npz"
needs_rois = pytest.mark.skipif(not ROIS.is_file(), reason=f"needs {ROIS}")
Images = npt.NDArray[Any]
DEVICES = ("d1", "d2", "d3", "d4")


def labels(count: int) -> npt.NDArray[np.int64]:
    return np.arange(count) * 7 // 3 % 2


def noise(count: int, seed: int = 0) -> Images:
    return np.random.default_rng(seed).standard_normal((count, 1, 16, 16)).astype(np.float32)


def trial_of(whole: Examples, **fields: Any) -> Trial:
    """Every fifth person is held out, the others are on four devices."""
    assert whole.persons is not None
    side = whole.persons.astype(int) % 5
    made: dict[str, Any] = {"classes": ("normal", "lesion")} | fields
    own = Task(
        name="own",
        student=lambda: nn.Linear(1, 2),
        device_data=lambda name: whole.where(side == int(name[1])),
        held_out=lambda: whole.where(side == 0),
        devices=DEVICES,
        **made,
    )
    trial = Trial(task=own, update_bytes=2048)
    trial.data = {name: own.examples_of(name) for name in DEVICES}
    trial.held_out = own.held_out()
    return trial


def found_in(images: Images, count: int = 200, **rows: Any) -> tuple[dict[str, Shortcut], Trial]:
    trial = trial_of(Examples.of(images, labels(count), np.arange(count) // 2, **rows))
    find_shortcuts(trial)
    return {one.probe: one for one in trial.shortcuts}, trial


def in_the_middle(images: Images, positive: Images) -> None:
    images[positive, :, 6:10, 6:10] += 2


def at_the_edge(images: Images, positive: Images) -> None:
    images[positive, :, :, :1] += 2


def padded(images: Images, positive: Images) -> None:
    images[positive, :, 12:] = 0


def elsewhere(images: Images, positive: Images) -> None:
    images[positive, :, 2:6, 2:6] += 20
    images[~positive, :, 9:13, 9:13] += 20


def brighter(images: Images, positive: Images) -> None:
    images[positive] *= 1.5


@pytest.mark.parametrize(
    ("change", "probe"),
    [
        (in_the_middle, "centre"),
        (at_the_edge, "border"),
        (padded, "size"),
        (elsewhere, "position"),
        (brighter, "brightness"),
    ],
)
def test_each_shortcut_is_found_by_its_probe(change: Callable[[Images, Images], None], probe: str) -> None:
    images = noise(200)
    change(images, labels(200) == 1)
    found, trial = found_in(images)
    assert found[probe].is_strong
    assert found[probe].auc > 0.9
    assert any(note.startswith(f"{probe} alone: AUC") and "for class lesion" in note for note in trial.notes)


def test_attributes_are_numbers_or_names_and_the_rest_is_chance() -> None:
    generator, positive = np.random.default_rng(0), labels(200)
    found, trial = found_in(
        noise(200),
        attributes={
            "scanner": np.where(generator.random(200) < 0.1, "B", np.array(["A", "C"])[positive]),
            "file_bytes": 1000 + 300 * positive + generator.integers(0, 200, 200),
            "site": generator.choice(["x", "y", "z"], 200),
        },
    )
    strong = {name for name, one in found.items() if one.is_strong}
    assert strong == {"attribute scanner", "attribute file_bytes"}
    assert set(found) - strong == {"attribute site", "centre", "position", "border", "size", "brightness", "order"}
    assert "attribute file_bytes" in shortcut_table(trial.shortcuts).splitlines()[1]


def test_rows_sorted_by_class_are_said_to_be_harmless_in_training() -> None:
    found, trial = found_in(noise(200))
    assert not found["order"].is_strong
    ordered = np.argsort(labels(200), kind="stable")
    trial = trial_of(Examples.of(noise(200), labels(200)[ordered], np.arange(200)))
    line = find_shortcuts(trial)
    assert trial.shortcuts[0].probe == "order"
    assert "probes is order" not in line, "no network sees it"
    assert any("order alone: AUC 1.00" in note and "never split by row number" in note for note in trial.notes)


def test_windows_that_were_filled_up_and_what_cannot_be_asked() -> None:
    windows = np.random.default_rng(0).standard_normal((200, 3, 40)).astype(np.float32)
    windows[labels(200) == 1, :, 30:] = 0
    windows[:, 2] = 5
    trial = trial_of(Examples.of(windows, labels(200), np.arange(200)))
    find_shortcuts(trial)
    assert trial.shortcuts[0].probe == "padding"
    assert "40 of 120 numbers of an input are the same in all rows" in trial.notes
    few = trial_of(Examples.of(noise(20), [0, 1] * 10, np.arange(20)))
    assert "none can be looked for: nothing has" not in find_shortcuts(few)
    tiny = trial_of(Examples.of(noise(10), [0, 1] * 5, np.arange(10)))
    assert "fewer than 10 examples of each class" in find_shortcuts(tiny)
    images = trial_of(Examples.of(noise(50), persons=np.arange(50)), classes=(), objective=reconstruction())
    assert "the targets are neither classes, nor labels, nor one number" in find_shortcuts(images)


def test_labels_and_one_number_are_asked_too() -> None:
    images, positive = noise(200), labels(200)
    in_the_middle(images, positive == 1)
    number = positive + np.random.default_rng(0).random(200)
    persons = np.arange(200)
    trial = trial_of(
        Examples.of(images, targets=number[:, None], persons=persons), classes=(), objective=regression(("x",))
    )
    find_shortcuts(trial)
    assert (trial.shortcuts[0].probe, trial.shortcuts[0].target) == ("centre", "a target above the median")
    both = np.stack([1 - labels(200), np.roll(positive, 1) ^ (np.arange(200) % 3 == 0)], axis=1)
    trial = trial_of(
        Examples.of(images, targets=both.astype(np.float32), persons=persons),
        classes=(),
        objective=multi_label(("none", "other")),
    )
    find_shortcuts(trial)
    assert (trial.shortcuts[0].probe, trial.shortcuts[0].target) == ("centre", "label none")


def test_folds_keep_persons_whole() -> None:
    persons = np.arange(300) // 3
    fold = folds_by_person(persons % 2 == 0, persons)
    assert all(len(set(fold[persons == person].tolist())) == 1 for person in range(100))
    assert [round(float((persons % 2 == 0)[fold == number].mean()), 1) for number in range(5)] == [0.5] * 5


def test_the_command_prints_the_table_and_json(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = "lambda d: Examples.of(np.random.default_rng(0).random((60, 3)), [0, 1, 2] * 20, [d] * 60)"
    spec = written(tmp_path, f"dict(device_data={data})")
    assert checked_by_command(spec, "--shortcuts") == 0
    assert "probe    AUC   95 % interval  predicts" in capsys.readouterr().out
    assert checked_by_command(spec, "--shortcuts", "--json") == 0
    shown = json.loads(capsys.readouterr().out)
    assert shown["steps"][-1]["name"] == "shortcuts"
    assert {one["probe"] for one in shown["shortcuts"]} == {"padding", "order"}
    assert checked_by_command(spec, "--json") == 0
    assert "shortcuts" not in json.loads(capsys.readouterr().out)


# Real films


def off_centre(patches: Images, seed: int) -> Images:
    """A random window of 128 pixels of each crop."""
    corners = np.random.default_rng(seed).integers(0, 224 - 128 + 1, (len(patches), 2))
    return np.stack(
        [patch[down : down + 128, right : right + 128] for patch, (down, right) in zip(patches, corners, strict=True)]
    )


@needs_rois
def test_a_centre_filter_tells_lesions_in_centred_crops_and_not_in_random_windows() -> None:
    stored = dict(np.load(ROIS))
    patches, lesion, patients = stored["patches"], stored["label"] > 0, stored["patient"]
    assert auc(centre_filter(patches), lesion) == pytest.approx(0.877, abs=5e-4)
    windows = [auc(centre_filter(off_centre(patches, seed)), lesion) for seed in range(10)]
    assert np.mean(windows) < 0.6, "what is left: a window of 128 of 224 pixels often holds the middle, off its own"
    assert max(windows) < 0.7
    for images, is_strong in ((patches, True), (off_centre(patches, 0), False)):
        scaled = images[:, None].astype(np.float32) / 255
        trial = trial_of(Examples.of(scaled, lesion.astype(int), patients, sources=stored["image_id"]))
        find_shortcuts(trial)
        centre = next(one for one in trial.shortcuts if one.probe == "centre")
        assert centre.is_strong == is_strong
        assert round(centre.auc, 2) == 0.88 if is_strong else centre.high < 0.65


@needs_rois
def test_random_labels_on_real_films_raise_no_alarm() -> None:
    stored = dict(np.load(ROIS))
    images, patients = stored["patches"][:, None, ::4, ::4].astype(np.float32), stored["patient"]
    for seed in range(5):
        drawn = np.random.default_rng(seed).random(patients.max() + 1) < 0.4
        trial = trial_of(Examples.of(images, drawn[patients].astype(int), patients))
        find_shortcuts(trial)
        assert [one.line for one in trial.shortcuts if one.is_strong] == []


def test_a_probe_learns_from_other_persons_only() -> None:
    persons = np.arange(40)
    positive = persons % 2 == 0
    remembered = np.eye(40)
    assert auc(cross_validated(remembered, positive, persons), positive) < 0.6
