"""How few bytes does it take? Bytes on the wire against accuracy on persons whom nobody has seen, nine ways.

Every way has the same devices, seeds, initial weights, local recipe and stopping rule: `--rounds` passes of each
device over its own data (a synchronous round is one; V versions of K updates by D devices are V · K / D). Bytes are
those of MQTT payloads, mean over the devices: updates up; manifests, models or deltas, and receipts down, version 0
included. `…_to_target` is what had travelled when the mean accuracy of three successive versions first was at most
one point under centralised training of the same seed. `reduction` is against way (a), both directions together.

Teacher accuracy: of the network that is federated in (a), of the devices' own teachers (mean) in (c), and of the
pre-trained, frozen teacher elsewhere.
"""

import argparse
import multiprocessing
import statistics
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from benchmarks.arms import Arm, arms
from benchmarks.codec_cost import cost_of_choice, cost_of_large_vector
from benchmarks.curves import plot
from benchmarks.learning import fleet, tasks_and_further
from device_client.task import Examples, Task, TaskError, pooled
from device_client.training import evaluate, seeded, train_alone, train_teacher
from device_client.vectors import layout_of, load_vector, vector_of
from simulators.learners import MutualLearner, StudentLearner
from simulators.virtual_server import History, Rules
from simulators.world import Learner, run_asynchronous, run_synchronous
from wire_contract.encoding_choice import EncodingChoice, Energy
from wire_contract.layout import Layout, Vector

TARGET_POINTS = 0.01
"""Under centralised training."""
SMOOTHED_VERSIONS = 3
ROUNDS = 60
CENTRALISED = "centralised"
COSTS = (
    *("update_bytes", "bits_per_parameter", "symbol_bits_per_parameter", "entropy_bits_per_parameter"),
    *("encode_microseconds", "decode_microseconds", "peak_bytes", "epoch_microseconds"),
)


@dataclass(frozen=True)
class _Asked:
    """What one process is asked for; plain values, because tasks hold functions."""

    task: str
    data: Path | None
    test_data: Path | None
    seed: int
    rounds: int
    arm: str


@dataclass(frozen=True)
class _Stage:
    """What every way starts from."""

    task: Task
    tested: dict[str, Examples]
    data: dict[str, Examples]
    teacher: nn.Module
    seed: int
    rounds: int


def _stage(asked: _Asked) -> _Stage:
    task, further = tasks_and_further(asked.task, asked.data, asked.test_data)
    if task.teacher is None or task.teacher_data is None:
        raise TaskError(f"task {task.name} has no teacher, and this benchmark is about what a teacher saves")
    with seeded(asked.seed):
        teacher = task.teacher()
    train_teacher(teacher, task.teacher_data(), task.recipe, seed=asked.seed)
    tested = {"held_out": task.held_out()} | ({} if further is None else {"further": further})
    data = {device: task.examples_of(device) for device in task.devices}
    return _Stage(task, tested, data, teacher, asked.seed, asked.rounds)


def _accuracies(network: nn.Module, stage: _Stage) -> dict[str, float]:
    return {who: evaluate(network, examples, stage.task.classes)["accuracy"] for who, examples in stage.tested.items()}


def _measure(asked: _Asked) -> dict[str, Any]:
    """One way, one seed."""
    torch.set_num_threads(1)
    stage = _stage(asked)
    if asked.arm == CENTRALISED:
        with seeded(asked.seed):
            student = stage.task.student()
        heap = pooled(list(stage.data.values()))
        train_alone(student, stage.teacher, heap, stage.task.recipe, epochs=asked.rounds, seed=asked.seed)
        return {"accuracy": _accuracies(student, stage)}
    arm = next(arm for arm in arms(len(stage.data)) if arm.name == asked.arm)
    return _federated(stage, arm)


