"""Task ecg: the kind of single heartbeats, from their shape and the intervals to their neighbours.

The data: MIT-BIH Arrhythmia Database (Moody and Mark 2001, doi 10.1109/51.932724; ODC-By 1.0), as the npz file that
`ecg_beats.py` describes or as WFDB records. Classes N S V F Q of ANSI/AAMI EC57.

The split is by person. Of those marked "train", every fifth pre-trains the teacher and each of the others is a device;
those marked "test" are held out. Most normal beats are left out of the data, so shares of classes are not those of a
population, and neither are accuracy and precision.
"""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from device_client.task import (
    Batch,
    Examples,
    Objective,
    Recipe,
    Task,
    TaskError,
    check_split,
    classification,
    logits_in,
    targets_of,
)
from device_client.task.metrics import Accuracy, ClassMetrics
from device_client.tasks.ecg_beats import CLASSES, FILE, beats_of_folder
from device_client.tasks.ecg_network import BEAT_STUDENT, BEAT_TEACHER, BeatAugmentation, BeatClassifier

TEACHER_EVERY = 5
"""Chosen, not measured: of the file's 22 training persons 5 for the teacher leave 17 devices."""
MEASURED = CLASSES[:3]
"""The main metric is the mean F1 of these: fusion beats (of two patients nearly alone) and unknown ones are too few to
be learned or measured."""
SHARES = (0.6, 0.08, 0.28, 0.035, 0.005)
"""Of N, S, V, F and Q among the beats of the training persons of the MIT-BIH file, rounded; Q, which hardly occurs, is
taken for more frequent."""
SHARES_BEATS = 8.0
"""Chosen, not measured: an eighth of a batch."""
RECIPE = Recipe(
    epochs=1,
    batch_size=64,
    learning_rate=8e-3,
    schedule="cosine",
    schedule_versions=64.0,
    alpha=0.5,
    temperature=2.0,
    augment=BeatAugmentation(),
    teacher_epochs=12,
)
"""Loss, alpha and passes: `docs/experiments.md`. No comparison is recorded of temperature and teacher_epochs."""


def task(data: Path | None) -> Task:
    """The task on the npz file or the WFDB records in folder `data`.

    Raises:
        TaskError: no folder was given, there is no data, or it has not the expected form.
        SplitError: a person is marked both "train" and "test".
    """
    if data is None:
        raise TaskError(
            f"task ecg needs a data folder: --data FOLDER with {FILE} or WFDB records (*.hea, *.dat, *.atr)"
        )
    beats = beats_of_folder(data)
    training, held_out = beats.persons(training=True), beats.persons(training=False)
    if len(training) <= TEACHER_EVERY or not held_out:
        raise TaskError(
            f"task ecg: {data} has {len(training)} persons to train on and {len(held_out)} to test on; it needs more "
            f"than {TEACHER_EVERY} to train on (every {TEACHER_EVERY}th is for the teacher), and one to test on"
        )
    teachers = training[::TEACHER_EVERY]
    devices = {f"person-{person}": person for person in training if person not in teachers}
    return Task(
        name="ecg",
        objective=objective(),
        student=lambda: BeatClassifier(BEAT_STUDENT, len(CLASSES)),
        teacher=lambda: BeatClassifier(BEAT_TEACHER, len(CLASSES)),
        device_data=lambda device: beats.of(devices[device]),
        teacher_data=lambda: beats.of(*teachers),
        held_out=lambda: beats.of(*held_out),
        devices=tuple(devices),
        recipe=RECIPE,
    )


def adjusted_cross_entropy(outputs: Any, batch: Batch) -> Tensor:
    """Cross-entropy of logits (batch, class) plus log(share of the class in the batch / share in `SHARES`).

    Most persons have no supraventricular beats at all. With plain cross-entropy their devices learn above all that this
    class does not exist, and the mean of many devices forgets it. Here a class that is missing from a batch is hardly
    pushed down, and the network learns what a beat looks like instead of whose it is. The share in a batch is counted
    with `SHARES_BEATS` further beats of the usual shares, so that it is never 0.

    Menon et al. 2021, "Long-tail learning via logit adjustment", arXiv:2007.07314; for federated learning Zhang et al.
    2022, "Federated learning with label distribution skew via logits calibration", arXiv:2209.00189.
    """
    logits, labels = logits_in(outputs), targets_of(batch)
    usual = torch.tensor(SHARES, dtype=logits.dtype, device=logits.device)
    counts = torch.bincount(labels, minlength=len(CLASSES)) + SHARES_BEATS * usual
    adjustment = torch.log(counts / (len(labels) + SHARES_BEATS) / usual)
    return cross_entropy(logits + adjustment, labels)


def objective() -> Objective:
    """Classification; the main metric is the mean F1 over N, S and V, and recall and F1 of each class are others."""
    return replace(
        classification(CLASSES),
        loss=adjusted_cross_entropy,
        with_label_loss=None,
        metrics=lambda: {
            "accuracy": Accuracy(),
            "classes": ClassMetrics(CLASSES, ("macro_f1", "recall", "f1"), mean_over=MEASURED),
        },
        main="macro_f1",
    )


def further_persons(folder: Path, *, known: Path) -> Examples:
    """All beats of the data in `folder`, whatever its split: persons to test on besides those in folder `known`.

    Raises:
        TaskError: the data is missing or invalid.
        SplitError: one of these persons is in the training data of the student or its teacher.
    """
    further, own = beats_of_folder(folder), beats_of_folder(known)
    assert further.examples.persons is not None
    check_split({"training": np.array(own.persons(training=True)), "further test": further.examples.persons})
    return further.examples
