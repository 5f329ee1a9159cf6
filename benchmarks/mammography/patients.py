"""Splits by patient: five folds, and further patients with models trained on all of ours."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from benchmarks.mammography.arms import ARMS, FEDERATED, LOCAL, Probabilities, probabilities_of_arms
from benchmarks.mammography.scores import class_scores, ranking_difference, ranking_score
from device_client.task import Examples, Task
from device_client.tasks.mammography.crops import (
    LARGE_SIDE,
    WINDOW_SIDE,
    CropSet,
    View,
    examples_of,
    federation,
    folds,
    read_file,
    reduced,
)

PASSES: Mapping[str, float] = {"small": 60.0, "whole": 120.0, "windows": 150.0}
"""Over a device's data; one of windows shows one random window of each crop."""
RANDOM_WINDOWS = 4
"""Of each test crop; their places are drawn once, for all models."""


@dataclass(frozen=True)
class FoldSpec:
    """What one process measures."""

    path: Path
    view: View
    fold: int | None
    """None: train on all patients, test on those of `further`."""
    further: Path | None
    seed: int
    effort: float
    arms: tuple[str, ...] = ARMS


@dataclass(frozen=True)
class Measured:
    """What each method's models say of the tested crops."""

    probabilities: Mapping[str, Mapping[str, Probabilities]]
    """By method and by how crops are shown."""
    labels: npt.NDArray[np.int64]
    """(crop,), of three classes."""
    patients: npt.NDArray[np.str_]


def measure_fold(asked: FoldSpec) -> Measured:
    """Trains without the tested patients, and asks all models about them."""
    known = read_file(asked.path)
    if asked.fold is None:
        assert asked.further is not None
        held_out, crops = [], read_file(asked.further)
    else:
        held_out = folds(known)[asked.fold]
        crops = known.only(held_out)
    task = _with_effort(federation(known, held_out=held_out, view=asked.view), asked)
    kind = asked.view if known.large else "small"
    found = probabilities_of_arms(
        task, _shown(crops, asked.view), passes=PASSES[kind] * asked.effort, seed=asked.seed, arms=asked.arms
    )
    return Measured(found, crops.labels, crops.patients)


def _with_effort(task: Task, asked: FoldSpec) -> Task:
    """The task whose teacher passes over its data as often as is asked for."""
    epochs = max(1, round(task.recipe.teacher_epochs * asked.effort))
    return replace(task, recipe=replace(task.recipe, teacher_epochs=epochs))


def _shown(crops: CropSet, view: View) -> dict[str, Examples]:
    if view == "whole":
        return {"whole": examples_of(crops, view)}
    return {"random": random_windows(crops), "averaged": examples_of(crops, view)}


def random_windows(crops: CropSet) -> Examples:
    """`RANDOM_WINDOWS` windows of each large crop at any place, those of a crop one after the other."""
    random = np.random.default_rng(0)
    corners = random.integers(0, LARGE_SIDE - WINDOW_SIDE + 1, (len(crops.labels), RANDOM_WINDOWS, 2))
    windows = [
        crops.pixels[crop, down : down + WINDOW_SIDE, right : right + WINDOW_SIDE]
        for crop, of_crop in enumerate(corners.tolist())
        for down, right in of_crop
    ]
    labels, patients = (np.repeat(rows, RANDOM_WINDOWS) for rows in (crops.labels, crops.patients))
    return Examples.of(reduced(np.stack(windows))[:, None], np.minimum(labels, 1), patients)


def lesion_figures(measured: Sequence[Sequence[Measured]], how: str) -> dict[str, Any]:
    """AUC of lesion against normal by method, with the differences to the federation; `measured` by seed and fold.

    how: "whole"; "random", each window by itself; or "averaged", the mean over the fixed windows of a crop.
    """
    labels, patients = _joined(measured[0])
    asked = _scores(measured, ARMS[0], how)[0].size // len(labels)
    positive, persons = np.repeat(labels > 0, asked), np.repeat(patients, asked)
    models = {arm: _scores(measured, arm, how) for arm in ARMS}
    return {
        "auc": {arm: ranking_score(each, positive, persons) for arm, each in models.items()},
        "federated_minus": {
            arm: ranking_difference(models[FEDERATED], each, positive, persons)
            for arm, each in models.items()
            if arm != FEDERATED
        },
    }


def class_figures(measured: Sequence[Sequence[Measured]]) -> dict[str, Any]:
    """Of three classes: accuracy, balanced accuracy, and the AUC of malignant against benign among the lesions."""
    labels, patients = _joined(measured[0])
    found = [
        np.concatenate([fold.probabilities[FEDERATED]["whole"][0] for fold in of_seed]) for of_seed in measured
    ]  # (crop, class) by seed
    lesion = labels > 0
    return class_scores([each.argmax(axis=1) for each in found], labels, patients) | {
        "auc_malignant_against_benign": ranking_score(
            [(each[:, 2] / (each[:, 1] + each[:, 2]))[lesion] for each in found], labels[lesion] > 1, patients[lesion]
        )
    }


def _joined(of_seed: Sequence[Measured]) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.str_]]:
    return np.concatenate([fold.labels for fold in of_seed]), np.concatenate([fold.patients for fold in of_seed])


def _scores(measured: Sequence[Sequence[Measured]], arm: str, how: str) -> list[npt.NDArray[np.float64]]:
    """The probability of a lesion (example,) by seed and model; hospital n of each fold is taken for one model."""
    models = []
    for of_seed in measured:
        shown = [fold.probabilities[arm][how][:, :, 1] for fold in of_seed]  # (model, example) by fold
        if how == "averaged":
            shown = [each.reshape(len(each), -1, 9).mean(axis=2) for each in shown]
        count = len(shown[0]) if arm == LOCAL else 1
        models += [np.concatenate([each[model] for each in shown]) for model in range(count)]
    return models
