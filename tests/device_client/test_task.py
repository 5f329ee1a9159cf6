"""Tasks are found by name, and what cannot be had is said in one line."""

from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
import torch
from torch import nn

from device_client import settings
from device_client.commands.run import task_with_flags
from device_client.task import Examples, Method, Recipe, Schedule, SplitError, Task, TaskError, check_split, pooled
from device_client.tasks.loading import load_task

OWN = """
from torch import nn
from device_client.task import Examples, Task

def quiet():
    return make("quiet")

def with_data(data):
    return make(data.name)

def make(name):
    some = lambda *_: Examples.of([[0.0], [1.0]], [0, 1])
    return Task(name=name, classes=("a", "b"), student=lambda: nn.Linear(1, 2), device_data=some, held_out=some)

def wrong():
    return 3

number = 7
"""


@pytest.fixture
def own(tmp_path: Path) -> Path:
    path = tmp_path / "own.py"
    path.write_text(OWN, encoding="utf-8")
    return path


def test_a_users_task_is_loaded_from_a_file(own: Path, tmp_path: Path) -> None:
    assert load_task(f"{own}:quiet", data=None).name == "quiet"
    assert load_task(f"{own}:with_data", data=tmp_path).name == tmp_path.name


def test_a_users_task_is_loaded_from_a_module() -> None:
    assert load_task("device_client.tasks.physiotherapy:task", data=None).name == "physiotherapy"


def test_built_in_tasks_go_by_name() -> None:
    assert load_task("physiotherapy", data=None).devices[0] == "person-03"


@pytest.mark.parametrize(
    ("spec", "says"),
    [
        (
            "fysio",
            "no task 'fysio'; known: ecg, har, mammography, mammography-crops, mammography-efficientnet, phys",
        ),
        ("own.py", "no task 'own.py'"),
        (":f", "no task ':f'"),
        ("missing/own.py:task", r"missing/own.py does not exist"),
        ("no.such.module:task", r"module no.such.module cannot be imported: ModuleNotFoundError"),
        ("har", r"--data FOLDER with spsw_sw_win50.npz"),
    ],
)
def test_what_cannot_be_found_is_said_in_one_line(spec: str, says: str) -> None:
    with pytest.raises(TaskError, match=says) as refusal:
        load_task(spec, data=None)
    assert "\n" not in str(refusal.value)


def test_a_file_that_is_not_a_task_says_why(own: Path, tmp_path: Path) -> None:
    with pytest.raises(TaskError, match="no function 'tusk'"):
        load_task(f"{own}:tusk", data=None)
    with pytest.raises(TaskError, match="no function 'number'"):
        load_task(f"{own}:number", data=None)
    with pytest.raises(TaskError, match="wrong returned int"):
        load_task(f"{own}:wrong", data=None)
    broken = tmp_path / "broken.py"
    broken.write_text("import nothing_of_this_name\n", encoding="utf-8")
    with pytest.raises(TaskError, match="cannot be imported: ModuleNotFoundError"):
        load_task(f"{broken}:task", data=None)


def test_the_methods_of_the_flag_are_those_of_the_recipe() -> None:
    assert get_args(settings.Method) == get_args(Method)


def some(device: str = "") -> Examples:
    return Examples.of(np.zeros((2, 3)), [0, 1], [device, device])


def test_an_unknown_device_is_named_with_the_known_ones() -> None:
    def task(devices: tuple[str, ...]) -> Task:
        return Task(
            name="t",
            classes=("a", "b"),
            student=lambda: nn.Linear(3, 2),
            device_data=some,
            held_out=some,
            devices=devices,
        )

    with pytest.raises(TaskError, match="no device 'person-9'; known: person-1, person-2"):
        task(("person-1", "person-2")).examples_of("person-9")
    assert len(task(("person-1",)).examples_of("person-1")) == 2
    assert len(task(()).examples_of("anybody")) == 2, "a task that lists no devices takes any"


def test_examples_are_put_into_shape_and_checked() -> None:
    examples = Examples.of([[1, 2], [3, 4]], [1, 0], [7, 8])
    assert examples.inputs.dtype == torch.float32
    assert examples.labels.dtype == torch.int64
    one = examples.where(np.array([False, True]))
    assert (len(one), one.persons) == (1, np.array(["8"]))
    both = pooled([examples, one])
    assert both.persons is not None
    assert both.persons.tolist() == ["7", "8", "8"]
    with pytest.raises(TaskError, match="2 inputs for 3 labels"):
        Examples.of([[1, 2], [3, 4]], [1, 0, 1])
    with pytest.raises(TaskError, match="data set is empty"):
        Examples.of(np.zeros((0, 3)), [])
    with pytest.raises(TaskError, match="float32"):
        Examples(inputs=torch.zeros(1, 2, dtype=torch.float64), labels=torch.zeros(1, dtype=torch.int64))


def test_one_person_on_two_sides_is_refused() -> None:
    sides = {"teacher": np.array(["1", "2"]), "device": np.array(["3"]), "test": np.array(["4", "5"])}
    check_split(sides)
    with pytest.raises(SplitError, match="person 2 is in both the teacher and the test data"):
        check_split({**sides, "test": np.array(["4", "2"])})


@pytest.mark.parametrize(
    ("schedule", "flags", "versions"),
    [
        ("cosine", {}, 90.0),
        ("cosine", {"schedule_versions": 7}, 7.0),
        ("inverse", {"schedule_versions": 7}, 90.0),
        ("constant", {"schedule_versions": 7}, 90.0),
    ],
)
def test_the_flag_moves_the_end_of_a_cosine_and_leaves_other_schedules(
    tmp_path: Path, schedule: Schedule, flags: dict[str, Any], versions: float
) -> None:
    some = Examples.of([[0.0], [1.0]], [0, 1])
    task = Task(
        name="own",
        classes=("a", "b"),
        student=lambda: nn.Linear(1, 2),
        device_data=lambda _: some,
        held_out=lambda: some,
        recipe=Recipe(schedule=schedule, schedule_versions=90.0),
    )
    told = settings.RunSettings(task="own", broker="mqtt://localhost", device="d", state=tmp_path, **flags)
    assert task_with_flags(task, told).recipe.schedule_versions == versions


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ("return data / 'x'", "unsupported operand type(s) for /: 'NoneType' and 'str'"),
        ("return read_time_series(data, None)", "no file or folder to read was given (None)"),
        ("return read_images(data, None)", "no file or folder to read was given (None)"),
        ("return records_in(data)", "no file or folder to read was given (None)"),
    ],
)
def test_a_task_that_needs_data_says_so(tmp_path: Path, body: str, said: str) -> None:
    imports = (
        "from device_client.data.images import read_images\n"
        "from device_client.data.time_series import read_time_series\n"
        "from device_client.data.wfdb_records import records_in\n"
    )
    (tmp_path / "needs.py").write_text(f"{imports}def task(data):\n    {body}\n")
    with pytest.raises(TaskError) as refusal:
        load_task(f"{tmp_path / 'needs.py'}:task", data=None)
    assert said in str(refusal.value)
    assert str(refusal.value).count("--data FOLDER") == 1