def _federated(stage: _Stage, arm: Arm) -> dict[str, Any]:
    devices, names = len(stage.data), tuple(stage.data)
    versions = stage.rounds if arm.synchronous else stage.rounds * devices // arm.rules.updates_per_version
    recipe = replace(stage.task.recipe, epochs=1, schedule="cosine", schedule_versions=float(versions))
    task = replace(stage.task, recipe=recipe)
    if arm.network == "teacher":
        assert task.teacher is not None
        task = replace(task, student=task.teacher)
    with seeded(stage.seed):
        network = task.student()
    layout = layout_of(network)
    initial = vector_of(network, layout)
    learner = _learner(stage, task, arm, layout)
    curve: list[dict[str, Any]] = []

    def observe(history: History) -> None:
        load_vector(network, layout, history.weights)
        curve.append(
            {
                "version": history.version,
                "bytes_up": _mean(history.bytes_up),
                "bytes_down": _mean(history.bytes_down),
                "accuracy": _accuracies(network, stage),
            }
        )

    rules = _with_rounds(arm.rules, versions)
    if arm.synchronous:
        history = run_synchronous(
            names, learner, initial, layout, rules=rules, rounds=versions, versions=versions, observe=observe
        )
    else:
        history = run_asynchronous(
            fleet(names, stage.seed), learner, initial, layout, rules=rules, versions=versions, observe=observe
        )
    load_vector(network, layout, history.weights)
    return {
        "accuracy": _accuracies(network, stage),
        "teacher": _teacher_accuracies(stage, arm, learner, network),
        "curve": curve,
        "updates": sum(history.merged.values()),
        "parameters": layout.size,
        **_cost(
            learner,
            names[0],
            weights=history.weights,
            layout=layout,
            choice=rules.update_encoding,
            versions=versions,
        ),
    }


def _learner(stage: _Stage, task: Task, arm: Arm, layout: Layout) -> StudentLearner | MutualLearner:
    if arm.mutual:
        return MutualLearner(task, stage.data, stage.teacher, layout, seed=stage.seed)
    teacher = stage.teacher if arm.network == "student" else None
    return StudentLearner(task, stage.data, teacher, layout, seed=stage.seed)


def _teacher_accuracies(stage: _Stage, arm: Arm, learner: Learner, network: nn.Module) -> dict[str, float]:
    if arm.network == "teacher":
        return _accuracies(network, stage)
    if isinstance(learner, MutualLearner):
        each = [_accuracies(teacher, stage) for teacher in learner.teachers.values()]
        return {who: statistics.fmean(one[who] for one in each) for who in stage.tested}
    return _accuracies(stage.teacher, stage)


def _with_rounds(rules: Rules, versions: int) -> Rules:
    """The published method's energy rises over the whole run."""

    def risen(choice: EncodingChoice | None) -> EncodingChoice | None:
        return replace(choice, versions=float(versions)) if isinstance(choice, Energy) else choice

    update = risen(rules.update_encoding)
    assert update is not None
    return replace(rules, update_encoding=update, delta_encoding=risen(rules.delta_encoding))


