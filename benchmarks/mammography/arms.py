"""Trains on one split and gives what each method's models say of the test crops."""

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from benchmarks.learning import RunPlan, fleet, plan_of
from device_client.learning.asyncfedkd import train_alone, train_teacher
from device_client.learning.parameters import layout_of, load_vector, vector_of
from device_client.learning.seeding import seeded
from device_client.task import Examples, Task, outputs_of, pooled, scheduled
from simulators.world.federation import run_asynchronous
from simulators.world.local_trainers import AsyncFedKDTrainer

FEDERATED, CENTRALISED, TEACHER, LOCAL = "federated", "centralised", "teacher", "local_mean"
ARMS = (FEDERATED, CENTRALISED, TEACHER, LOCAL)
Probabilities = npt.NDArray[np.float64]
"""(model, example, class); the local method has a model for each hospital, the others have one."""
_BATCH = 512


def planned(task: Task, passes: float) -> tuple[Task, RunPlan]:
    """The task with its schedule, and the plan of a federation whose devices pass over their data this often."""
    devices = len(task.devices)
    per_version = plan_of(task, 1).rules.updates_per_version
    plan = plan_of(task, max(1, round(passes * devices / per_version / task.recipe.epochs)))
    return scheduled(task, plan.versions), plan


def teacher_of(task: Task, seed: int) -> nn.Module:
    """The task's teacher, pre-trained on its own patients."""
    assert task.teacher is not None
    assert task.teacher_data is not None
    with seeded(seed):
        teacher = task.teacher()
    train_teacher(teacher, task.teacher_data(), task.recipe, objective=task.objective, seed=seed)
    return teacher


def probabilities_of_arms(
    task: Task, tested: Mapping[str, Examples], *, passes: float, seed: int, arms: Sequence[str] = ARMS
) -> dict[str, dict[str, Probabilities]]:
    """By method and name of the test data. Every method makes the same number of passes over its data."""
    task, plan = planned(task, passes)
    with seeded(seed):
        student = task.student()
    teacher = teacher_of(task, seed)
    layout = layout_of(student)
    initial = vector_of(student, layout)
    data = {device: task.examples_of(device) for device in task.devices}
    found: dict[str, list[dict[str, npt.NDArray[np.float64]]]] = {}

    def seen(model: nn.Module) -> dict[str, npt.NDArray[np.float64]]:
        return {who: probabilities(model, examples) for who, examples in tested.items()}

    def alone(examples: Examples) -> dict[str, npt.NDArray[np.float64]]:
        load_vector(student, layout, initial)
        train_alone(
            student, teacher, examples, task.recipe, objective=task.objective, epochs=plan.epochs(task), seed=seed
        )
        return seen(student)

    if FEDERATED in arms:
        trainer = AsyncFedKDTrainer(task, data, teacher, layout, seed=seed)
        state = run_asynchronous(
            fleet(task.devices, seed), trainer, initial, layout, rules=plan.rules, versions=plan.versions
        )
        load_vector(student, layout, state.weights)
        found[FEDERATED] = [seen(student)]
    if CENTRALISED in arms:
        found[CENTRALISED] = [alone(pooled(list(data.values())))]
    if TEACHER in arms:
        found[TEACHER] = [seen(teacher)]
    if LOCAL in arms:
        found[LOCAL] = [alone(examples) for examples in data.values()]
    return {arm: {who: np.stack([one[who] for one in each]) for who in tested} for arm, each in found.items()}


def probabilities(model: nn.Module, examples: Examples) -> npt.NDArray[np.float64]:
    """(example, class)."""
    model.eval()
    with torch.no_grad():
        logits = [
            outputs_of(model, examples.batch(slice(start, start + _BATCH))) for start in range(0, len(examples), _BATCH)
        ]
    return np.asarray(torch.cat(logits).double().softmax(dim=1).numpy(), dtype=np.float64)
