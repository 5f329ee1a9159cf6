"""What a user's functions return or raise is checked; a fault is one line that names the place, and exit code 2."""

import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from device_client.__main__ import main
from device_client.learning.parameters import layout_of, vector_of
from device_client.learning.seeding import seeded
from device_client.task import Examples, Recipe, SplitError
from device_client.tasks.checking import check_augment, check_network, checked
from device_client.tasks.loading import load_task
from device_client.tasks.trial import check_learning
from tests.device_client.test_task_faults import INPUTS, complaint, some, task

REPOSITORY = Path(__file__).parents[3]


@pytest.mark.parametrize(
    ("returned", "said"),
    [
        (lambda: Examples.of(INPUTS, [0, 7, 1, 7]), "2 of 4 labels have no class, the first is 7 at index 1; the task"),
        (lambda: Examples.of(INPUTS, [1, 2, 3, 1]), "labels start at 0, and these start at 1: subtract 1"),
        (lambda: Examples.of(INPUTS, [0, -1, 1, 1]), "1 of 4 labels are negative"),
        (lambda: (INPUTS, [0, 1, 1, 1]), "returned tuple, not Examples; end it with return Examples.of"),
        (lambda: None, "returned NoneType, not Examples"),
        (lambda: {}["x"], "failed: KeyError: 'x' ("),
    ],
)
@pytest.mark.parametrize(
    ("kind", "call"),
    [("device_data", "device_data('d1')"), ("held_out", "held_out()"), ("teacher_data", "teacher_data()")],
)
def test_data_that_does_not_fit_the_task(returned: Callable[[], object], said: str, kind: str, call: str) -> None:
    own = checked(task(**{kind: lambda *_: returned()}))
    load = {"device_data": lambda: own.examples_of("d1"), "held_out": own.held_out, "teacher_data": own.teacher_data}
    shown = complaint(load[kind])  # type: ignore[arg-type]
    assert shown.startswith(f"task own: {call}")
    assert said in shown


def test_devices_and_held_out_data_have_one_shape_and_no_person_in_common() -> None:
    own = checked(task(device_data=lambda device: some(columns=2 if device == "d2" else 3)))
    own.examples_of("d1")
    assert "shape (2,) for each example in device_data('d2'), but (3,) in device_data('d1')" in complaint(
        lambda: own.examples_of("d2")
    )
    assert "in held_out(), but (2,) in device_data" in complaint(
        lambda: [(other := checked(task(device_data=lambda _: some(columns=2)))).examples_of("d1"), other.held_out()]
    )
    known = checked(
        task(
            device_data=lambda device: some(persons="eve" if device == "d1" else "bob"),
            held_out=lambda: some(persons="eve"),
            teacher_data=lambda: some(persons="ann"),
        )
    )
    assert known.teacher_data is not None
    for load in (known.teacher_data, lambda: known.examples_of("d1"), lambda: known.examples_of("d2")):
        load()
    with pytest.raises(SplitError, match="person eve is in both the device and the held-out data"):
        known.held_out()


class Complex(nn.Module):
    """Has a parameter that the wire cannot carry."""

    def __init__(self) -> None:
        super().__init__()
        self.turn = nn.Parameter(torch.ones(3, dtype=torch.complex64))


def lazy() -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.LazyLinear(3))


def broken() -> nn.Module:
    message = "first\nsecond"
    raise ValueError(message)


@pytest.mark.parametrize(
    ("student", "said"),
    [
        (lazy, "student(): the size of 1.weight is not known (lazy module)"),
        (Complex, "student(): parameter turn is torch.complex64, and only real numbers are sent"),
        (lambda: nn.Linear(3, 3).requires_grad_(False), "student(): all its parameters are frozen"),
        (nn.Flatten, "student(): it has no parameters"),
        (lambda: nn.Linear, "student() returned type, not a torch.nn.Module"),
        (lambda: None, "student() returned NoneType"),
        (broken, "student() failed: ValueError: first (" + __file__),
    ],
)
def test_factories_that_make_no_usable_student(student: Callable[[], Any], said: str) -> None:
    assert said in complaint(checked(task(student=student)).student)


