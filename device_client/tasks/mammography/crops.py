"""Task mammography-crops: small square crops of mammograms, from one npz file of the user's.

The file has one of two forms (no pickle):

- `mias48.npz`: `images` (crop, 48, 48) uint8, `severity` A normal, B benign, M malignant, `patient`, `image_id`.
  Three classes.
- `mias_roi_224.npz`: `patches` (crop, 224, 224) uint8, `label` 0 normal, 1 benign, 2 malignant, `patient`, `image_id`,
  and optionally `split` "train" or "test". Two classes, normal and lesion.

The data: mini-MIAS (Suckling et al. 1994), for research only.

Lesion crops are centred on their lesion and normal crops are not, so a network may learn what is centred rather than
what a lesion looks like. In the second form the task therefore shows windows of 128 by 128 pixels out of each crop: at
a random place each time for training, at 9 places for the test. No place in a window says anything.

The split is by patient, and there is no other one in this module. Patients marked "test", or a fifth where the file
marks none, are held out; a fifth of the others pre-trains the teacher; the rest are dealt to five hospitals of unequal
size, each of which is a device.
"""

import hashlib
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from device_client.task import Examples, Recipe, Task, TaskError, check_split, classification
from device_client.tasks.mammography.crop_network import (
    CROP_STUDENT,
    CROP_TEACHER,
    WINDOW_STUDENT,
    WINDOW_TEACHER,
    CropAugmentation,
    CropClassifier,
)
from device_client.tasks.npz_fields import is_training, read_fields

SMALL_FILE, LARGE_FILE = "mias48.npz", "mias_roi_224.npz"
SMALL_SIDE, LARGE_SIDE, WINDOW_SIDE = 48, 224, 128
"""Pixels; those of the crops are given by the files."""
REDUCTION = 4
"""Crops of 224 pixels are averaged over squares of 4 by 4, 800 µm: a sixteenth of the work. Chosen, not measured."""
WINDOW_STARTS = (0, 48, 96)
"""First row and first column of the fixed windows, pixels."""
THREE_CLASSES, TWO_CLASSES = ("normal", "benign", "malignant"), ("normal", "lesion")
FOLDS = 5
TEACHER_EVERY = 5
"""Of the patients who are not held out, this one is for the teacher. Chosen, not measured."""
HOSPITAL_SHARES = (0.30, 0.25, 0.20, 0.15, 0.10)
"""Of the federation's patients. Chosen: the smallest hospital has a third of the patients of the largest."""
RECIPE = Recipe(
    epochs=1,
    batch_size=16,
    learning_rate=2e-3,
    schedule="cosine",
    schedule_versions=100.0,
    alpha=0.3,
    temperature=2.0,
    task_loss="focal",
    focal_gamma=1.0,
    augment=CropAugmentation(),
    teacher_epochs=60,
)
"""Networks, learning rate, alpha: `docs/experiments.md`. No comparison is recorded of temperature and focal_gamma."""

View = Literal["whole", "windows"]


@dataclass(frozen=True, kw_only=True)
class CropSet:
    """The content of a file, checked."""

    pixels: npt.NDArray[np.float32]
    """(crop, side, side), grey values 0 to 1."""
    labels: npt.NDArray[np.int64]
    """(crop,), indices into `THREE_CLASSES`."""
    patients: npt.NDArray[np.str_]
    films: npt.NDArray[np.str_]
    tested: npt.NDArray[np.bool_] | None
    """(crop,): the patient is marked "test"; None: the file marks nobody."""

    @property
    def large(self) -> bool:
        """Whether these are crops of 224 pixels."""
        return bool(self.pixels.shape[-1] == LARGE_SIDE)

    def patient_names(self) -> list[str]:
        """The patients, in order of their names."""
        return sorted(set(self.patients.tolist()))

    def only(self, patients: Collection[str]) -> "CropSet":
        """The crops of some patients, without marks."""
        chosen = np.isin(self.patients, list(patients))
        return replace(
            self,
            pixels=self.pixels[chosen],
            labels=self.labels[chosen],
            patients=self.patients[chosen],
            films=self.films[chosen],
            tested=None,
        )

    def of(self, patients: Collection[str], view: View) -> Examples:
        """The crops of some patients to test on; `view`: see `examples_of`."""
        return examples_of(self.only(patients), view)

    def to_train(self, patients: Collection[str], view: View) -> "Examples | RandomWindows":
        """The crops of some patients to train on."""
        chosen = self.only(patients)
        return RandomWindows(chosen) if view == "windows" else examples_of(chosen, view)


