"""Accuracy of a student with BatchNorm, federated in virtual time, beside pooled training and beside GroupNorm.

    pooled      all data in one place, BatchNorm
    merged      federated, BatchNorm; the running statistics are merged (the default)
    home        federated, BatchNorm; each device keeps its own, and the evaluator estimates them from its inputs
    groupnorm   federated, GroupNorm, which has no running statistics

K = 3 of 10 devices, η = 1, one device 10 times slower, one often offline, byte budgets as by default. Without `--task`,
ten machines hear their own vibration, as in `examples/own_task.py`: each turns at a speed of its own, so that its
activations have other means and variances. With it, the normalising layers of the task's student are replaced.
"""

import math
import time
import zlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from aggregator.model_line import DELTA_BYTES
from benchmarks.jobs import Job, run_jobs
from benchmarks.learning import fleet
from benchmarks.settings import BatchNormSettings
from device_client.learning.asyncfedkd import train_alone
from device_client.learning.evaluation import evaluate
from device_client.learning.parameters import layout_of, vector_of
from device_client.learning.seeding import seeded
from device_client.learning.statistics.estimation import load_model
from device_client.task import Examples, Recipe, Task, TaskError, pooled, scheduled
from device_client.tasks.loading import load_task
from simulators.world.federation import run_asynchronous
from simulators.world.local_trainers import AsyncFedKDTrainer
from simulators.world.server import Rules, SimulationState
from wire_contract.compression.rate_control import CompressionTarget
from wire_contract.encoding.statistics import VARIANCE_SHARE_MIN

ARMS = ("pooled", "merged", "home", "groupnorm")
_DEVICES, _UPDATES_PER_VERSION = 10, 3
_LAST = 5
"""Versions at the end whose mean accuracy is reported, so that one lucky version does not decide."""
_GROUPS = 4


@dataclass(frozen=True)
class _Asked:
    """What one process measures."""

    task: str | None
    data: Path | None
    arm: str
    seed: int
    versions: int
    bytes_max: int | None


def run(settings: BatchNormSettings) -> dict[str, Any]:
    """Measures; returns the figures: the mean over the seeds, and each seed's."""
    started = time.monotonic()
    seeds = list(range(1, settings.seeds + 1))
    asked = {
        (arm, seed): Job(
            name=f"{arm}, seed {seed}",
            run=measure,
            argument=_Asked(settings.task, settings.data, arm, seed, settings.versions, settings.update_bytes),
        )
        for arm in ARMS
        for seed in seeds
    }
    measured = run_jobs(asked, settings.processes)
    return {
        "task": settings.task or "machines",
        "seeds": seeds,
        "versions": settings.versions,
        "update_bytes": settings.update_bytes,
        "arms": {arm: [measured[arm, seed] for seed in seeds] for arm in ARMS},
        "seconds": round(time.monotonic() - started, 1),
    }


def table(figures: dict[str, Any]) -> str:
    """The figures as text."""
    seeds_wide = 8 * len(figures["seeds"])
    plan = (
        f"K = {_UPDATES_PER_VERSION}, η = 1, {figures['versions']} versions, {figures['update_bytes']} bytes an update"
    )
    head = f"{'':<10} {'accuracy':>8} {'each seed':>{seeds_wide}}  versions not finite, channels at the floor"
    rows = [f"{figures['task']}: {plan}", "", head]
    for arm, seeds in figures["arms"].items():
        values = [one["accuracy"] for one in seeds]
        each = "".join(f"{value:>8.3f}" for value in values)
        not_finite, floored = (sum(one.get(name, 0) for one in seeds) for name in ("not_finite", "floored"))
        rows.append(f"{arm:<10} {np.mean(values):>8.3f} {each}  {not_finite:>19}, {floored}")
    return "\n".join(rows)


