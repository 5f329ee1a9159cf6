"""A student with BatchNorm in the virtual world: the example task, with one word changed, as people change it."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from device_client.learning.asyncfedkd import train_alone
from device_client.learning.evaluation import evaluate
from device_client.learning.parameters import layout_of, running_statistics, vector_of
from device_client.learning.seeding import seeded
from device_client.learning.statistics.estimation import load_model
from device_client.task import Task, pooled
from device_client.tasks.loading import load_task
from simulators.world.federation import VirtualDevice, run_asynchronous
from simulators.world.local_trainers import AsyncFedKDTrainer
from simulators.world.server import Rules, SimulationState
from wire_contract.compression.rate_control import CompressionTarget

VERSIONS = 24


def batchnorm(width: int = 16) -> nn.Module:
    return nn.Sequential(nn.Linear(32, width), nn.BatchNorm1d(width), nn.ReLU(), nn.Linear(width, 2))


def bearings(statistics: str) -> Task:
    task = load_task("examples/own_task.py:task", data=None)
    return replace(task, student=batchnorm, recipe=replace(task.recipe, statistics=statistics))  # type: ignore[arg-type]


@pytest.mark.parametrize("statistics", ["merged", "home"])
def test_no_variance_is_negative_and_it_learns_what_pooled_data_teach(statistics: str) -> None:
    """K = 3 of 10, η = 1, unequal speeds. Merged as differences, 16 of 16 variances were below zero by version 4."""
    torch.set_num_threads(1)
    task = bearings(statistics)
    data, held_out = {device: task.examples_of(device) for device in task.devices}, task.held_out()
    with seeded(1):
        student, central = task.student(), task.student()
    layout = layout_of(student, task.recipe.statistics)
    speeds = np.random.default_rng(1).lognormal(0, 0.8, len(data))
    values = []

    def observe(state: SimulationState) -> None:
        load_model(student, layout, state.weights, held_out, task.objective)
        for name, tensor in running_statistics(student).items():
            assert bool(tensor.isfinite().all()), name
            assert "var" not in name or bool((tensor > 0).all())
        values.append(evaluate(student, held_out, task)["accuracy"])

    run_asynchronous(
        [VirtualDevice(name=name, round_seconds=0.2 + speed) for name, speed in zip(data, speeds, strict=True)],
        AsyncFedKDTrainer(task, data, None, layout, seed=1),
        vector_of(student, layout),
        layout,
        rules=Rules(
            updates_per_version=3,
            server_rate=1.0,
            update_encoding=CompressionTarget(bytes_max=2_048),
            delta_encoding=CompressionTarget(bytes_max=1_536),
        ),
        versions=VERSIONS,
        observe=observe,
    )
    everything = pooled(list(data.values()))
    train_alone(central, None, everything, task.recipe, objective=task.objective, epochs=14, seed=1)
    assert np.mean(values[-5:]) > evaluate(central, held_out, task)["accuracy"] - 0.02
