"""Bytes on the wire against accuracy on unseen persons, for nine training methods.

All methods have the same devices, seeds, initial weights, local recipe and stopping rule: `--rounds` rounds of each
device, each of `recipe.epochs` passes over its own data (V versions of K updates by D devices are V · K / D rounds).
Bytes are MQTT payloads, mean over the devices: updates up; manifests, models or deltas, and receipts down, version 0
included. Accuracy is measured once per round; `…_to_target` is what had been sent when its mean over three successive
rounds was for the first time at most one point below centralised training with the same seed. `reduction` is relative
to method (a), both directions together.

`encode_to_epoch` is the time to encode one update divided by the time of one local epoch, on one core.

Teacher accuracy: of the network that is federated in (a), of the devices' own teachers (mean) in (c), and of the
pre-trained, frozen teacher elsewhere.
"""

import statistics
import time
from dataclasses import replace
from typing import Any

from benchmarks.communication.arms import Arm, arms
from benchmarks.communication.codec_cost import cost_of_large_vectors
from benchmarks.communication.curves import plot
from benchmarks.communication.runs import RunSpec, federated, prepare, trained_centrally
from benchmarks.jobs import Job, run_jobs
from benchmarks.learning import tasks_and_further
from benchmarks.settings import CommunicationSettings
from device_client.task import TaskError

TARGET_POINTS = 0.01
"""Below centralised training. Differences below half a point may be chance (`docs/experiments.md`); one point is
clearly more."""
SMOOTHED_ROUNDS = 3
"""Chosen: the target must be reached by a mean of three rounds, so that one lucky round does not count."""
CENTRALISED = "centralised"
PREPARED = "teacher"
_COST_OF_TEACHER = 1_000.0
"""Relative duration; first, because all other jobs need it."""
_COSTS = {"fedkd": 3.0, "fedavg_teacher": 2.5}
"""Relative duration of those that take much longer than the others."""
COSTS = (
    *("update_bytes", "bits_per_parameter", "symbol_bits_per_parameter", "entropy_bits_per_parameter"),
    *("encode_microseconds", "decode_microseconds", "peak_bytes", "epoch_microseconds", "encode_to_epoch"),
)


def run(settings: CommunicationSettings) -> dict[str, Any]:
    """Measures; returns the figures: the mean over the seeds, and each seed's."""
    started = time.monotonic()
    spec = settings.task or ("har" if settings.data is not None else "physiotherapy")
    task, further = tasks_and_further(spec, settings.data, settings.test_data)
    known = [arm.name for arm in arms(len(task.devices))]
    if unknown := [name for name in settings.arms if name not in known]:
        raise TaskError(f"--arms {', '.join(unknown)}: there are {', '.join(known)}")
    compared = [arm for arm in arms(len(task.devices)) if not settings.arms or arm.name in settings.arms]
    if task.teacher is None:
        raise TaskError(f"task {task.name} has no teacher, which this benchmark needs")
    seeds = range(1, settings.seeds + 1)
    jobs: dict[tuple[str, int], Job] = {}
    for seed in seeds:
        asked = RunSpec(spec, settings.data, settings.test_data, seed, settings.rounds)
        jobs[PREPARED, seed] = Job(name=f"teacher, seed {seed}", run=prepare, argument=asked, cost=_COST_OF_TEACHER)
        for name in (CENTRALISED, *(arm.name for arm in compared)):
            jobs[name, seed] = Job(
                name=f"{name}, seed {seed}",
                run=trained_centrally if name == CENTRALISED else federated,
                argument=replace(asked, arm=name),
                needs=(PREPARED, seed),
                cost=_COSTS.get(name, 1.0),
            )
    measured = run_jobs(jobs, settings.processes)
    who = ["held_out", *(["further"] if further is not None else [])]
    figures: dict[str, Any] = {
        "task": task.name,
        "devices": len(task.devices),
        "rounds": settings.rounds,
        "seeds": list(seeds),
        **_rows(compared, measured, list(seeds), "held_out"),
    }
    if further is not None:
        figures["further"] = _rows(compared, measured, list(seeds), who[1])
    figures["large_vector"] = cost_of_large_vectors()
    figures["seconds"] = round(time.monotonic() - started, 1)
    picture = settings.plot or (settings.json_file.with_suffix(".png") if settings.json_file is not None else None)
    if picture is not None:
        plot(figures, picture)
        figures["plot"] = picture.name
    return figures


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
    """The first point at which the mean of the last three rounds reaches `accuracy`."""
    values = [point["accuracy"][who] for point in curve]
    for at in range(SMOOTHED_ROUNDS - 1, len(values)):
        if statistics.fmean(values[at + 1 - SMOOTHED_ROUNDS : at + 1]) >= accuracy:
            return curve[at]
    return None


def _mean_or_none(points: list[dict[str, Any] | None], what: str) -> float | None:
    """Mean over the seeds; None if one never reached the target."""
    known = [float(point[what]) for point in points if point is not None]
    return statistics.fmean(known) if len(known) == len(points) else None


def _mean_curve(curves: list[list[dict[str, Any]]], who: str) -> list[list[float]]:
    """[bytes up and down, accuracy] by version, mean over the seeds."""
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
