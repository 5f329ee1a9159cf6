"""Kinds of heartbeats on unseen persons: recall and F1 of each class, with intervals by patient.

    federated   asynchronous, in virtual time, with the default rule, as in `learning`
    pooled      the devices' data in one place, with as many epochs: the ceiling
    alone       each device with its own data; the mean over the devices

Beats of one patient are alike, so an interval is that of the patients: they are drawn with replacement, all their beats
at once, and the metrics of all seeds computed anew. All is given a second time without certain persons (record 232 has
nearly all supraventricular beats of the test persons).
"""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from benchmarks.jobs import Job, run_jobs
from benchmarks.learning import fleet, holding_out, plan_of, tasks_and_further
from benchmarks.settings import EcgSettings
from device_client.learning.asyncfedkd import train_alone, train_teacher
from device_client.learning.parameters import layout_of, load_vector, vector_of
from device_client.learning.seeding import seeded
from device_client.scores.intervals import drawn_counts, with_interval
from device_client.task import Examples, TaskError, outputs_of, pooled, scheduled
from device_client.tasks.ecg import MEASURED
from simulators.world.federation import run_asynchronous
from simulators.world.local_trainers import AsyncFedKDTrainer

ARMS = ("federated", "pooled", "alone")
_BATCH = 1_024
Confusions = npt.NDArray[np.int64]
"""(model, patient, true class, predicted class)."""


@dataclass(frozen=True)
class _SeedSpec:
    """What one process measures."""

    settings: EcgSettings
    seed: int
    arms: tuple[str, ...]


def _measure(asked: _SeedSpec) -> dict[str, dict[str, Confusions]]:
    """The confusions of each method's models, by the name of the test data and by method."""
    torch.set_num_threads(1)
    settings, seed = asked.settings, asked.seed
    task, further = tasks_and_further("ecg", settings.data, settings.test_data)
    task = holding_out(task, settings.hold_out)
    plan = plan_of(task, settings.versions)
    task = scheduled(task, plan.versions)
    assert task.teacher is not None
    assert task.teacher_data is not None
    with seeded(seed):
        student, teacher = task.student(), task.teacher()
    train_teacher(teacher, task.teacher_data(), task.recipe, objective=task.objective, seed=seed)
    layout = layout_of(student)
    initial = vector_of(student, layout)
    data = {device: task.examples_of(device) for device in task.devices}
    tested = {"test": task.held_out()} | ({} if further is None else {"further": further})
    classes = len(task.labels)

    def counted() -> dict[str, Confusions]:
        return {who: confusion_by_person(student, examples, classes) for who, examples in tested.items()}

    def alone(examples: Examples) -> dict[str, Confusions]:
        load_vector(student, layout, initial)
        train_alone(
            student, teacher, examples, task.recipe, objective=task.objective, epochs=plan.epochs(task), seed=seed
        )
        return counted()

    models: dict[str, list[dict[str, Confusions]]] = {}
    if "federated" in asked.arms:
        trainer = AsyncFedKDTrainer(task, data, teacher, layout, seed=seed)
        state = run_asynchronous(
            fleet(task.devices, seed), trainer, initial, layout, rules=plan.rules, versions=plan.versions
        )
        load_vector(student, layout, state.weights)
        models["federated"] = [counted()]
    if "pooled" in asked.arms:
        models["pooled"] = [alone(pooled(list(data.values())))]
    if "alone" in asked.arms:
        models["alone"] = [alone(examples) for examples in data.values()]
    return {who: {arm: np.stack([one[who] for one in each]) for arm, each in models.items()} for who in tested}


def confusion_by_person(model: nn.Module, examples: Examples, classes: int) -> Confusions:
    """(patient, true class, predicted class), in the order of `patients_of`."""
    assert examples.persons is not None
    model.eval()
    with torch.no_grad():
        parts = [
            outputs_of(model, examples.batch(slice(start, start + _BATCH))).argmax(dim=1)
            for start in range(0, len(examples), _BATCH)
        ]
    _names, patient = np.unique(examples.persons, return_inverse=True)
    counts = np.zeros((int(patient.max()) + 1, classes, classes), dtype=np.int64)
    np.add.at(counts, (patient, examples.labels.numpy(), torch.cat(parts).numpy()), 1)
    return counts


