"""The task's main metric on unseen persons, for four training methods and several seeds.

    federated     asynchronous, in virtual time: devices of different speed (one 10 times slower, one often offline),
                  default size of updates and deltas, the project's own merging
    sync_fedavg   all devices train each round on the same version, and the server waits for the slowest; float32
    centralised   pooled data: the ceiling
    local_mean    each device alone with its own data, mean over the devices: the floor

Initial weights, student, teacher, augmentation, optimiser, batch size and budget are the same for all: an update is
`recipe.epochs` passes over one device's data, so V versions of K updates by D devices are V · K · recipe.epochs / D
passes over all data, and the other three methods get this number of epochs.
The teacher is pre-trained on persons who are neither devices nor test persons. Seeds change the initial weights, the
teacher, shuffling, augmentation, and the speeds of the devices; the split into persons is fixed.
"""

import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from aggregator.model_line import DELTA_BYTES
from benchmarks.jobs import Job, run_jobs
from benchmarks.settings import LearningSettings
from device_client.learning.asyncfedkd import train_alone, train_teacher
from device_client.learning.evaluation import evaluate
from device_client.learning.parameters import layout_of, load_vector, vector_of
from device_client.learning.seeding import seed_of, seeded
from device_client.settings import UPDATE_BYTES
from device_client.task import Examples, Task, TaskError, pooled, scheduled
from device_client.tasks import ecg, har
from device_client.tasks.loading import load_task
from simulators.world.federation import VirtualDevice, run_asynchronous, run_synchronous
from simulators.world.local_trainers import AsyncFedKDTrainer
from simulators.world.server import Rules, unbounded
from wire_contract.compression.rate_control import CompressionTarget as ByteBudget
from wire_contract.layout import Vector

ARMS = ("federated", "centralised", "local_mean", "sync_fedavg")
SLOW_FACTOR = 10.0
"""Round time of the slow device, relative to the median: as in the demo, and what `ABSENCE_MAX` can still correct in
full."""
_DEVICES_MIN = 3
"""With two, K would be 1."""
SERVER_RATE = 1.0
"""η. With fewer devices in a version it would have to be smaller (`docs/experiments.md`)."""


@dataclass(frozen=True, kw_only=True)
class RunPlan:
    """Number of versions, and rules of merging and encoding."""

    versions: int
    rules: Rules

    def epochs(self, task: Task) -> int:
        """Passes over all data that the federation makes, rounded; the budget of the other methods."""
        updates = self.versions * self.rules.updates_per_version
        return max(1, round(updates * task.recipe.epochs / len(task.devices)))


PASSES: Mapping[str, int] = {"har": 120, "physiotherapy": 200, "ecg": 40, "mammography-crops": 30}
"""Passes of each device over its own data, by task; `_PASSES` for other tasks."""
_PASSES = 20
"""Chosen, not measured: a first look at a task of one's own takes minutes."""
FURTHER_PERSONS = {"har": har.further_persons, "ecg": ecg.further_persons}
"""Tasks whose data is a folder of the user's, so that another folder can have further test persons."""
UNCOMPRESSED = unbounded(Rules(update_encoding="float32", model_encoding="float32", error_feedback=False))
"""Rules of synchronous FedAvg as published: no compression, and no bounds on an update."""


def fleet(names: tuple[str, ...], seed: int) -> tuple[VirtualDevice, ...]:
    """Devices of different speed: one is 10 times slower than usual, another is offline a third of the time."""
    random = np.random.default_rng(seed_of(seed, len(names)))
    seconds = np.exp(random.normal(0.0, 0.4, len(names)))
    slow, absent = random.permutation(len(names))[:2] if len(names) > 1 else (0, -1)
    seconds[slow] = SLOW_FACTOR
    away = tuple((start, start + 5.0) for start in np.arange(5.0, 1000.0, 15.0).tolist())
    return tuple(
        VirtualDevice(name=name, round_seconds=float(seconds[at]), offline=away if at == absent else ())
        for at, name in enumerate(names)
    )


