"""Buffers that are not sent are the same in every program, or the program is refused by name."""

import random
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from device_client.__main__ import main
from device_client.learning.evaluation import evaluate
from device_client.learning.fixed_buffers import fixed_buffers
from device_client.learning.parameters import layout_of, load_vector, vector_of
from device_client.learning.seeding import seeded
from device_client.learning.student_trainer import StudentTrainer
from device_client.model_files import read_model
from device_client.task import Examples, Task, TaskError
from device_client.tasks.checking import checked
from device_client.tasks.loading import load_task
from tests.broker.mosquitto import Mosquitto
from tests.device_client.line.random_buffer import Network, make
from tests.device_client.line.test_labels import complaint, publish

FILE = str(Path(__file__).with_name("random_buffer.py"))
DRAWN = ["permuted", "projected", "remembered"]
REPOSITORY = Path(__file__).parents[3]


@pytest.fixture(autouse=True)
def _as_another_program() -> Iterator[None]:
    """Whatever has drawn random numbers before: no test may stand on the state in which it begins."""
    torch.seed()
    np.random.seed(None)  # noqa: NPY002
    random.seed(None)
    yield
    torch.manual_seed(0)


def loaded(name: str) -> Task:
    return load_task(f"{FILE}:{name}", data=None)


@pytest.mark.parametrize("name", DRAWN)
def test_an_evaluator_measures_what_the_devices_have(name: str) -> None:
    """Devices reached 1.0 and the evaluator 0.25, when each drew its own permutation."""
    task = loaded(name)
    with seeded(0):
        first = task.student()
    layout, weights = layout_of(first), vector_of(first, layout_of(first))
    for device in ("d1", "d2"):
        data = task.examples_of(device)
        student = task.student()
        trainer = StudentTrainer(
            device=device,
            student=student,
            layout=layout,
            data=data,
            recipe=task.recipe,
            objective=task.objective,
        )
        for number in range(1, 7):
            trained = trainer.train(weights, version=0, round=number, tick=lambda: True)
            assert trained is not None
            weights = trained.weights
    measured = []
    for _ in ("a device", "the evaluator"):
        student = task.student()
        load_vector(student, layout, weights)
        measured.append(evaluate(student, task.held_out(), task)["accuracy"])
    assert measured[0] == measured[1] > 0.7, "a quarter is chance"


def test_another_process_makes_the_same_buffers() -> None:
    code = (
        "from device_client.tasks.loading import load_task; from device_client.learning.fixed_buffers import *\n"
        f"for name in {DRAWN[:2]}:\n"
        f"    task = load_task(f'{FILE}:{{name}}', data=None)\n"
        "    print({k: v.sum(axis=0).tolist() if v.ndim > 1 else v.tolist()"
        " for k, v in fixed_buffers(task.student()).items()})\n"
        "    print({} if task.teacher is None else fixed_buffers(task.teacher())['chosen'].tolist())"
    )
    told = {
        subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY, capture_output=True, check=True).stdout
        for _ in range(2)
    }
    assert len(told) == 1


@pytest.mark.parametrize("name", DRAWN)
def test_the_seed_of_an_initial_model_varies_the_weights_alone(name: str) -> None:
    task = loaded(name)
    made = []
    for seed in (1, 2, 1):
        with seeded(seed):
            made.append(task.student())
    weights = [vector_of(one, layout_of(one)).tobytes() for one in made]
    assert weights[0] == weights[2] != weights[1]
    for key, value in fixed_buffers(made[0]).items():
        np.testing.assert_array_equal(value, fixed_buffers(made[1])[key])
    if name == "remembered":
        assert torch.equal(made[0].chosen, made[1].chosen)  # type: ignore[arg-type]


def test_initial_weights_have_the_bits_of_before() -> None:
    """As when the constructor alone was called under the seed."""
    task = checked(make(lambda: nn.Sequential(nn.Linear(64, 9), nn.ReLU(), nn.Linear(9, 4))))
    with seeded(5):
        found = task.student()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(5)
        expected = nn.Sequential(nn.Linear(64, 9), nn.ReLU(), nn.Linear(9, 4))
    layout = layout_of(expected)
    assert vector_of(found, layout).tobytes() == vector_of(expected, layout).tobytes()


def test_making_a_network_disturbs_no_random_numbers() -> None:
    task = loaded("projected")
    torch.manual_seed(3)
    np.random.seed(3)  # noqa: NPY002
    random.seed(3)
    expected = torch.rand(1).item(), np.random.random(), random.random()  # noqa: NPY002
    torch.manual_seed(3)
    np.random.seed(3)  # noqa: NPY002
    random.seed(3)
    task.student()
    assert (torch.rand(1).item(), np.random.random(), random.random()) == expected  # noqa: NPY002


