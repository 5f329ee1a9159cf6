"""One way and one seed of the communication benchmark; plain values in and out, because they cross processes."""

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
from device_client.learning.evaluation import evaluate
from device_client.learning.parameters import layout_of, load_vector, vector_of
from device_client.learning.seeding import seeded
from device_client.task import Examples, Task, TaskError, pooled, scheduled
from simulators.world.federation import Learner, run_asynchronous, run_synchronous
from simulators.world.learners import MutualLearner, StudentLearner, answers_of
from simulators.world.server import History, Rules
from wire_contract.compression.choice import EncodingChoice, Energy, encode_as
from wire_contract.layout import Layout, Vector

_TURNS = 5
"""Of an epoch and its encoding."""


@dataclass(frozen=True)
class Asked:
    """What one process is asked for; a task holds functions, so it is named."""

    task: str
    data: Path | None
    test_data: Path | None
    seed: int
    rounds: int
    arm: str = ""


@dataclass(frozen=True)
class Prepared:
    """The pre-trained teacher of one seed, which all its ways share."""

    weights: Vector
    answers: dict[str, np.ndarray]
    """Logits (example, class) by device."""
    accuracy: dict[str, float]
    """On each set of tested persons."""


@dataclass(frozen=True)
class _Stage:
    """What every way starts from."""

    task: Task
    tested: dict[str, Examples]
    data: dict[str, Examples]
    seed: int
    rounds: int

    def accuracies(self, network: nn.Module) -> dict[str, float]:
        """On each set of tested persons."""
        return {
            who: evaluate(network, examples, self.task.classes)["accuracy"] for who, examples in self.tested.items()
        }

    def fresh_teacher(self) -> nn.Module:
        if self.task.teacher is None:
            raise TaskError(f"task {self.task.name} has no teacher, and this benchmark is about what a teacher saves")
        with seeded(self.seed):
            return self.task.teacher()

    def teacher(self, prepared: Prepared) -> nn.Module:
        teacher = self.fresh_teacher()
        load_vector(teacher, layout_of(teacher), prepared.weights)
        return teacher.eval().requires_grad_(False)


def _stage(asked: Asked) -> _Stage:
    torch.set_num_threads(1)
    task, further = tasks_and_further(asked.task, asked.data, asked.test_data)
    tested = {"held_out": task.held_out()} | ({} if further is None else {"further": further})
    data = {device: task.examples_of(device) for device in task.devices}
    return _Stage(task, tested, data, asked.seed, asked.rounds)


def prepare(asked: Asked) -> Prepared:
    """Trains the teacher of a seed, and asks it about everybody's data."""
    stage = _stage(asked)
    teacher = stage.fresh_teacher()
    if stage.task.teacher_data is None:
        raise TaskError(f"task {stage.task.name} has no data for its teacher")
    train_teacher(teacher, stage.task.teacher_data(), stage.task.recipe, seed=stage.seed)
    answers = {device: logits.numpy() for device, logits in answers_of(teacher, stage.data).items()}
    return Prepared(vector_of(teacher, layout_of(teacher)), answers, stage.accuracies(teacher))


def trained_centrally(asked: Asked, prepared: Prepared) -> dict[str, Any]:
    """The ceiling: the same student on everybody's data in one heap."""
    stage = _stage(asked)
    with seeded(asked.seed):
        student = stage.task.student()
    train_alone(
        student,
        None,
        pooled(list(stage.data.values())),
        stage.task.recipe,
        epochs=asked.rounds * stage.task.recipe.epochs,
        seed=asked.seed,
        teacher_logits=torch.from_numpy(np.concatenate([prepared.answers[device] for device in stage.data])),
    )
    return {"accuracy": stage.accuracies(student)}


def federated(asked: Asked, prepared: Prepared) -> dict[str, Any]:
    """One way."""
    stage = _stage(asked)
    arm = next(arm for arm in arms(len(stage.data)) if arm.name == asked.arm)
    devices, names = len(stage.data), tuple(stage.data)
    versions = stage.rounds if arm.synchronous else stage.rounds * devices // arm.rules.updates_per_version
    task = scheduled(stage.task, versions)
    if arm.network == "teacher":
        assert task.teacher is not None
        task = replace(task, student=task.teacher)
    with seeded(stage.seed):
        network = task.student()
    layout = layout_of(network)
    initial = vector_of(network, layout)
    learner = _learner(stage, task, arm, layout, prepared)
    curve: list[dict[str, Any]] = []
    rules = _with_rounds(arm.rules, versions)

    def observe(history: History) -> None:
        # Once a round, so that all ways have as many points, whatever a version of theirs is.
        rounds = history.version * stage.rounds // versions
        if history.version and rounds == (history.version - 1) * stage.rounds // versions:
            return
        load_vector(network, layout, history.weights)
        curve.append(
            {
                "version": history.version,
                "bytes_up": _mean(history.bytes_up),
                "bytes_down": _mean(history.bytes_down),
                "accuracy": stage.accuracies(network),
            }
        )

    if arm.synchronous:
        history = run_synchronous(
            names, learner, initial, layout, rules=rules, rounds=versions, versions=versions, observe=observe
        )
    else:
        history = run_asynchronous(
            fleet(names, stage.seed), learner, initial, layout, rules=rules, versions=versions, observe=observe
        )
    return {
        "accuracy": curve[-1]["accuracy"],
        "teacher": _teacher_accuracies(stage, arm, learner, curve[-1]["accuracy"], prepared),
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
            epochs=task.recipe.epochs,
        ),
    }


def _learner(stage: _Stage, task: Task, arm: Arm, layout: Layout, prepared: Prepared) -> StudentLearner | MutualLearner:
    if arm.network == "teacher":
        return StudentLearner(task, stage.data, None, layout, seed=stage.seed)
    teacher = stage.teacher(prepared)
    if arm.mutual:
        return MutualLearner(task, stage.data, teacher, layout, seed=stage.seed)
    answers = {device: torch.from_numpy(logits) for device, logits in prepared.answers.items()}
    return StudentLearner(task, stage.data, teacher, layout, seed=stage.seed, answers=answers)


def _teacher_accuracies(
    stage: _Stage, arm: Arm, learner: Learner, of_federated: dict[str, float], prepared: Prepared
) -> dict[str, float]:
    if arm.network == "teacher":
        return of_federated
    if isinstance(learner, MutualLearner):
        each = [stage.accuracies(teacher) for teacher in learner.teachers.values()]
        return {who: statistics.fmean(one[who] for one in each) for who in stage.tested}
    return prepared.accuracy


def _with_rounds(rules: Rules, versions: int) -> Rules:
    """The published method's energy rises over the whole run."""

    def risen(choice: EncodingChoice | None) -> EncodingChoice | None:
        return replace(choice, versions=float(versions)) if isinstance(choice, Energy) else choice

    update = risen(rules.update_encoding)
    assert update is not None
    return replace(rules, update_encoding=update, delta_encoding=risen(rules.delta_encoding))


def _cost(
    learner: Learner,
    device: str,
    *,
    weights: Vector,
    layout: Layout,
    choice: EncodingChoice,
    versions: int,
    epochs: int,
) -> dict[str, float]:
    """Of encoding and decoding one more update, and of one of the local epochs before it."""
    trained = learner(device, weights, version=versions // 2, round_number=0)
    difference = trained.weights - weights
    # In turns, so that whatever else the machine does meets both.
    each, shares = [], []
    for number in range(1, _TURNS + 1):
        began = time.perf_counter()
        learner(device, weights, version=versions // 2, round_number=number)
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