class RandomWindows(torch.utils.data.Dataset[tuple[Tensor, Tensor]]):
    """Windows (1, 32, 32) of large crops, at another place each time; random numbers are torch's own."""

    def __init__(self, crops: CropSet) -> None:
        whole = examples_of(crops, "whole")
        self._pixels, self._labels = whole.inputs, whole.labels
        self.persons, self.sources = whole.persons, whole.sources

    def __len__(self) -> int:
        return len(self._labels)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        side, least = self._pixels.shape[-1], WINDOW_SIDE // REDUCTION
        down, right = torch.randint(0, side - least + 1, (2,)).tolist()
        return self._pixels[index, :, down : down + least, right : right + least], self._labels[index]


def task(data: Path | None) -> Task:
    """The task on the file in folder `data`.

    Raises:
        TaskError: no folder was given, it has neither file or both, or the file has not the form above.
        SplitError: a patient is marked both "train" and "test".
    """
    if data is None:
        raise TaskError(f"task mammography-crops needs a data folder: --data FOLDER with {SMALL_FILE} or {LARGE_FILE}")
    crops = crops_of_folder(data)
    if crops.tested is not None and crops.tested.any():
        held_out = sorted(set(crops.patients[crops.tested].tolist()))
    else:
        held_out = folds(crops)[0]
    return federation(crops, held_out=held_out, view="windows" if crops.large else "whole")


def federation(crops: CropSet, *, held_out: Collection[str], view: View) -> Task:
    """The task with these patients held out; the others are dealt to the teacher and to the hospitals.

    Raises:
        TaskError: too few patients are left for the teacher and for each hospital.
        SplitError: a patient would be on two sides.
    """
    left = dealt_order(crops, [name for name in crops.patient_names() if name not in held_out])
    teachers = left[::TEACHER_EVERY]
    hospitals = hospitals_of([name for name in left if name not in teachers])
    if not teachers or not all(hospitals.values()):
        raise TaskError(
            f"task mammography-crops: {len(left)} patients to train on and {len(held_out)} to test on are too few for "
            f"a teacher, {len(HOSPITAL_SHARES)} hospitals and a test"
        )
    sides = {"held-out": list(held_out), "teacher's": teachers} | {f"{name}'s": own for name, own in hospitals.items()}
    check_split({name: np.array(own, dtype=np.str_) for name, own in sides.items()})
    classes = TWO_CLASSES if crops.large else THREE_CLASSES
    student, teacher = (WINDOW_STUDENT, WINDOW_TEACHER) if view == "windows" else (CROP_STUDENT, CROP_TEACHER)
    return Task(
        name="mammography-crops",
        objective=classification(classes, main="auc" if crops.large else "accuracy"),
        student=lambda: CropClassifier(student, len(classes)),
        teacher=lambda: CropClassifier(teacher, len(classes)),
        device_data=lambda device: crops.to_train(hospitals[device], view),
        teacher_data=lambda: crops.to_train(teachers, view),
        held_out=lambda: crops.of(held_out, view),
        devices=tuple(hospitals),
        recipe=RECIPE,
    )


def dealt_order(crops: CropSet, patients: Sequence[str]) -> list[str]:
    """The patients, those with the worst finding first, otherwise by the hash of their names: dealing them out in this
    order gives everyone the same shares of findings, on every machine.
    """
    worst = {name: int(crops.labels[crops.patients == name].max()) for name in patients}
    return sorted(patients, key=lambda name: (-worst[name], hashlib.sha256(name.encode()).hexdigest()))


def folds(crops: CropSet, count: int = FOLDS) -> list[list[str]]:
    """All patients in `count` groups with about the same shares of findings."""
    order = dealt_order(crops, crops.patient_names())
    return [order[start::count] for start in range(count)]


def hospitals_of(patients: Sequence[str]) -> dict[str, list[str]]:
    """Patients by hospital, dealt in their order to whoever is furthest below its share."""
    hospitals: dict[str, list[str]] = {f"hospital-{number + 1}": [] for number in range(len(HOSPITAL_SHARES))}
    for count, patient in enumerate(patients, start=1):
        names = zip(hospitals, HOSPITAL_SHARES, strict=True)
        _missing, neediest = max((share * count - len(hospitals[name]), name) for name, share in names)
        hospitals[neediest].append(patient)
    return hospitals