def _cost(
    learner: Learner, device: str, *, weights: Vector, layout: Layout, choice: EncodingChoice, versions: int
) -> dict[str, float]:
    """Of encoding and decoding one more update, and of the local epoch before it."""
    began = time.perf_counter()
    trained = learner(device, weights, version=versions // 2, round_number=0)
    epoch_seconds = time.perf_counter() - began
    cost = cost_of_choice(choice, trained.weights - weights, layout, version=versions)
    return {"epoch_microseconds": epoch_seconds * 1e6, **cost}


def _mean(by_device: dict[str, int]) -> float:
    return statistics.fmean(by_device.values())


# --- figures


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The flags of this benchmark."""
    parser.add_argument("--task", help="built-in name (default: har with --data, else physiotherapy)")
    parser.add_argument("--data", type=Path, help="data folder of the task (har: with spsw_sw_win50.npz)")
    parser.add_argument("--test-data", type=Path, help="har: a folder of the same form; every row is tested on as well")
    parser.add_argument("--seeds", type=int, default=3, help="how many seeds, from 1 (default 3)")
    parser.add_argument("--rounds", type=int, default=ROUNDS, help=f"passes over each device's data (default {ROUNDS})")
    parser.add_argument(
        "--arms", nargs="*", choices=[arm.name for arm in arms(2)], help="only these ways (default: all)"
    )
    parser.add_argument("--processes", type=int, default=2, help="runs measured at a time (default 2)")
    parser.add_argument("--plot", type=Path, help="PNG of accuracy against bytes (default: beside --json)")


def run(arguments: argparse.Namespace) -> dict[str, Any]:
    """The figures: mean over the seeds, and each seed's."""
    started = time.monotonic()
    if min(arguments.seeds, arguments.rounds) < 1:
        raise TaskError(f"--seeds {arguments.seeds} and --rounds {arguments.rounds}: both must be at least 1")
    spec = arguments.task or ("har" if arguments.data is not None else "physiotherapy")
    task, further = tasks_and_further(spec, arguments.data, arguments.test_data)
    compared = [arm for arm in arms(len(task.devices)) if not arguments.arms or arm.name in arguments.arms]
    seeds = range(1, arguments.seeds + 1)
    asked = [
        _Asked(spec, arguments.data, arguments.test_data, seed, arguments.rounds, name)
        for seed in seeds
        for name in (CENTRALISED, *(arm.name for arm in compared))
    ]
    asked.sort(key=lambda one: one.arm not in {"fedavg_teacher", "fedkd"})  # the longest first
    measured = dict(zip(((one.arm, one.seed) for one in asked), _all(asked, arguments.processes), strict=True))
    who = ["held_out", *(["further"] if further is not None else [])]
    figures: dict[str, Any] = {
        "task": task.name,
        "devices": len(task.devices),
        "rounds": arguments.rounds,
        "seeds": list(seeds),
        **_rows(compared, measured, list(seeds), "held_out"),
    }
    if further is not None:
        figures["further"] = _rows(compared, measured, list(seeds), who[1])
    figures["large_vector"] = cost_of_large_vector()
    figures["seconds"] = round(time.monotonic() - started, 1)
    picture = arguments.plot or (arguments.json.with_suffix(".png") if arguments.json is not None else None)
    if picture is not None:
        plot(figures, picture)
        figures["plot"] = picture.name
    return figures


def _all(asked: list[_Asked], processes: int) -> list[dict[str, Any]]:
    if processes <= 1:
        return [_measure(one) for one in asked]
    # Spawned, because a forked torch may hang on the locks of its parent's threads.
    with ProcessPoolExecutor(processes, mp_context=multiprocessing.get_context("spawn")) as pool:
        return list(pool.map(_measure, asked))


def _rows(
    compared: list[Arm], measured: dict[tuple[str, int], dict[str, Any]], seeds: list[int], who: str
) -> dict[str, Any]:
    centralised = {seed: measured[CENTRALISED, seed]["accuracy"][who] for seed in seeds}
    rows = [
        _row(arm, [measured[arm.name, seed] for seed in seeds], list(centralised.values()), who) for arm in compared
    ]
    reference = next((row for row in rows if row["letter"] == "a"), None)
    for row in rows:
        for suffix in ("", "_to_target"):
            row[f"reduction{suffix}"] = _reduction(row, reference, suffix)
    return {
        "centralised": statistics.fmean(centralised.values()),
        "centralised_per_seed": list(centralised.values()),
        "rows": rows,
    }


def _row(arm: Arm, each: list[dict[str, Any]], centralised: list[float], who: str) -> dict[str, Any]:
    reached = [
        first_reaching(one["curve"], ceiling - TARGET_POINTS, who)
        for one, ceiling in zip(each, centralised, strict=True)
    ]
    student = [one["accuracy"][who] for one in each] if arm.network == "student" else None
    row: dict[str, Any] = {
        "letter": arm.letter,
        "name": arm.name,
        "says": arm.says,
        "bytes_up": statistics.fmean(one["curve"][-1]["bytes_up"] for one in each),
        "bytes_down": statistics.fmean(one["curve"][-1]["bytes_down"] for one in each),
        **{f"{what}_to_target": _mean_or_none(reached, what) for what in ("bytes_up", "bytes_down", "version")},
        "accuracy_student": statistics.fmean(student) if student else None,
        "accuracy_student_per_seed": student,
        "accuracy_teacher": statistics.fmean(one["teacher"][who] for one in each),
        "curve": _mean_curve([one["curve"] for one in each], who),
    }
    return row | {cost: statistics.median(one[cost] for one in each) for cost in COSTS}


def first_reaching(curve: list[dict[str, Any]], accuracy: float, who: str) -> dict[str, Any] | None:
    """The first point whose last three versions are as good as that in the mean."""
    values = [point["accuracy"][who] for point in curve]
    for at in range(SMOOTHED_VERSIONS - 1, len(values)):
        if statistics.fmean(values[at + 1 - SMOOTHED_VERSIONS : at + 1]) >= accuracy:
            return curve[at]
    return None


def _mean_or_none(points: list[dict[str, Any] | None], what: str) -> float | None:
    """None where one seed never reached the target."""
    known = [float(point[what]) for point in points if point is not None]
    return statistics.fmean(known) if len(known) == len(points) else None


def _mean_curve(curves: list[list[dict[str, Any]]], who: str) -> list[list[float]]:
    """[bytes both ways, accuracy] of each version, mean over the seeds."""
    return [
        [
            statistics.fmean(point["bytes_up"] + point["bytes_down"] for point in points),
            statistics.fmean(point["accuracy"][who] for point in points),
        ]
        for points in zip(*curves, strict=True)
    ]


def _reduction(row: dict[str, Any], reference: dict[str, Any] | None, suffix: str) -> float | None:
    if reference is None:
        return None
    keys = (f"bytes_up{suffix}", f"bytes_down{suffix}")
    if any(one[key] is None for one in (row, reference) for key in keys):
        return None
    return 1.0 - sum(float(row[key]) for key in keys) / sum(float(reference[key]) for key in keys)