@dataclass(frozen=True)
class _SeedSpec:
    """What one process measures; plain values, because tasks contain functions and cannot be sent to a process."""

    task: str
    data: Path | None
    test_data: Path | None
    seed: int
    versions: int | None
    hold_out: tuple[str, ...]


def _measure(asked: _SeedSpec) -> dict[str, Any]:
    """All four methods for one seed: the main metric by method, on the held-out persons and on further ones."""
    torch.set_num_threads(1)
    task, further = tasks_and_further(asked.task, asked.data, asked.test_data)
    task = holding_out(task, asked.hold_out)
    plan = plan_of(task, asked.versions)
    task = scheduled(task, plan.versions)
    with seeded(asked.seed):
        student, teacher = task.student(), task.teacher() if task.teacher else None
    if teacher is not None:
        assert task.teacher_data is not None
        train_teacher(teacher, task.teacher_data(), task.recipe, objective=task.objective, seed=asked.seed)
    layout = layout_of(student)
    initial = vector_of(student, layout)
    data = {device: task.examples_of(device) for device in task.devices}
    tested = {"held_out": task.held_out()} | ({} if further is None else {"further": further})
    epochs = plan.epochs(task)

    def measured(model: nn.Module) -> dict[str, float]:
        return {who: evaluate(model, examples, task)[task.objective.main] for who, examples in tested.items()}

    def measured_of(weights: Vector) -> dict[str, float]:
        load_vector(student, layout, weights)
        return measured(student)

    def alone(examples: Examples) -> dict[str, float]:
        load_vector(student, layout, initial)
        train_alone(student, teacher, examples, task.recipe, objective=task.objective, epochs=epochs, seed=asked.seed)
        return measured(student)

    trainer = AsyncFedKDTrainer(task, data, teacher, layout, seed=asked.seed)
    state = run_asynchronous(
        fleet(task.devices, asked.seed), trainer, initial, layout, rules=plan.rules, versions=plan.versions
    )
    rounds = max(1, round(epochs / task.recipe.epochs))
    synchronous = run_synchronous(
        task.devices, trainer, initial, layout, rules=UNCOMPRESSED, rounds=rounds, versions=plan.versions
    )
    each = [alone(examples) for examples in data.values()]
    return {
        "federated": measured_of(state.weights),
        "sync_fedavg": measured_of(synchronous.weights),
        "centralised": alone(pooled(list(data.values()))),
        "local_mean": {who: float(np.mean([one[who] for one in each])) for who in tested},
        "teacher": {} if teacher is None else measured(teacher),
        "staleness_mean": float(np.mean(state.staleness)),
    }


def tasks_and_further(spec: str, data: Path | None, test_data: Path | None) -> tuple[Task, Examples | None]:
    """The task, and the further test persons of `--test-data`, if given.

    Raises:
        TaskError: the task has no devices or no further test data, or the data is invalid.
    """
    task = load_task(spec, data=data)
    if not task.devices:
        raise TaskError(f"task {task.name} lists no devices, and the simulation needs some")
    if test_data is None:
        return task, None
    if spec not in FURTHER_PERSONS or data is None:
        raise TaskError(
            f"--test-data works only with the tasks {' and '.join(FURTHER_PERSONS)}: others have a fixed set of persons"
        )
    return task, FURTHER_PERSONS[spec](test_data, known=data)


def holding_out(task: Task, names: tuple[str, ...]) -> Task:
    """The task without these devices, whose data replaces the test persons.

    Raises:
        TaskError: an unknown device, or too few devices are left.
    """
    unknown = [name for name in names if name not in task.devices]
    if unknown:
        raise TaskError(f"{', '.join(unknown)}: no device of task {task.name}, which has {', '.join(task.devices)}")
    left = tuple(name for name in task.devices if name not in names)
    if len(left) < _DEVICES_MIN:
        raise TaskError(f"at least {_DEVICES_MIN} devices must take part, but only {len(left)} would be left")
    if not names:
        return task
    return replace(task, devices=left, held_out=lambda: pooled([task.examples_of(name) for name in names]))


