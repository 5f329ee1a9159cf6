"""The protocol of the public code: augmented crops split by row, so copies of nearly every test crop are trained on.

This is the only place in the project with such a split. It is measured to show what its figures mean, and each of them
is marked as leaky.
"""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from benchmarks.mammography.arms import FEDERATED, probabilities_of_arms
from device_client.task import Examples, Task
from device_client.tasks.mammography.crop_network import CROP_STUDENT, CropAugmentation, CropClassifier
from device_client.tasks.mammography.crops import THREE_CLASSES, CropSet, federation, folds, read_file

LEAKY = "LEAKY: rows of the same film on both sides; says nothing about patients"
DEVICES = 4
TEST_SHARE = 0.2
"""Chosen: the usual share; a fifth of the training rows pre-trains the teacher."""
PASSES = {"rows_all": 150.0, "rows_calc": 150.0}
TEACHER_EPOCHS = 60
SYMMETRIES = CropAugmentation(shift_max=0, gain_deviation=0.0, offset_deviation=0.0)
STUDENT = replace(CROP_STUDENT, dropout=0.0)
"""Most tested crops are in the training data, so nothing is gained by not remembering them."""
Rows = npt.NDArray[np.int64]


def images_of_rows(path: Path, name: str) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.int64]]:
    """The augmented crops (row, 48, 48) of `rows_all` or `rows_calc`, and which crop each was made of."""
    crops = read_file(path)
    with np.load(path, allow_pickle=False) as archive:
        rows, turns, mirrored = archive[name], archive["variant_quarter_turns"], archive["variant_mirrored"]
    images = [
        np.rot90(crops.pixels[image][:, ::-1] if mirrored[variant] else crops.pixels[image], int(turns[variant]))
        for image, variant in rows.tolist()
    ]
    return np.stack(images), rows[:, 0].astype(np.int64)


def measure_rows(path: Path, name: str, *, effort: float, seed: int) -> dict[str, float]:
    """Accuracy of a split by row: the federated student, exact look-up, 1-nearest-neighbour and the usual class."""
    crops = read_file(path)
    images, made_of = images_of_rows(path, name)
    labels = crops.labels[made_of]
    order = np.random.default_rng(seed).permutation(len(images))
    test, training = np.split(order, [round(TEST_SHARE * len(order))])
    task = _row_task(crops, images, labels, training, epochs=max(1, round(TEACHER_EPOCHS * effort)))
    tested = {"test": Examples.of(images[test][:, None], labels[test])}
    found = probabilities_of_arms(task, tested, passes=PASSES[name] * effort, seed=seed, arms=(FEDERATED,))
    usual = int(np.bincount(labels[training]).argmax())
    predictions = {
        "federated": found[FEDERATED]["test"][0].argmax(axis=1),
        "exact_look_up": _looked_up(images[training], labels[training], images[test], usual),
        "nearest_neighbour": _nearest(images[training], labels[training], images[test]),
        "majority": np.full(len(test), usual),
    }
    return {way: float((each == labels[test]).mean()) for way, each in predictions.items()}


def _row_task(crops: CropSet, images: npt.NDArray[np.float32], labels: Rows, training: Rows, *, epochs: int) -> Task:
    """The task with rows instead of patients on its devices; no examples know their persons, for there is no split."""
    parts = np.array_split(training, DEVICES + 1)
    own = {f"device-{number}": part for number, part in enumerate(parts[1:], start=1)}

    def examples(rows: Rows) -> Examples:
        return Examples.of(images[rows][:, None], labels[rows])

    honest = federation(crops, held_out=folds(crops)[0], view="whole")
    return replace(
        honest,
        devices=tuple(own),
        device_data=lambda device: examples(own[device]),
        teacher_data=lambda: examples(parts[0]),
        student=lambda: CropClassifier(STUDENT, len(THREE_CLASSES)),
        recipe=replace(
            honest.recipe,
            epochs=1,
            batch_size=16,
            learning_rate=3e-3,
            weight_decay=1e-4,
            alpha=0.1,
            task_loss="cross_entropy",
            augment=SYMMETRIES,
            teacher_epochs=epochs,
        ),
    )


def _looked_up(known: Any, labels: Rows, asked: Any, usual: int) -> Rows:
    table = dict(zip([_canonical(image) for image in known], labels.tolist(), strict=True))
    return np.array([table.get(_canonical(image), usual) for image in asked], dtype=np.int64)


def _canonical(image: npt.NDArray[np.float32]) -> bytes:
    """The same bytes for the 8 rotations and mirrors of an image."""
    return min(np.rot90(side, turn).tobytes() for side in (image, image[:, ::-1]) for turn in range(4))


def _nearest(known: Any, labels: Rows, asked: Any) -> Rows:
    flat, questions = known.reshape(len(known), -1), asked.reshape(len(asked), -1)
    distance = (flat**2).sum(axis=1) - 2 * questions @ flat.T  # (asked, known), without what is the same for a row
    return np.asarray(labels[distance.argmin(axis=1)], dtype=np.int64)


def majority_share(crops: CropSet) -> float:
    """The share of the most frequent of `THREE_CLASSES`."""
    return float(np.bincount(crops.labels, minlength=len(THREE_CLASSES)).max() / len(crops.labels))
