"""What can one hostile device do, and what do the bounds against it cost when there is none?

The virtual world of `benchmarks learning`, merged with the aggregator's defaults. Without an attacker, all devices are
honest, once with the bounds on one device's influence and once without (`honest`, paired by seed). With an attacker,
one device makes each attack of `simulators/world/attacks.py`, with its true number of samples and with the largest that
can be claimed, at each of these times:

    first       before all other devices, right after version 0
    newcomer    in the middle of the run; never seen before
    known       in the middle; honest until then
    rested      in the middle; honest, then absent until its absence has the greatest effect

Each run is compared with the same seed's run in which the device is silent instead of attacking: at the end, and at the
version with the largest difference (the dip). `endless` attacks every version from the middle to the end, which the
bounds do not claim to withstand.
"""

import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from math import inf
from pathlib import Path
from typing import Any

import numpy as np
import torch

from aggregator.merging.staleness import ABSENCE_MAX
from aggregator.model_line import LineSettings
from benchmarks.jobs import Job, Key, run_jobs
from benchmarks.learning import fleet, tasks_and_further
from benchmarks.settings import AttackSettings
from device_client.learning.asyncfedkd import train_teacher
from device_client.learning.evaluation import evaluate
from device_client.learning.parameters import layout_of, load_vector, vector_of
from device_client.learning.seeding import seeded
from device_client.settings import UPDATE_BYTES
from device_client.task import Task, TaskError, scheduled
from simulators.world.attacks import ATTACKS, SAMPLES_CLAIMED_MAX, Attacker
from simulators.world.federation import run_asynchronous
from simulators.world.local_trainers import AsyncFedKDTrainer, teacher_outputs_of
from simulators.world.server import Rules, SimulationState, unbounded
from wire_contract.compression.rate_control import CompressionTarget as ByteBudget
from wire_contract.layout import Vector
from wire_contract.publication.manifest import PublishedVersion

PLACES = ("first", "newcomer", "known", "rested")
FLIPS = 5
"""Successive versions in which `flip` is sent."""
ONCE = ("huge", "large", "huge bias", "large bias", "flip", "flood", "flood of biases", "heavy among light")
ENDLESS = ("flip", "large bias", "nothing")
QUICK: Sequence[tuple[str, str]] = (
    ("huge", "first"),
    ("huge bias", "newcomer"),
    ("flip", "known"),
    ("flood", "newcomer"),
)
"""The four of `--which quick`."""
ALONE = "without the device"
"""The run for comparison at times when the device was not honest before."""
BOUNDED, BELIEVED = "honest, bounded", "honest, no bounds"
_TASK_NAME = "world"


def rules_of(defaults: LineSettings, *, bounded: bool = True) -> Rules:
    """Merging with the aggregator's defaults."""
    rules = Rules(
        updates_per_version=defaults.updates_per_version,
        server_rate=defaults.server_rate,
        decay=defaults.policy.decay,
        sample_weight=defaults.policy.sample_weight,
        absence_max=defaults.policy.absence_max,
        samples_ratio_max=defaults.policy.samples_ratio_max,
        slot_norm_ratio=defaults.policy.slot_norm_ratio,
        devices_min=defaults.devices_min,
        update_encoding=ByteBudget(bytes_max=UPDATE_BYTES),
        delta_encoding=defaults.delta_encoding,
    )
    return rules if bounded else unbounded(rules)


@dataclass(frozen=True)
class _RunSpec:
    """Parameters of one run; plain values, because tasks contain functions and cannot be sent to a process."""

    task: str
    data: Path | None
    seed: int
    versions: int
    name: str
    attack: str = ""
    place: str = ""
    lies: bool = False
    """Whether it claims the largest possible number of samples."""
    slot_norm_ratio: float | None = None


@dataclass(frozen=True)
class _SeedSetup:
    task: Task
    data: Mapping[str, Any]
    teacher_logits: Mapping[str, torch.Tensor] | None
    teacher: torch.nn.Module | None
    initial: Vector


@lru_cache(maxsize=1)
def _prepared(spec: str, data: Path | None, seed: int, versions: int) -> _SeedSetup:
    """What all runs of a seed share."""
    task, _ = tasks_and_further(spec, data, None)
    task = scheduled(task, versions)
    with seeded(seed):
        student, teacher = task.student(), task.teacher() if task.teacher else None
    if teacher is not None:
        assert task.teacher_data is not None
        train_teacher(teacher, task.teacher_data(), task.recipe, objective=task.objective, seed=seed)
    examples = {device: task.examples_of(device) for device in task.devices}
    teacher_logits = None if teacher is None else teacher_outputs_of(teacher, examples, task)
    return _SeedSetup(task, examples, teacher_logits, teacher, vector_of(student, layout_of(student)))