def test_a_teacher_may_be_frozen_unless_it_is_trained() -> None:
    own = checked(task(teacher=lambda: nn.Linear(3, 3).requires_grad_(False), recipe=Recipe(method="fedkd")))
    assert own.teacher is not None
    teacher = own.teacher()
    assert "teacher(): all its parameters are frozen" in complaint(
        lambda: check_learning(own, student=own.student(), teacher=teacher, data=some())
    )
    check_learning(replace(own, recipe=Recipe()), student=own.student(), teacher=teacher, data=some())


class Returns(nn.Module):
    """Returns what a test wants."""

    def __init__(self, make: Callable[[torch.Tensor], object]) -> None:
        super().__init__()
        self.make = make

    def forward(self, inputs: torch.Tensor) -> object:
        return self.make(inputs)


@pytest.mark.parametrize(
    ("network", "said"),
    [
        (nn.Linear(4, 3), "student does not accept inputs of shape (2, 3): RuntimeError: mat1 and mat2 shapes cannot"),
        (
            nn.Linear(3, 5),
            "student returned shape (2, 5) for 2 examples; it must be logits (2, 3), because",
        ),
        (Returns(lambda x: x[:, 0]), "student returned shape (2,)"),
        (Returns(lambda x: x[:1]), "student returned shape (1, 3)"),
        (Returns(lambda x: {"scores": x}), "student returned dict; its forward must return logits"),
        (Returns(lambda x: (None, x)), "student returned NoneType; its forward must return logits"),
        (Returns(lambda x: x * 1j), "student returned torch.complex64"),
        (Returns(lambda x: x.argmax(dim=1)), "student returned shape (2,)"),
        (Returns(lambda x: x.long()), "student returned torch.int64"),
        (Returns(lambda _: {}["x"]), "KeyError: 'x' (" + __file__),
    ],
)
def test_networks_that_do_not_fit_the_data(network: nn.Module, said: str) -> None:
    assert said in complaint(lambda: check_network(task(), network, some()))


@pytest.mark.parametrize(
    ("augment", "said"),
    [
        (lambda _inputs, _generator: broken(), "augment failed: ValueError: first ("),
        (lambda inputs, _generator: inputs[:, :2], "augment returned shape (2, 2) for inputs (2, 3)"),
        (lambda _inputs, _generator: None, "augment returned NoneType"),
        (lambda inputs: inputs, "augment failed: TypeError"),
    ],
)
def test_an_augmentation_that_does_not_fit(augment: Any, said: str) -> None:
    assert said in complaint(lambda: check_augment(task(recipe=Recipe(augment=augment)), some()))


def test_a_trial_pass_changes_neither_network_nor_random_numbers_nor_examples() -> None:
    with seeded(1):
        network = nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3), nn.Dropout(0.5))
    examples = some()
    before, state = vector_of(network, layout_of(network)), torch.get_rng_state()
    own = task(recipe=Recipe(augment=lambda inputs, generator: inputs.add_(torch.rand(1, generator=generator))))
    check_network(own, network, examples)
    check_augment(own, examples)
    assert network.training
    assert np.array_equal(vector_of(network, layout_of(network)), before)
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(examples.inputs, some().inputs)


OWN = """
from torch import nn
from device_client.task import Examples, Task
{imports}

def load(*_):
    return Examples.of([[0.0], [1.0]], {labels})

def needs(data, *, rate):
    return make()

def needs_two(data, other):
    return make()

def optional(*, rate=1):
    return make()

def make():
    return Task(name="own", classes=("a", "b"), student=lambda: nn.Linear(1, 2), device_data=load, held_out=load)

def fails():
    return 1 / 0

itself = make()
"""