def patients_of(examples: Examples) -> list[str]:
    """The patients, in the order of `confusion_by_person`."""
    assert examples.persons is not None
    return [str(person) for person in np.unique(examples.persons)]


def metrics_of(confusion: npt.NDArray[np.number], labels: Sequence[str]) -> dict[str, npt.NDArray[np.float64]]:
    """Metrics by name of confusions (…, true, predicted); NaN for a class without beats."""
    counts = confusion.astype(np.float64)
    correct, actual, claimed = np.diagonal(counts, axis1=-2, axis2=-1), counts.sum(-1), counts.sum(-2)
    with np.errstate(invalid="ignore", divide="ignore"):
        recall = correct / actual
        f1 = np.where(actual > 0, 2 * correct / (actual + claimed), np.nan)
        accuracy = correct.sum(-1) / actual.sum(-1)
    measured = [at for at, name in enumerate(labels) if name in MEASURED]
    return (
        {"accuracy": accuracy, "macro_f1": f1[..., measured].mean(-1)}
        | {f"recall_{name}": recall[..., at] for at, name in enumerate(labels)}
        | {f"f1_{name}": f1[..., at] for at, name in enumerate(labels)}
    )


def with_intervals(confusions: Confusions, labels: Sequence[str]) -> dict[str, dict[str, float]]:
    """Each metric: its mean over the models, and the 95 % interval over resampled patients."""
    drawn = drawn_counts(np.moveaxis(confusions, 1, 0))  # (draw, model, true, predicted)
    whole, resampled = metrics_of(confusions.sum(axis=1), labels), metrics_of(drawn, labels)
    values = {}
    for name, each in whole.items():
        means = resampled[name].mean(axis=1)  # NaN where no patient with this class was drawn
        if np.isfinite(each).all() and np.isfinite(means).any():
            values[name] = with_interval(float(each.mean()), means)
    return values


def run(settings: EcgSettings) -> dict[str, Any]:
    """Measures; returns the figures."""
    started = time.monotonic()
    arms = tuple(dict.fromkeys(settings.arms)) or ARMS
    unknown = [arm for arm in arms if arm not in ARMS]
    if unknown:
        raise TaskError(f"--arms: {', '.join(unknown)}; known: {', '.join(ARMS)}")
    task, further = tasks_and_further("ecg", settings.data, settings.test_data)
    task = holding_out(task, settings.hold_out)
    plan = plan_of(task, settings.versions)
    jobs = {
        ("ecg", seed): Job(name=f"seed {seed}", run=_measure, argument=_SeedSpec(settings, seed, arms))
        for seed in range(1, settings.seeds + 1)
    }
    measured = list(run_jobs(jobs, settings.processes if settings.seeds > 1 else 1).values())
    tested = {"test": task.held_out()} | ({} if further is None else {"further": further})
    return {
        "task": task.name,
        "devices": len(task.devices),
        "hold_out": settings.hold_out,
        "seeds": settings.seeds,
        "versions": plan.versions,
        "updates_per_version": plan.rules.updates_per_version,
        "epochs": plan.epochs(task),
        "student_parameters": sum(parameter.numel() for parameter in task.student().parameters()),
        "labels": task.labels,
        "tested": {
            who: _tested({arm: [one[who][arm] for one in measured] for arm in arms}, examples, task.labels, settings)
            for who, examples in tested.items()
        },
        "seconds": round(time.monotonic() - started, 1),
    }


def _tested(
    measured: Mapping[str, Sequence[Confusions]], examples: Examples, labels: Sequence[str], settings: EcgSettings
) -> list[dict[str, Any]]:
    """The figures of one set of test persons, and those without some of them."""
    patients = patients_of(examples)
    left_out = [person for person in settings.without if person in patients]
    parts = []
    for without in [[], left_out] if left_out and len(left_out) < len(patients) else [[]]:
        kept = [at for at, person in enumerate(patients) if person not in without]
        confusions = {arm: np.concatenate(each)[:, kept] for arm, each in measured.items()}
        beats = next(iter(confusions.values()))[0].sum(axis=(0, 2))
        parts.append(
            {
                "without": without,
                "patients": len(kept),
                "beats": dict(zip(labels, beats.tolist(), strict=True)),
                "arms": {arm: with_intervals(each, labels) for arm, each in confusions.items()},
            }
        )
    return parts