def _measure(asked: _RunSpec) -> dict[str, Any]:
    """Accuracy by version, and the outcome of the updates."""
    torch.set_num_threads(1)
    prepared = _prepared(asked.task, asked.data, asked.seed, asked.versions)
    task, names = prepared.task, prepared.task.devices
    student = task.student()
    layout = layout_of(student)
    trainer = AsyncFedKDTrainer(
        task, prepared.data, prepared.teacher, layout, seed=asked.seed, teacher_outputs=prepared.teacher_logits
    )
    rules = rules_of(LineSettings(task=_TASK_NAME), bounded=asked.name != BELIEVED)
    if asked.slot_norm_ratio is not None:
        rules = replace(rules, slot_norm_ratio=asked.slot_norm_ratio)
    devices = fleet(names, asked.seed)
    usual = next(
        one for one in devices if not one.offline and one.round_seconds < max(d.round_seconds for d in devices)
    )

    def learn(newest: PublishedVersion) -> Vector:
        trained = trainer(usual.name, newest.weights, version=newest.version, round_number=10_000 + newest.version)
        return trained.weights - newest.weights

    adversary = None
    if asked.name not in {BOUNDED, BELIEVED}:
        honest, strikes = _plan(asked)
        adversary = Attacker(
            usual.name,
            ATTACKS.get(asked.attack, lambda _model, _learned: ()),
            learn,
            task=_TASK_NAME,
            samples=SAMPLES_CLAIMED_MAX if asked.lies else len(prepared.data[usual.name]),
            honest=honest,
            strikes=strikes,
        )
    held_out = task.held_out()
    accuracies: list[float] = []

    def observe(state: SimulationState) -> None:
        load_vector(student, layout, state.weights)
        accuracies.append(evaluate(student, held_out, task)["accuracy"])

    state = run_asynchronous(
        devices,
        trainer,
        prepared.initial,
        layout,
        rules=rules,
        versions=asked.versions,
        task=_TASK_NAME,
        observe=observe,
        adversary=adversary,
    )
    theirs = {name: scales for name, scales in state.scales.items() if adversary is None or name != usual.name}
    scales = [scale for of_one in theirs.values() for scale in of_one]
    return {
        "accuracy": accuracies,
        "honest_scale_mean": float(np.mean(scales)),
        "honest_refused": sum(
            count for name, count in state.refused.items() if adversary is None or name != usual.name
        ),
        "hostile_merged": state.merged.get(usual.name, 0),
        "hostile_refused": state.refused.get(usual.name, 0),
    }


def _silent(place: str) -> str:
    """The run for comparison with an attack at this time."""
    return f"silent, {place}" if place in {"known", "rested"} else ALONE


def _plan(asked: _RunSpec) -> tuple[Collection[int], Collection[int]]:
    """The versions in which the hostile device is honest, and those in which it strikes."""
    middle = asked.versions // 2
    if asked.place == "endless":
        return (), range(0 if asked.attack == "nothing" else middle, asked.versions)
    begin = 0 if asked.place == "first" else middle
    strikes = range(begin, begin + (FLIPS if asked.attack == "flip" else 1)) if asked.attack else range(0)
    if asked.place == "known":
        return range(middle), strikes
    return range(max(1, middle - ABSENCE_MAX)) if asked.place == "rested" else (), strikes


def _runs(settings: AttackSettings) -> Sequence[_RunSpec]:
    asked: list[_RunSpec] = []
    for seed in range(1, settings.seeds + 1):

        def run(name: str, seed: int = seed, **attack: Any) -> _RunSpec:
            return _RunSpec(settings.task, settings.data, seed, settings.versions, name, **attack)

        if settings.cost:
            asked += [run(BOUNDED), run(BELIEVED)]
        if settings.which == "none":
            continue
        rows = QUICK
        if settings.which == "all":
            rows = tuple((attack, place) for attack in ONCE for place in PLACES)
            rows += tuple((attack, "endless") for attack in ENDLESS)
        asked += [run(name, place=place) for name, place in {_silent(place): place for _, place in rows}.items()]
        for attack, place in rows:
            for lies in (False, True):
                name = f"{attack}, {place}, {'false' if lies else 'true'} samples"
                asked.append(run(name, attack=attack, place=place, lies=lies))
    if settings.slot_norm_ratio is not None:
        asked = [
            replace(one, slot_norm_ratio=settings.slot_norm_ratio) if one.name != BELIEVED else one for one in asked
        ]
    return asked


