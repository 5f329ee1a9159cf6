"""Task har: five everyday movements recorded by a smartwatch, windows of half a second in one npz file of the user's.

Fields of the file (no pickle): `x` (N, 50, 6) integers, physical = x · scale: acceleration in m/s², then angular
rate in rad/s, at 100 Hz; `y` (N,) index into `labels`; `subject` (N,); `split` (N,) "train" or "test"; `scale` (6,);
`labels` (class,).
The data: Matey-Sanz et al. 2023, doi 10.1016/j.dib.2023.109809, CC BY 4.0.

The split is by person. Of the persons marked "train", the three with the lowest numbers pre-train the teacher and each
of the others is a device; the persons marked "test" are held out.
"""

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
import numpy.typing as npt

from device_client.learning.networks import SEPARABLE_STUDENT, TEACHER, Sensor, WindowAugmentation, WindowClassifier
from device_client.task import Examples, Recipe, Task, TaskError, check_split
from device_client.tasks.npz_fields import check_fields, check_label_range, is_training, read_fields

FILE = "spsw_sw_win50.npz"
FIELDS = ("x", "y", "subject", "split", "scale", "labels")
WINDOW_SAMPLES = 50
"""Half a second; given by the file."""
CHANNELS = 6
"""Three axes of each sensor; given by the file."""
TEACHER_PERSONS = 3
"""Chosen, not measured: 3 of the file's 15 training persons leave 12 devices; fewer make a teacher that knows too few
people."""

SENSOR = Sensor(samples=WINDOW_SAMPLES, acceleration_unit=9.81)
RECIPE = Recipe(
    epochs=2,
    batch_size=16,
    learning_rate=4e-3,
    schedule="cosine",
    schedule_versions=150.0,
    alpha=0.3,
    temperature=2.0,
    label_smoothing=0.05,
    augment=WindowAugmentation(rotation_max=0.6, strength_deviation=0.15, tempo_max=0.2, noise=0.1),
    teacher_epochs=25,
)
"""Epochs, batches and schedule: `docs/decisions/0039-local-training.md`. No comparison is recorded of alpha,
temperature, label smoothing and teacher_epochs."""


@dataclass(frozen=True, kw_only=True)
class Windows:
    """The content of the file, checked."""

    examples: Examples
    """Inputs (example, 6, 50) in m/s² and rad/s; persons known."""
    training: npt.NDArray[np.bool_]
    """(example,): the person is marked "train"; the others are marked "test"."""
    classes: tuple[str, ...]

    def persons(self, *, training: bool) -> list[str]:
        """The persons of one side of the split, in order of their numbers."""
        assert self.examples.persons is not None
        return sorted(set(self.examples.persons[self.training == training].tolist()), key=int)

    def of(self, *persons: str) -> Examples:
        """All examples of some persons."""
        assert self.examples.persons is not None
        return self.examples.where(np.isin(self.examples.persons, persons))


def task(data: Path | None) -> Task:
    """The task on the file in folder `data`.

    Raises:
        TaskError: no folder was given, the file is missing, or it has not the form above.
        SplitError: a person is marked both "train" and "test".
    """
    if data is None:
        raise TaskError(f"task har needs a data folder: --data FOLDER with {FILE}")
    windows = read_windows(file_in(data))
    training, held_out = windows.persons(training=True), windows.persons(training=False)
    if len(training) <= TEACHER_PERSONS or not held_out:
        raise TaskError(
            f"task har: {file_in(data)} has {len(training)} train and {len(held_out)} test persons; it needs more than "
            f"{TEACHER_PERSONS} to train ({TEACHER_PERSONS} for the teacher, the others are devices) and one to test"
        )
    teachers = training[:TEACHER_PERSONS]
    devices = {f"person-{int(person):02d}": person for person in training[TEACHER_PERSONS:]}
    return Task(
        name="har",
        classes=windows.classes,
        student=lambda: WindowClassifier(SENSOR, SEPARABLE_STUDENT, len(windows.classes)),
        teacher=lambda: WindowClassifier(SENSOR, TEACHER, len(windows.classes)),
        device_data=lambda device: windows.of(devices[device]),
        teacher_data=lambda: windows.of(*teachers),
        held_out=lambda: windows.of(*held_out),
        devices=tuple(devices),
        recipe=RECIPE,
    )


def further_persons(folder: Path, *, known: Path) -> Examples:
    """All examples of the file in `folder`, whatever its split: persons to test on besides those in folder `known`.

    Raises:
        TaskError: a file is missing or invalid, or the two have different classes.
        SplitError: one of these persons is in the training data of the student or its teacher.
    """
    further, own = read_windows(file_in(folder)), read_windows(file_in(known))
    if further.classes != own.classes:
        raise TaskError(f"{file_in(folder)} has the classes {further.classes}, not {own.classes}")
    assert further.examples.persons is not None
    check_split({"training": np.array(own.persons(training=True)), "further test": further.examples.persons})
    return further.examples


def file_in(folder: Path) -> Path:
    """The data file in a folder: the one with the expected name, or the only npz file there.

    Raises:
        TaskError: there is no such file, or it is ambiguous.
    """
    if (folder / FILE).is_file():
        return folder / FILE
    candidates = sorted(folder.glob("*.npz")) if folder.is_dir() else []
    if len(candidates) != 1:
        found = f"it has {len(candidates)} npz files" if folder.is_dir() else "there is no such folder"
        raise TaskError(f"task har: expected {folder / FILE} (or one npz file of that form), but {found}")
    return candidates[0]


@lru_cache(maxsize=4)
def read_windows(path: Path) -> Windows:
    """The checked content of one file.

    Raises:
        TaskError: a field is missing, or has a wrong shape or range.
        SplitError: a person is marked both "train" and "test".
    """
    fields = read_fields(path, FIELDS)
    x, labels = fields["x"], fields["labels"]
    rows = len(x) if x.ndim else 0
    per_row = dict.fromkeys(("y", "subject", "split"), (rows,))
    shapes = {"x": (rows, WINDOW_SAMPLES, CHANNELS), **per_row, "scale": (CHANNELS,), "labels": (labels.size,)}
    check_fields(path, fields, shapes, {"x": "iuf", "scale": "iuf", "y": "iu", "subject": "iu", "split": "U"})
    classes, y = tuple(str(label) for label in labels), fields["y"].astype(np.int64)
    check_label_range(path, y, len(classes))
    training = is_training(path, fields)
    persons = fields["subject"].astype(np.int64).astype(np.str_)
    check_split({"train": persons[training], "test": persons[~training]})
    inputs = (x.astype(np.float32) * fields["scale"].astype(np.float32)).transpose(0, 2, 1)
    if not np.isfinite(inputs).all():
        raise TaskError(f"{path}: fields x and scale give values that are not finite")
    return Windows(examples=Examples.of(np.ascontiguousarray(inputs), y, persons), training=training, classes=classes)
