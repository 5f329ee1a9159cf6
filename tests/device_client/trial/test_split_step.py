"""`check-task` compares all sides of the split: data sets, devices with each other, and images that look alike."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from torch import nn

from device_client.data.near_copies import descriptors, near_copies
from device_client.task import Examples, Task, TaskError
from device_client.tasks.checking import checked
from device_client.trial.split_step import compare_sides
from device_client.trial.trial import Trial

ROIS = Path(__file__).parents[4] / "shared" / "data" / "mias" / "mias_roi_224.npz"
Images = npt.NDArray[Any]


def noise(count: int, seed: int = 0) -> Images:
    return np.random.default_rng(seed).standard_normal((count, 1, 16, 16)).astype(np.float32)


class Films(torch.utils.data.Dataset[Any]):
    """A data set that is read film by film."""

    def __init__(self, images: Images, persons: list[str] | None = None) -> None:
        self.images, self.persons = images, persons

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> Any:
        return torch.from_numpy(self.images[index]), torch.tensor(index % 2)


def compared(devices: dict[str, Any], held_out: Any) -> tuple[str, Trial]:
    own = checked(
        Task(
            name="own",
            classes=("a", "b"),
            student=lambda: nn.Linear(1, 2),
            device_data=devices.__getitem__,
            held_out=lambda: held_out,
            devices=tuple(devices),
        )
    )
    trial = Trial(task=own, update_bytes=2048)
    trial.data = {name: own.examples_of(name) for name in devices}
    trial.held_out = own.held_out()
    return compare_sides(trial), trial


def test_data_sets_are_read_and_compared() -> None:
    images = noise(6)
    with pytest.raises(TaskError, match="task own: 1 images among the 3 rows of the held-out data are also in the dev"):
        compared({"d1": Films(images[:2]), "d2": Films(images[2:4])}, Films(np.flip(images[3:], 3).copy()))
    line, trial = compared({"d1": Films(images[:3], ["p", "p", "q"])}, Films(images[3:], ["r", "s", "t"]))
    assert line == "5 persons, 6 images: none is on two sides"
    assert trial.notes == []


def test_copies_on_two_devices_and_equal_rows_that_are_no_images_are_notes() -> None:
    images = noise(5)
    line, trial = compared(
        {"d1": Films(images[:2], ["p", "q"]), "d2": Films(images[1:3], ["q", "r"])}, Films(images[3:], ["s", "t"])
    )
    assert line == "5 persons, 5 images: none is on two sides"
    assert trial.notes == [
        "1 of 3 persons are on two devices or more, and so weigh more",
        "1 of 3 images are on two devices or more, and so weigh more",
    ]
    rows = np.random.default_rng(0).random((6, 4)).astype(np.float32)
    rows[4:] = 0
    line, trial = compared({"d1": Examples.of(rows, [0] * 6)}, Examples.of(rows[3:], [0] * 3))
    assert line == "nothing that could be on two sides is known"
    assert len(trial.notes) == 1
    assert trial.notes[0].startswith("1 held-out inputs equal one of a device or the teacher, number for number; if")


@pytest.mark.parametrize(
    ("change", "is_noted"),
    [
        (lambda image: np.round(np.clip(image, -2.5, 2.5) * 4) / 4, True),
        (lambda image: np.rot90(image, 1, axes=(1, 2)) + noise(1, seed=3)[0] * 0.05, True),
        (lambda _image: noise(1, seed=5)[0], False),
    ],
)
def test_copies_that_were_changed_are_a_note(change: Callable[[Images], Images], is_noted: bool) -> None:
    images = noise(6)
    held = np.concatenate([np.ascontiguousarray(change(images[0]), np.float32)[None], images[5:]])
    line, trial = compared({"d1": Examples.of(images[:5], [0] * 5)}, Examples.of(held, [0, 0]))
    assert line == "7 images: none is on two sides"
    assert bool(trial.notes) == is_noted
    if is_noted:
        assert "1 of 2 held-out images look almost like one of a device or the teacher" in trial.notes[0]


def test_a_slow_data_set_is_compared_in_part() -> None:
    images, clock = noise(8), iter(np.arange(0, 100, 7.5))
    trial = Trial(
        task=Task(
            name="own",
            classes=("a", "b"),
            student=lambda: nn.Linear(1, 2),
            device_data=lambda _: Films(images[:4]),
            held_out=lambda: Films(images[4:]),
        ),
        update_bytes=2048,
        monotonic=lambda: float(next(clock)),
    )
    trial.data, trial.held_out = {"d1": Films(images[:4])}, Films(images[4:])
    assert compare_sides(trial) == "2 images: none is on two sides"
    assert trial.notes == ["only 2 of 8 rows were compared, within 20 s"]


@pytest.mark.skipif(not ROIS.is_file(), reason=f"needs {ROIS}")
def test_films_of_other_women_are_no_near_copies_and_shifted_ones_are() -> None:
    stored = dict(np.load(ROIS))
    images = stored["patches"][:, None].astype(np.float32)
    held = stored["patient"] % 2 == 0
    train, other = (descriptors(Examples.of(images[side], [0] * int(side.sum())), bool) for side in (~held, held))
    assert near_copies(other, train, bool) == 0
    shifted = descriptors(Examples.of(np.roll(images[held][..., ::-1], 1, axis=2), [0] * int(held.sum())), bool)
    assert near_copies(shifted, other, bool) > 0.95 * held.sum()