def written(folder: Path, *, labels: str = "[0, 1]", imports: str = "") -> Path:
    path = folder / "own.py"
    path.write_text(OWN.format(labels=labels, imports=imports), encoding="utf-8")
    return path


@pytest.mark.parametrize(
    ("function", "said"),
    [
        ("needs", "(data, *, rate) takes arguments that are not known here"),
        ("needs_two", "(data, other) takes arguments that are not known here"),
        ("fails", "fails failed: ZeroDivisionError: division by zero ("),
        ("itself", "itself is a Task; give the name of a function that returns it"),
    ],
)
def test_functions_that_give_no_task(tmp_path: Path, function: str, said: str) -> None:
    shown = complaint(lambda: load_task(f"{written(tmp_path)}:{function}", data=None))
    assert said in shown
    assert "own.py:" in shown


def test_modules_beside_the_task_file_are_imported(tmp_path: Path) -> None:
    (tmp_path / "beside_the_task.py").write_text("LABELS = [1, 0]\n", encoding="utf-8")
    path = written(tmp_path, labels="beside_the_task.LABELS", imports="import beside_the_task")
    before = list(sys.path)
    try:
        assert load_task(f"{path}:optional", data=None).held_out().labels.tolist() == [1, 0]
        assert sys.path[: len(before)] == before, "what is installed comes first"
    finally:
        sys.path[:] = before
        del sys.modules["beside_the_task"]


def test_a_file_that_cannot_be_imported_names_the_line(tmp_path: Path) -> None:
    path = written(tmp_path, imports="import nothing_of_this_name")
    assert f"ModuleNotFoundError: No module named 'nothing_of_this_name' ({path}:4)" in complaint(
        lambda: load_task(f"{path}:make", data=None)
    )


def test_a_defect_of_a_built_in_task_keeps_its_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("device_client.tasks.physiotherapy.HELD_OUT_PERSONS", 3)
    with pytest.raises(TypeError):
        load_task("physiotherapy", data=None).held_out()


@pytest.mark.parametrize("command", ["run", "evaluate"])
def test_a_device_ends_with_one_line_and_the_code_that_is_not_restarted(tmp_path: Path, command: str) -> None:
    unit = (REPOSITORY / "deployment/systemd/fedkd-device@.service").read_text(encoding="utf-8")
    assert "RestartPreventExitStatus=2\n" in unit
    flags = ["--task", f"{written(tmp_path, labels='[1, 2]')}:make", "--broker", "mqtt://localhost:1"]
    flags += ["--device", "d1", "--state", str(tmp_path / "state")] if command == "run" else []
    ended = subprocess.run(
        [sys.executable, "-m", "device_client", command, *flags],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (ended.returncode, ended.stderr.count("\n")) == (2, 1), ended.stderr
    assert "labels start at 0, and these start at 1: subtract 1" in ended.stderr


def test_a_teacher_that_is_not_accepted_is_not_trained(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "own.py"
    teacher = "teacher=lambda: nn.Linear(2, 2), teacher_data=load)"
    path.write_text(OWN.format(labels="[0, 1]", imports="").replace("held_out=load)", f"held_out=load, {teacher}"))
    assert main(["pretrain-teacher", "--task", f"{path}:make", "--out", str(tmp_path / "out")]) == 2
    shown = capsys.readouterr().err
    assert "teacher does not accept inputs of shape (2, 1): RuntimeError" in shown
    assert shown.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_each_function_of_a_task_says_which_it_is_when_it_is_slow(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[str] = []

    @contextmanager
    def slow_work(what: str) -> Iterator[None]:
        said.append(what)
        yield

    monkeypatch.setattr("device_client.tasks.loading.slow_work", slow_work)
    own = load_task(f"{written(tmp_path)}:make", data=None)
    for call in (lambda: own.examples_of("d1"), own.held_out, own.student):
        call()
    assert said == ["task own: device_data('d1')", "task own: held_out()", "task own: student()"]
