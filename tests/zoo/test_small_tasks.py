"""Tasks of six kinds learn in the virtual world about as well as on pooled data, and run as real programs."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch

from device_client.learning.asyncfedkd import train_alone
from device_client.learning.evaluation import evaluate
from device_client.learning.parameters import layout_of, load_vector, vector_of
from device_client.learning.seeding import seeded
from device_client.task import Task, pooled
from device_client.tasks.loading import load_task
from simulators.world.federation import VirtualDevice, run_asynchronous
from simulators.world.local_trainers import AsyncFedKDTrainer
from simulators.world.server import Rules
from tests.zoo.programs import Programs, programs

EXAMPLES = Path(__file__).parents[2] / "examples"
KINDS = ("regression", "multi_label", "segmentation", "forecasting", "next_token", "autoencoder")
UPDATES_PER_VERSION = 3
WORSE_MAX = 0.03
"""Relative to pooled training."""


@pytest.fixture(autouse=True)
def one_thread() -> None:
    """Threads that wait for one another on a busy machine cost more than they bring to so small a network."""
    torch.set_num_threads(1)


@pytest.fixture(scope="module")
def started(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Programs]:
    with programs(tmp_path_factory.mktemp("small-tasks")) as made:
        yield made


@pytest.mark.parametrize("kind", KINDS)
def test_a_small_task_learns_nearly_as_well_as_on_pooled_data(kind: str) -> None:
    task = _task(kind)
    versions = round(task.recipe.schedule_versions)
    data = {device: task.examples_of(device) for device in task.devices}
    with seeded(0):
        student = task.student()
    layout = layout_of(student)
    initial = vector_of(student, layout)
    # The slowest device takes almost five times as long as the fastest.
    fleet = [VirtualDevice(name=name, round_seconds=1 + 0.4 * at) for at, name in enumerate(task.devices)]
    trainer = AsyncFedKDTrainer(task, data, None, layout, seed=0)
    rules = Rules(updates_per_version=UPDATES_PER_VERSION)
    state = run_asynchronous(fleet, trainer, initial, layout, rules=rules, versions=versions)
    load_vector(student, layout, state.weights)
    federated = evaluate(student, task.held_out(), task)[task.objective.main]
    load_vector(student, layout, initial)
    untrained = evaluate(student, task.held_out(), task)[task.objective.main]
    epochs = round(versions * UPDATES_PER_VERSION * task.recipe.epochs / len(data))
    everybody = pooled(list(data.values()))
    train_alone(student, None, everybody, task.recipe, objective=task.objective, epochs=epochs, seed=0)
    ceiling = evaluate(student, task.held_out(), task)[task.objective.main]
    sign = 1 if task.objective.higher_is_better else -1
    assert sign * (ceiling - federated) < WORSE_MAX * abs(ceiling), (federated, ceiling)
    assert sign * (federated - untrained) > 0.2 * abs(untrained), (federated, untrained)


@pytest.mark.parametrize("kind", KINDS)
def test_a_small_task_runs_as_real_programs(kind: str, started: Programs) -> None:
    task = _task(kind)
    learned = started.federation(f"{EXAMPLES / kind}.py:task", name=task.name, devices=task.devices[:3], versions=2)
    assert all(np.isfinite(metrics[task.objective.main]) for metrics in learned.evaluations.values())
    assert not np.array_equal(learned.exported.weights, learned.initial_model.weights)
    onnxruntime.InferenceSession(str(learned.onnx))


def _task(kind: str) -> Task:
    return load_task(f"{EXAMPLES / kind}.py:task", data=None)
