"""Runs the parts of the benchmark and puts their figures together."""

import math
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.jobs import Job, Key, run_jobs
from benchmarks.mammography.arms import FEDERATED
from benchmarks.mammography.patients import FoldSpec, Measured, class_figures, lesion_figures, measure_fold
from benchmarks.mammography.rows import LEAKY, majority_share, measure_rows
from benchmarks.mammography.stragglers import StragglerSpec, measure_stragglers
from benchmarks.settings import MammographySettings
from device_client.task import TaskError, check_split
from device_client.tasks.mammography.crops import FOLDS, LARGE_FILE, SMALL_FILE, View, read_file

ROWS, PATIENTS, STRAGGLERS = PARTS = ("seed_protocol", "patient_split", "stragglers")
_VIEWS: tuple[View, ...] = ("whole", "windows")


@dataclass(frozen=True)
class _RowSpec:
    path: Path
    name: str
    seed: int
    effort: float


def _fold(asked: FoldSpec) -> Measured:
    torch.set_num_threads(1)
    return measure_fold(asked)


def _rows(asked: _RowSpec) -> dict[str, float]:
    torch.set_num_threads(1)
    return measure_rows(asked.path, asked.name, effort=asked.effort, seed=asked.seed)


def _stragglers(asked: StragglerSpec) -> dict[str, float]:
    torch.set_num_threads(1)
    return measure_stragglers(asked)


def run(settings: MammographySettings) -> dict[str, Any]:
    """Measures; returns the figures."""
    started = time.monotonic()
    parts = _parts(settings)
    small, large = (file_in(settings.data, name) for name in (SMALL_FILE, LARGE_FILE))
    further = {} if settings.test_data is None else _further(settings.test_data, {SMALL_FILE: small, LARGE_FILE: large})
    seeds = range(1, settings.seeds + 1)
    jobs: dict[Key, Job] = {}
    for seed in seeds:
        if ROWS in parts:
            jobs |= _row_jobs(small, seed, settings.effort)
            jobs |= _fold_jobs("small", FoldSpec(small, "whole", None, further.get(SMALL_FILE), seed, settings.effort))
        for view in _VIEWS if PATIENTS in parts else ():
            jobs |= _fold_jobs(view, FoldSpec(large, view, None, further.get(LARGE_FILE), seed, settings.effort))
        if STRAGGLERS in parts:
            argument = StragglerSpec(large, seed, settings.effort)
            jobs[STRAGGLERS, seed] = Job(name=f"stragglers, seed {seed}", run=_stragglers, argument=argument)
    done = run_jobs(jobs, settings.processes)
    figures: dict[str, Any] = {"seeds": list(seeds), "effort": settings.effort, "folds": FOLDS}
    if ROWS in parts:
        figures[ROWS] = _row_figures(done, seeds, small)
    if PATIENTS in parts:
        figures[PATIENTS] = _patient_figures({view: _by_seed(done, view, seeds) for view in _VIEWS})
    if STRAGGLERS in parts:
        figures[STRAGGLERS] = _means([done[STRAGGLERS, seed] for seed in seeds])
    for part, name, kinds in ((ROWS, SMALL_FILE, ("small",)), (PATIENTS, LARGE_FILE, _VIEWS)):
        if part in parts and name in further:
            of = {kind: [[done[f"{kind} further", seed]] for seed in seeds] for kind in kinds}
            figures[part]["further_patients"] = class_figures(of["small"]) if part == ROWS else _patient_figures(of)
    figures["seconds"] = round(time.monotonic() - started, 1)
    return figures


def _parts(settings: MammographySettings) -> tuple[str, ...]:
    unknown = [part for part in settings.parts if part not in PARTS]
    if unknown:
        raise TaskError(f"--parts: {', '.join(unknown)}; known: {', '.join(PARTS)}")
    return tuple(dict.fromkeys(settings.parts)) or PARTS


def _row_figures(done: Mapping[Key, Any], seeds: range, path: Path) -> dict[str, Any]:
    by_patient = {**class_figures(_by_seed(done, "small", seeds)), "majority": majority_share(read_file(path))}
    by_row = {name: _means([done[name, seed] for seed in seeds]) for name in ("rows_all", "rows_calc")}
    return {"warning": LEAKY, **by_row, "by_patient": by_patient}


def _patient_figures(measured: Mapping[str, list[list[Measured]]]) -> dict[str, Any]:
    return {
        "centred": lesion_figures(measured["whole"], "whole"),
        "off_centre": lesion_figures(measured["windows"], "random"),
        "off_centre_averaged": lesion_figures(measured["windows"], "averaged"),
    }


def file_in(folder: Path, name: str) -> Path:
    """The file in a folder or in one of its folders mias48 and mias.

    Raises:
        TaskError: it is in neither.
    """
    for place in (folder, folder / "mias48", folder / "mias"):
        if (place / name).is_file():
            return place / name
    raise TaskError(f"there is no {name} in {folder}, nor in its folders mias48 and mias")


def _further(folder: Path, known: Mapping[str, Path]) -> dict[str, Path]:
    """The files of further patients, at least one, by name.

    Raises:
        TaskError: there is neither.
        SplitError: one of the patients is known.
    """
    found = {}
    for name, own in known.items():
        try:
            found[name] = file_in(folder, name)
        except TaskError:
            continue
        check_split({"training": read_file(own).patients, "further test": read_file(found[name]).patients})
    if not found:
        raise TaskError(f"--test-data: there is neither {' nor '.join(known)} in {folder}")
    return found


def _row_jobs(path: Path, seed: int, effort: float) -> dict[Key, Job]:
    return {
        (name, seed): Job(
            name=f"{name}, seed {seed}", run=_rows, argument=_RowSpec(path, name, seed, effort), cost=cost
        )
        for name, cost in (("rows_all", 9.0), ("rows_calc", 3.0))
    }


def _fold_jobs(kind: str, asked: FoldSpec) -> dict[Key, Job]:
    """The five folds of our patients, and the further ones if there are any."""
    asked = replace(asked, arms=(FEDERATED,)) if kind == "small" else asked
    specs = {f"{kind} {fold}": replace(asked, fold=fold, further=None) for fold in range(FOLDS)}
    if asked.further is not None:
        specs[f"{kind} further"] = asked
    return {
        (name, asked.seed): Job(name=f"fold {name}, seed {asked.seed}", run=_fold, argument=spec, cost=2.0)
        for name, spec in specs.items()
    }


def _by_seed(done: Mapping[Key, Any], kind: str, seeds: range) -> list[list[Measured]]:
    return [[done[f"{kind} {fold}", seed] for fold in range(FOLDS)] for seed in seeds]


def _means(each: list[dict[str, float]]) -> dict[str, Any]:
    """Means over the seeds, and each seed's; None where one was never reached."""
    means = {name: float(np.mean([one[name] for one in each])) for name in each[0]}
    known = {name: value if math.isfinite(value) else None for name, value in means.items()}
    per_seed = [{name: value if math.isfinite(value) else None for name, value in one.items()} for one in each]
    return {**known, "per_seed": per_seed}