def test_only_what_is_not_sent_is_a_fixed_buffer() -> None:
    class Mixed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.norm = nn.BatchNorm1d(3)
            self.register_buffer("sent", torch.ones(2))
            self.register_buffer("rounded", torch.ones(2, dtype=torch.bfloat16), persistent=False)
            self.register_buffer("turns", torch.ones(2, dtype=torch.complex64))
            self.register_buffer("mask", torch.ones(2, dtype=torch.bool))

    found = fixed_buffers(Mixed())
    assert {name: (value.shape, value.dtype.name) for name, value in found.items()} == {
        "rounded": ((2,), "float64"),
        "turns": ((2, 2), "float64"),
        "mask": ((2,), "int64"),
    }


def test_what_no_seed_reaches_is_found_at_the_initial_model(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    out = tmp_path / "model"
    told = complaint(capsys, "initial-model", "--task", f"{FILE}:fresh", "--out", str(out))
    assert "student(): buffer chosen has other values on the first call than on the second call" in told
    assert "numpy.random.default_rng(0), and os.urandom or the time must not be used" in told
    assert not out.exists()


@pytest.mark.broker
def test_programs_whose_buffers_differ_all_the_same_are_refused(
    mosquitto: Mosquitto, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """Once in each process, so that a second call says nothing: the code may also be another's."""
    code = tmp_path / "mine.py"
    text = (
        "import os, torch\nfrom tests.device_client.line.random_buffer import Network, make\n"
        "DRAWN = torch.arange(64).roll({shift})\n"
        "def task():\n    return make(lambda: Network(DRAWN.clone()))\n"
    )
    code.write_text(text.format(shift=1))
    path = tmp_path / "model"
    assert main(["initial-model", "--task", f"{code}:task", "--out", str(path)]) == 0
    publish(mosquitto, path)
    code.write_text(text.format(shift=2))
    named = ("--task", f"{code}:task", "--broker", mosquitto.url)
    state, out = ("--device", "d", "--state", str(tmp_path / "state")), ("--out", str(tmp_path / "out"))
    for command in (("run", *named, *state), ("evaluate", *named), ("export", *named, *out)):
        told = complaint(capsys, *command)
        assert "student: buffer chosen has other values here than in the line" in told
    assert "in the file" in complaint(capsys, "export", "--task", f"{code}:task", *out, "--model", str(path))


def test_a_teacher_is_the_same_in_the_program_that_uses_it(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    file = tmp_path / "teacher"
    assert main(["pretrain-teacher", "--task", f"{FILE}:permuted", "--out", str(file), "--epochs", "30"]) == 0
    torch.seed()
    task, model = loaded("permuted"), read_model(file)
    assert task.teacher is not None
    teacher = task.teacher()
    load_vector(teacher, model.layout, model.weights)
    assert evaluate(teacher, task.held_out(), task)["accuracy"] > 0.7
    other = tmp_path / "other.py"
    other.write_text(
        "import torch, dataclasses\nfrom tests.device_client.line import random_buffer as before\n"
        "def task():\n    return dataclasses.replace(before.permuted(),"
        " teacher=lambda: before.Network(torch.arange(64)))\n"
    )
    device = ("--broker", "mqtt://localhost:1", "--device", "d", "--state", str(tmp_path / "state"))
    told = complaint(capsys, "run", "--task", f"{other}:task", *device, "--teacher", str(file))
    assert "teacher: buffer chosen has other values here than in the teacher file" in told
    assert "make it again: asyncfedkd device pretrain-teacher" in told


def test_sizes_that_are_drawn_at_random_are_a_fault() -> None:
    widths = iter(range(3, 100))
    task = checked(make(lambda: nn.Sequential(nn.Linear(64, next(widths)), nn.LazyLinear(4))))
    with pytest.raises(TaskError):
        task.student()
    task = checked(make(lambda: nn.Linear(64, next(widths))))
    with seeded(1), pytest.raises(TaskError, match="must not depend on random numbers"):
        task.student()


def test_networks_without_seed_are_made_alike_too() -> None:
    """`run` and `evaluate` load the line's weights into what they make."""
    task = checked(make(lambda: Network(torch.randperm(64))))
    one, other = task.student(), task.student()
    assert torch.equal(one.chosen, other.chosen)  # type: ignore[arg-type]
    assert isinstance(task.held_out(), Examples)