def measure(asked: _Asked) -> dict[str, Any]:
    """One arm with one seed."""
    torch.set_num_threads(1)
    task = machines() if asked.task is None else _chosen(asked.task, asked.data)
    versions = asked.versions
    task = with_norm(scheduled(task, versions), "group" if asked.arm == "groupnorm" else "batch")
    task = replace(task, recipe=replace(task.recipe, statistics="home" if asked.arm == "home" else "merged", alpha=0.0))
    data, held_out = {device: task.examples_of(device) for device in task.devices}, task.held_out()
    with seeded(asked.seed):
        student = task.student()
    if asked.arm == "pooled":
        epochs = max(1, round(versions * _UPDATES_PER_VERSION * task.recipe.epochs / len(data)))
        everything = pooled([one for one in data.values() if isinstance(one, Examples)])
        train_alone(student, None, everything, task.recipe, objective=task.objective, epochs=epochs, seed=asked.seed)
        return {"accuracy": evaluate(student, held_out, task)[task.objective.main]}
    layout = layout_of(student, task.recipe.statistics)
    initial, seen = vector_of(student, layout), _Seen()

    def observe(state: SimulationState) -> None:
        seen.look(state, layout_has_statistics=layout.has_statistics, moments=layout.moments(state.weights))
        load_model(student, layout, state.weights, held_out, task.objective)
        if state.version > versions - _LAST:
            seen.values.append(evaluate(student, held_out, task)[task.objective.main])
        elif not all(bool(tensor.isfinite().all()) for tensor in student.state_dict().values()):
            seen.not_finite += 1

    target = None if asked.bytes_max is None else CompressionTarget(bytes_max=asked.bytes_max)
    state = run_asynchronous(
        fleet(tuple(data), asked.seed),
        AsyncFedKDTrainer(task, data, None, layout, seed=asked.seed),
        initial,
        layout,
        rules=Rules(
            updates_per_version=_UPDATES_PER_VERSION,
            server_rate=1.0,
            update_encoding=target or "float32",
            delta_encoding=CompressionTarget(bytes_max=DELTA_BYTES),
        ),
        versions=versions,
        observe=observe,
    )
    return {
        "accuracy": float(np.mean(seen.values)),
        "not_finite": seen.not_finite,
        "floored": seen.floored,
        "staleness_max": max(state.staleness),
        "bytes_of_update": sum(state.bytes_up.values()) / len(state.staleness),
    }


@dataclass
class _Seen:
    """What was found in the versions of one run."""

    values: list[float]
    not_finite: int = 0
    floored: int = 0
    """Channels whose second moment was too small, summed over the versions."""

    def __init__(self) -> None:
        self.values = []

    def look(self, state: SimulationState, *, layout_has_statistics: bool, moments: tuple[Any, Any]) -> None:
        self.not_finite += not np.isfinite(state.weights).all()
        if layout_has_statistics:
            squares = np.square(moments[0].astype(np.float64))
            self.floored += int((moments[1] - squares < VARIANCE_SHARE_MIN * squares).sum())


def machines() -> Task:
    """Ten machines whose vibration tells a sound bearing from a worn one, each at a speed of its own."""
    return Task(
        name="machines",
        classes=("sound", "worn"),
        student=lambda: _network(16),
        device_data=_listen,
        devices=tuple(f"machine-{number}" for number in range(1, _DEVICES + 1)),
        held_out=lambda: pooled([_listen(f"new machine {number}", 200) for number in range(1, 5)]),
        recipe=Recipe(epochs=2, learning_rate=5e-3, schedule="cosine"),
    )


def _network(width: int) -> nn.Module:
    return nn.Sequential(nn.Linear(32, width), nn.BatchNorm1d(width), nn.ReLU(), nn.Linear(width, 2))


def _listen(machine: str, examples: int = 120) -> Examples:
    """Spectra (example, 32) of one machine, which turns at a speed of its own."""
    random = np.random.default_rng(zlib.crc32(machine.encode()))
    worn, moments = random.integers(0, 2, examples), np.arange(64) + random.uniform(0, 64, (examples, 1))
    turning, knocking = np.sin(moments * random.uniform(0.4, 0.7)), np.sin(moments * random.uniform(2.0, 2.2))
    sound = turning + 0.7 * worn[:, None] * knocking + random.normal(0, 0.5, moments.shape)
    spectra = np.log1p(np.abs(np.fft.rfft(sound)))[:, 1:]
    return Examples.of(spectra, worn, [machine] * examples)


def _chosen(spec: str, data: Path | None) -> Task:
    task = load_task(spec, data=data)
    if len(task.devices) < _UPDATES_PER_VERSION:
        raise TaskError(f"task {task.name} lists {len(task.devices)} devices, and {_UPDATES_PER_VERSION} are needed")
    return task


def with_norm(task: Task, kind: str) -> Task:
    """The task with BatchNorm (kind batch) or GroupNorm (kind group) in place of its student's normalising layers."""
    example = task.held_out()
    dimensions = example.inputs.ndim if isinstance(example, Examples) else 2
    batch_norm = nn.BatchNorm2d if dimensions == 4 else nn.BatchNorm1d  # noqa: PLR2004 — (batch, channel, height, width)
    make: Callable[[int], nn.Module] = (
        batch_norm if kind == "batch" else lambda channels: nn.GroupNorm(math.gcd(_GROUPS, channels), channels)
    )
    return replace(task, student=lambda: _replaced(task.student(), make))


def _replaced(module: nn.Module, make: Callable[[int], nn.Module]) -> nn.Module:
    for name, part in list(module.named_children()):
        if isinstance(part, _BatchNorm | nn.GroupNorm):
            channels = part.num_features if isinstance(part, _BatchNorm) else part.num_channels
            setattr(module, name, make(channels))
        else:
            _replaced(part, make)
    return module