def plan_of(task: Task, versions: int | None) -> RunPlan:
    """The plan: `versions`, or as many as the task's passes make."""
    devices = len(task.devices)
    rules = Rules(
        updates_per_version=updates_per_version(devices),
        server_rate=SERVER_RATE,
        update_encoding=ByteBudget(bytes_max=UPDATE_BYTES),
        delta_encoding=ByteBudget(bytes_max=DELTA_BYTES),
    )
    passes = PASSES.get(task.name, _PASSES)
    own = max(1, round(passes * devices / rules.updates_per_version / task.recipe.epochs))
    return RunPlan(versions=own if versions is None else versions, rules=rules)


def updates_per_version(devices: int) -> int:
    """K: two thirds of the devices, so that a version waits neither for slow nor for offline ones."""
    return max(1, 2 * devices // 3)


def run(settings: LearningSettings) -> dict[str, Any]:
    """Measures; returns the figures: the mean over the seeds, and each seed's."""
    started = time.monotonic()
    task, further = tasks_and_further(settings.task, settings.data, settings.test_data)
    hold_out = tuple(dict.fromkeys(settings.hold_out))
    task = holding_out(task, hold_out)
    plan = plan_of(task, settings.versions)
    asked = [
        _SeedSpec(settings.task, settings.data, settings.test_data, seed, settings.versions, hold_out)
        for seed in range(1, settings.seeds + 1)
    ]
    measured = list(
        run_jobs(
            {("all four ways", one.seed): Job(name=f"seed {one.seed}", run=_measure, argument=one) for one in asked},
            settings.processes if len(asked) > 1 else 1,
        ).values()
    )
    parameters = {
        name: sum(p.numel() for p in network().parameters()) if network is not None else 0
        for name, network in (("student_parameters", task.student), ("teacher_parameters", task.teacher))
    }
    figures: dict[str, Any] = {
        "task": task.name,
        "metric": task.objective.main,
        "higher_is_better": task.objective.higher_is_better,
        "devices": len(task.devices),
        "hold_out": hold_out,
        **_means(measured, "held_out"),
        **parameters,
        "versions": plan.versions,
        "updates_per_version": plan.rules.updates_per_version,
        "server_rate": plan.rules.server_rate,
        "epochs": plan.epochs(task),
        "staleness_mean": float(np.mean([one["staleness_mean"] for one in measured])),
        "seeds": [one.seed for one in asked],
        "examples_held_out": len(task.held_out()),
    }
    if further is not None:
        assert further.persons is not None
        figures["further"] = {
            **_means(measured, "further"),
            **parameters,
            "persons": len(set(further.persons.tolist())),
            "examples": len(further),
        }
    figures["seconds"] = round(time.monotonic() - started, 1)
    return figures


def _means(measured: list[dict[str, Any]], who: str) -> dict[str, Any]:
    per_seed = {arm: [one[arm][who] for one in measured] for arm in ARMS}
    if who in measured[0]["teacher"]:
        per_seed["teacher"] = [one["teacher"][who] for one in measured]
    return {**{arm: float(np.mean(values)) for arm, values in per_seed.items()}, "per_seed": per_seed}


def table(figures: dict[str, Any]) -> str:
    """The figures as text."""
    budget = (
        f"{figures['task']}: {figures['devices']} devices, {figures['versions']} versions of "
        f"{figures['updates_per_version']} updates = {figures['epochs']} epochs over the data for each method; "
        f"student {figures['student_parameters']:,} and teacher {figures['teacher_parameters']:,} parameters; "
        f"{figures['seconds']} s"
    )
    rows = [budget]
    tested = "persons held out" if figures["hold_out"] else "test persons"
    for title, part in ((tested, figures), ("further persons", figures.get("further"))):
        if part is None:
            continue
        heading = f"{figures['metric']} on the {title}"
        rows.append(f"\n{heading:34} mean   each seed")
        for arm, values in part["per_seed"].items():
            rows.append(f"  {arm:32} {part[arm]:.3f}   {' '.join(f'{value:.3f}' for value in values)}")
    return "\n".join(rows)