def examples_of(crops: CropSet, view: View) -> Examples:
    """Crops as examples, inputs (example, 1, side, side).

    whole: each crop is one. windows: of a large crop `WINDOW_STARTS` in both directions give 9, one after the other.
    """
    if not crops.large:
        return Examples.of(crops.pixels[:, None], crops.labels, crops.patients, sources=crops.films)
    corners = [(0, 0)] if view == "whole" else [(down, right) for down in WINDOW_STARTS for right in WINDOW_STARTS]
    side = LARGE_SIDE if view == "whole" else WINDOW_SIDE
    parts = [reduced(crops.pixels[:, down : down + side, right : right + side]) for down, right in corners]
    pixels = np.stack(parts, axis=1).reshape(-1, 1, side // REDUCTION, side // REDUCTION)
    labels, patients, films = (np.repeat(rows, len(corners)) for rows in (crops.labels, crops.patients, crops.films))
    return Examples.of(pixels, np.minimum(labels, 1), patients, sources=films)


def reduced(pixels: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """Crops (crop, side, side) averaged over squares of `REDUCTION` by `REDUCTION` pixels."""
    count, side = len(pixels), pixels.shape[-1] // REDUCTION
    squares = pixels.reshape(count, side, REDUCTION, side, REDUCTION)
    return np.asarray(squares.mean(axis=(2, 4)), dtype=np.float32)


def crops_of_folder(folder: Path) -> CropSet:
    """The crops in the file of a folder.

    Raises:
        TaskError: the folder has neither file or both, or the file has not the form above.
        SplitError: a patient is marked both "train" and "test".
    """
    found = [folder / name for name in (SMALL_FILE, LARGE_FILE) if (folder / name).is_file()]
    if len(found) != 1:
        raise TaskError(
            f"task mammography-crops: expected {SMALL_FILE} or {LARGE_FILE} in {folder}, but it has "
            f"{'both' if found else 'neither'}; give --data the folder of one"
        )
    return read_file(found[0])


@lru_cache(maxsize=4)
def read_file(path: Path) -> CropSet:
    """The checked content of one file.

    Raises:
        TaskError: a field is missing, or has a wrong shape or range.
        SplitError: a patient is marked both "train" and "test".
    """
    large = path.name == LARGE_FILE
    image_field, label_field, side = ("patches", "label", LARGE_SIDE) if large else ("images", "severity", SMALL_SIDE)
    needed = (image_field, label_field, "patient", "image_id")
    fields = read_fields(path, needed, optional=("split",))
    images, severity, patients, films = (fields[name] for name in needed)
    rows = len(images) if images.ndim else 0
    if images.shape != (rows, side, side) or images.dtype != np.uint8 or rows == 0:
        raise TaskError(
            f"{path}: field {image_field} is {images.dtype} {images.shape}, not uint8 (crop, {side}, {side})"
        )
    for name, field in fields.items():
        if name != image_field and field.shape != (rows,):
            raise TaskError(f"{path}: field {name} has shape {field.shape}, not ({rows},)")
    known = [0, 1, 2] if large else ["A", "B", "M"]
    if not np.isin(severity, known).all():
        raise TaskError(f"{path}: field {label_field} holds other values than {known}")
    names = patients.astype(np.str_)
    tested = ~is_training(path, fields) if "split" in fields else None
    if tested is not None:
        check_split({"train": names[~tested], "test": names[tested]})
    return CropSet(
        pixels=images.astype(np.float32) / np.float32(255),
        labels=np.searchsorted(known, severity).astype(np.int64),
        patients=names,
        films=films.astype(np.str_),
        tested=tested,
    )


def further_patients(folder: Path, *, known: Path) -> Examples:
    """All crops in `folder`, whatever its split, in the view that the task trains on.

    Raises:
        TaskError: the data is missing or invalid, or of the other form.
        SplitError: one of these patients is in the data of folder `known`.
    """
    further, own = crops_of_folder(folder), crops_of_folder(known)
    if further.large != own.large:
        raise TaskError(f"{folder} and {known} have crops of different size")
    check_split({"known": own.patients, "further test": further.patients})
    return examples_of(further, "windows" if own.large else "whole")
