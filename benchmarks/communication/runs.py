"""One method and one seed of the communication benchmark; plain values in and out, because they cross processes."""

import statistics
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from benchmarks.communication.arms import Arm, arms
from benchmarks.communication.codec_cost import cost_of_choice, microseconds
from benchmarks.learning import fleet, tasks_and_further
from device_client.learning.asyncfedkd import train_alone, train_teacher
from device_client.learning.evaluation import evaluate, kept
from device_client.learning.parameters import layout_of, load_vector, vector_of
from device_client.learning.seeding import seeded
from device_client.task import Examples, Task, TaskError, pooled, scheduled
from simulators.world.federation import LocalTrainer, run_asynchronous, run_synchronous
from simulators.world.local_trainers import AsyncFedKDTrainer, FedKDTrainer, teacher_outputs_of
from simulators.world.server import Rules, SimulationState
from wire_contract.compression.choice import EncodingChoice, LowRankEnergy, encode_as
from wire_contract.layout import Layout, Vector

_TURNS = 5
"""Repetitions of an epoch and its encoding; medians are reported. Five are chosen: enough for a median, and each costs
an epoch."""


@dataclass(frozen=True)
class RunSpec:
    """Parameters of one run; the task by name, because tasks contain functions and cannot be sent to a process."""

    task: str
    data: Path | None
    test_data: Path | None
    seed: int
    rounds: int
    arm: str = ""


@dataclass(frozen=True)
class PretrainedTeacher:
    """The pre-trained teacher of one seed, shared by all methods."""

    weights: Vector
    teacher_logits: dict[str, np.ndarray]
    """Logits (example, class) by device."""
    accuracy: dict[str, float]
    """Accuracy on each set of test persons."""


@dataclass(frozen=True)
class _Setup:
    """What all methods start from."""

    task: Task
    tested: dict[str, Examples]
    data: dict[str, Examples]
    seed: int
    rounds: int

    def accuracies(self, network: nn.Module) -> dict[str, float]:
        """On each set of tested persons."""
        return {who: evaluate(network, examples, self.task)["accuracy"] for who, examples in self.tested.items()}

    def fresh_teacher(self) -> nn.Module:
        if self.task.teacher is None:
            raise TaskError(f"task {self.task.name} has no teacher, which this benchmark needs")
        with seeded(self.seed):
            return self.task.teacher()

    def teacher(self, pretrained: PretrainedTeacher) -> nn.Module:
        teacher = self.fresh_teacher()
        load_vector(teacher, layout_of(teacher), pretrained.weights)
        return teacher.eval().requires_grad_(False)


def _setup(spec: RunSpec) -> _Setup:
    torch.set_num_threads(1)
    task, further = tasks_and_further(spec.task, spec.data, spec.test_data)
    tested = {"held_out": task.held_out()} | ({} if further is None else {"further": further})
    data = {device: task.examples_of(device) for device in task.devices}
    return _Setup(task, tested, data, spec.seed, spec.rounds)


def prepare(spec: RunSpec) -> PretrainedTeacher:
    """Trains the teacher of a seed, and computes its logits on all devices' data."""
    setup = _setup(spec)
    teacher = setup.fresh_teacher()
    if setup.task.teacher_data is None:
        raise TaskError(f"task {setup.task.name} has no data for its teacher")
    train_teacher(
        teacher, setup.task.teacher_data(), setup.task.recipe, objective=setup.task.objective, seed=setup.seed
    )
    teacher_logits = {
        device: logits.numpy() for device, logits in teacher_outputs_of(teacher, setup.data, setup.task).items()
    }
    return PretrainedTeacher(vector_of(teacher, layout_of(teacher)), teacher_logits, setup.accuracies(teacher))


def trained_centrally(spec: RunSpec, pretrained: PretrainedTeacher) -> dict[str, Any]:
    """The ceiling: the same student trained on pooled data."""
    setup = _setup(spec)
    with seeded(spec.seed):
        student = setup.task.student()
    train_alone(
        student,
        None,
        pooled(list(setup.data.values())),
        setup.task.recipe,
        epochs=spec.rounds * setup.task.recipe.epochs,
        seed=spec.seed,
        objective=setup.task.objective,
        teacher_outputs=kept(
            torch.from_numpy(np.concatenate([pretrained.teacher_logits[device] for device in setup.data]))
        ),
    )
    return {"accuracy": setup.accuracies(student)}


