"""One hospital 100 times slower than the others, one offline for half of the run: when the model is good.

Virtual time in rounds of a usual hospital. A synchronous round lasts until its slowest hospital is done, and begins
with the next one. The target is 95 % of the synchronous run's last AUC, for both.
"""

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from benchmarks.learning import UNCOMPRESSED
from benchmarks.mammography.arms import planned, probabilities, teacher_of
from device_client.learning.parameters import layout_of, load_vector, vector_of
from device_client.learning.seeding import seeded
from device_client.scores.ranking import auc
from device_client.tasks.mammography.crops import federation, folds, read_file
from simulators.world.federation import VirtualDevice, run_asynchronous, run_synchronous
from simulators.world.local_trainers import AsyncFedKDTrainer
from simulators.world.server import SimulationState

SLOWNESS = 100.0
SHARE = 0.95
PASSES = 60.0


@dataclass(frozen=True)
class StragglerSpec:
    """What one process measures."""

    path: Path
    seed: int
    effort: float


def measure_stragglers(asked: StragglerSpec) -> dict[str, float]:
    """Times to the target and last AUC of both ways, on the first fold, whole crops."""
    crops = read_file(asked.path)
    task, plan = planned(federation(crops, held_out=folds(crops)[0], view="whole"), PASSES * asked.effort)
    with seeded(asked.seed):
        student = task.student()
    teacher = teacher_of(task, asked.seed)
    layout, held_out = layout_of(student), task.held_out()
    measuring = task.student()
    initial = vector_of(student, layout)
    trainer = AsyncFedKDTrainer(
        task, {device: task.examples_of(device) for device in task.devices}, teacher, layout, seed=asked.seed
    )
    curves: dict[str, list[tuple[float, float]]] = {"asynchronous": [], "synchronous": []}

    def looks(way: str, seconds: float, state: SimulationState) -> None:
        load_vector(measuring, layout, state.weights)
        scores = probabilities(measuring, held_out)[:, 1]
        curves[way].append((seconds, auc(scores, held_out.labels.numpy() == 1)))

    usual = [VirtualDevice(name=name, round_seconds=1.0) for name in task.devices]
    length = float(plan.versions)  # about: three of five hospitals make a version of a round each
    slow = replace(usual[1], round_seconds=SLOWNESS)
    absent = replace(usual[2], offline=((0.0, length / 2),))
    run_asynchronous(
        [usual[0], slow, absent, *usual[3:]],
        trainer,
        initial,
        layout,
        rules=plan.rules,
        versions=plan.versions,
        observe=lambda state: looks("asynchronous", state.seconds, state),
    )
    rounds = max(1, round(plan.epochs(task) / task.recipe.epochs))
    synchronous_seconds = iter(np.arange(rounds + 1) * SLOWNESS)
    run_synchronous(
        task.devices,
        trainer,
        initial,
        layout,
        rules=UNCOMPRESSED,
        rounds=rounds,
        versions=plan.versions,
        # The absent hospital is back before the first slow round ends.
        observe=lambda state: looks("synchronous", float(next(synchronous_seconds)), state),
    )
    target = SHARE * curves["synchronous"][-1][1]
    return {
        name: value
        for way, curve in curves.items()
        for name, value in (
            (f"{way}_seconds", next((seconds for seconds, found in curve if found >= target), float("inf"))),
            (f"{way}_auc", curve[-1][1]),
        )
    }