def run(settings: AttackSettings) -> dict[str, Any]:
    """Runs everything; returns the figures of each run, and the comparison of each attack with its silent run.

    Raises:
        TaskError: the task cannot be loaded, or has too few devices.
    """
    started = time.monotonic()
    task, _ = tasks_and_further(settings.task, settings.data, None)
    defaults = LineSettings(task=_TASK_NAME)
    if len(task.devices) <= defaults.updates_per_version:
        raise TaskError(
            f"task {task.name} has {len(task.devices)} devices; a version needs {defaults.updates_per_version} "
            "besides the hostile one"
        )
    asked = _runs(settings)
    jobs: dict[Key, Job] = {
        (one.name, one.seed): Job(name=f"{one.name}, seed {one.seed}", run=_measure, argument=one, cost=-one.seed)
        for one in asked
    }
    measured = run_jobs(jobs, settings.processes)
    names = list(dict.fromkeys(one.name for one in asked))
    seeds = range(1, settings.seeds + 1)
    figures: dict[str, Any] = {
        "task": task.name,
        "devices": len(task.devices),
        "versions": settings.versions,
        "seeds": list(seeds),
        "rules": {
            "updates_per_version": defaults.updates_per_version,
            "server_rate": defaults.server_rate,
            "slot_norm_ratio": settings.slot_norm_ratio or defaults.policy.slot_norm_ratio,
            "samples_ratio_max": defaults.policy.samples_ratio_max,
        },
        "runs": {name: [measured[name, seed] for seed in seeds] for name in names},
    }
    if BOUNDED in names:
        figures["cost"] = _paired([measured[BOUNDED, s] for s in seeds], [measured[BELIEVED, s] for s in seeds])
    attacks = {one.name: one for one in asked if one.attack}
    if attacks:
        figures["attacks"] = {
            name: _beside([measured[name, s] for s in seeds], [measured[_silent(one.place), s] for s in seeds])
            for name, one in attacks.items()
        }
    figures["seconds"] = round(time.monotonic() - started, 1)
    return figures


def _paired(bounded: Sequence[Mapping[str, Any]], believed: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """Final accuracy with bounds minus without, and the 95 % confidence interval of its mean (Student's t)."""
    differences = [one["accuracy"][-1] - other["accuracy"][-1] for one, other in zip(bounded, believed, strict=True)]
    error = float(np.std(differences, ddof=1) / np.sqrt(len(differences))) if len(differences) > 1 else inf
    mean = float(np.mean(differences))
    reach = student_t(len(differences) - 1) * error
    return {
        "mean": mean,
        "low": mean - reach,
        "high": mean + reach,
        "bounded": float(np.mean([one["accuracy"][-1] for one in bounded])),
        "no_bounds": float(np.mean([one["accuracy"][-1] for one in believed])),
        "scale_mean": float(np.mean([one["honest_scale_mean"] for one in bounded])),
        "refused": sum(one["honest_refused"] for one in bounded),
    }


_STUDENT_T = (12.71, 4.30, 3.18, 2.78, 2.57, 2.45, 2.36, 2.31, 2.26, 2.23, 2.20, 2.18, 2.16, 2.14, 2.13)
"""97.5 % quantiles for 1 to 15 degrees of freedom, from the usual table."""


def student_t(freedom: int) -> float:
    """The 97.5 % quantile of Student's t distribution."""
    return 1.96 + 2.5 / freedom if freedom > len(_STUDENT_T) else _STUDENT_T[max(freedom, 1) - 1]


def _beside(attacked: Sequence[Mapping[str, Any]], silent: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    pairs = list(zip(attacked, silent, strict=True))
    lost = [other["accuracy"][-1] - one["accuracy"][-1] for one, other in pairs]
    dips = [
        max(there - here for here, there in zip(one["accuracy"], other["accuracy"], strict=True))
        for one, other in pairs
    ]
    return {
        "accuracy": float(np.mean([one["accuracy"][-1] for one in attacked])),
        "silent": float(np.mean([one["accuracy"][-1] for one in silent])),
        "lost_mean": float(np.mean(lost)),
        "lost_worst": max(lost),
        "dip_worst": max(dips),
        "merged": sum(one["hostile_merged"] for one in attacked),
        "refused": sum(one["hostile_refused"] for one in attacked),
        "honest_scale_mean": float(np.mean([one["honest_scale_mean"] for one in attacked])),
    }