def federated(spec: RunSpec, pretrained: PretrainedTeacher) -> dict[str, Any]:
    """Runs one method."""
    setup = _setup(spec)
    arm = next(arm for arm in arms(len(setup.data)) if arm.name == spec.arm)
    devices, names = len(setup.data), tuple(setup.data)
    versions = setup.rounds if arm.synchronous else setup.rounds * devices // arm.rules.updates_per_version
    task = scheduled(setup.task, versions)
    if arm.network == "teacher":
        assert task.teacher is not None
        task = replace(task, student=task.teacher)
    with seeded(setup.seed):
        network = task.student()
    layout = layout_of(network)
    initial = vector_of(network, layout)
    trainer = _trainer(setup, task, arm, layout, pretrained)
    curve: list[dict[str, Any]] = []
    rules = _with_rounds(arm.rules, versions)

    def observe(state: SimulationState) -> None:
        # Once per round, so that all curves have the same number of points.
        rounds = state.version * setup.rounds // versions
        if state.version and rounds == (state.version - 1) * setup.rounds // versions:
            return
        load_vector(network, layout, state.weights)
        curve.append(
            {
                "version": state.version,
                "bytes_up": _mean(state.bytes_up),
                "bytes_down": _mean(state.bytes_down),
                "accuracy": setup.accuracies(network),
            }
        )

    if arm.synchronous:
        state = run_synchronous(
            names, trainer, initial, layout, rules=rules, rounds=versions, versions=versions, observe=observe
        )
    else:
        state = run_asynchronous(
            fleet(names, setup.seed), trainer, initial, layout, rules=rules, versions=versions, observe=observe
        )
    return {
        "accuracy": curve[-1]["accuracy"],
        "teacher": _teacher_accuracies(setup, arm, trainer, curve[-1]["accuracy"], pretrained),
        "curve": curve,
        "updates": sum(state.merged.values()),
        "parameters": layout.size,
        **_cost(
            trainer,
            names[0],
            weights=state.weights,
            layout=layout,
            choice=rules.update_encoding,
            versions=versions,
            epochs=task.recipe.epochs,
        ),
    }


def _trainer(
    setup: _Setup, task: Task, arm: Arm, layout: Layout, pretrained: PretrainedTeacher
) -> AsyncFedKDTrainer | FedKDTrainer:
    if arm.network == "teacher":
        return AsyncFedKDTrainer(task, setup.data, None, layout, seed=setup.seed)
    teacher = setup.teacher(pretrained)
    if arm.mutual:
        return FedKDTrainer(task, setup.data, teacher, layout, seed=setup.seed)
    teacher_logits = {device: torch.from_numpy(logits) for device, logits in pretrained.teacher_logits.items()}
    return AsyncFedKDTrainer(task, setup.data, teacher, layout, seed=setup.seed, teacher_outputs=teacher_logits)


def _teacher_accuracies(
    setup: _Setup, arm: Arm, trainer: LocalTrainer, of_federated: dict[str, float], pretrained: PretrainedTeacher
) -> dict[str, float]:
    if arm.network == "teacher":
        return of_federated
    if isinstance(trainer, FedKDTrainer):
        each = [setup.accuracies(teacher) for teacher in trainer.teachers.values()]
        return {who: statistics.fmean(one[who] for one in each) for who in setup.tested}
    return pretrained.accuracy


def _with_rounds(rules: Rules, versions: int) -> Rules:
    """The published method increases its energy threshold over the whole run."""

    def risen(choice: EncodingChoice | None) -> EncodingChoice | None:
        return replace(choice, versions=float(versions)) if isinstance(choice, LowRankEnergy) else choice

    update = risen(rules.update_encoding)
    assert update is not None
    return replace(rules, update_encoding=update, delta_encoding=risen(rules.delta_encoding))


def _cost(
    trainer: LocalTrainer,
    device: str,
    *,
    weights: Vector,
    layout: Layout,
    choice: EncodingChoice,
    versions: int,
    epochs: int,
) -> dict[str, float]:
    """Cost of encoding and decoding one more update, and of one local epoch."""
    trained = trainer(device, weights, version=versions // 2, round_number=0)
    difference = trained.weights - weights
    # Alternating, so that other load on the machine affects both.
    each, shares = [], []
    for number in range(1, _TURNS + 1):
        began = time.perf_counter()
        trainer(device, weights, version=versions // 2, round_number=number)
        each.append(1e6 * (time.perf_counter() - began) / epochs)
        encoding = microseconds(lambda: encode_as(choice, difference, layout, version=versions), repeats=_TURNS)
        shares.append(encoding / each[-1])
    return {
        "epoch_microseconds": statistics.median(each),
        "encode_to_epoch": statistics.median(shares),
        **cost_of_choice(choice, difference, layout, version=versions),
    }


def _mean(by_device: dict[str, int]) -> float:
    return statistics.fmean(by_device.values())
