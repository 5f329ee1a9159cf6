"""Every example is run."""

from pathlib import Path

import pytest
import torch

from device_client.learning.asyncfedkd import train_alone, train_student, train_teacher
from device_client.learning.evaluation import evaluate
from device_client.learning.seeding import seeded
from device_client.task import pooled
from device_client.tasks.loading import load_task

EXAMPLE = Path(__file__).parents[1] / "examples" / "own_task.py"


@pytest.fixture(autouse=True)
def one_thread() -> None:
    """Threads that wait for one another on a busy machine cost more than they bring to so small a network."""
    torch.set_num_threads(1)


def test_own_task_learns_in_one_process() -> None:
    task = load_task(f"{EXAMPLE}:task", data=None)
    assert task.teacher is not None
    assert task.teacher_data is not None
    with seeded(1):
        student, teacher = task.student(), task.teacher()
    train_teacher(teacher, task.teacher_data(), task.recipe, objective=task.objective, seed=1)
    before = evaluate(student, task.held_out(), task)["accuracy"]
    everybody = pooled([task.examples_of(device) for device in task.devices])
    train_alone(student, teacher, everybody, task.recipe, objective=task.objective, epochs=4, seed=1)
    result = train_student(
        student, teacher, task.examples_of("machine-2"), task.recipe, objective=task.objective, seed=1, version=9
    )
    after = evaluate(student, task.held_out(), task)["accuracy"]
    assert result.local_steps == 8
    assert after > max(before, 0.75)


def test_own_task_is_the_same_on_every_run() -> None:
    one, other = load_task(f"{EXAMPLE}:task", data=None), load_task(f"{EXAMPLE}:task", data=None)
    assert torch.equal(one.device_data("machine-3").inputs, other.device_data("machine-3").inputs)
