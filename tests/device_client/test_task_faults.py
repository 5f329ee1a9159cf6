"""What is wrong with examples, a recipe or the fields of a task is one line that names the field."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from device_client.learning.evaluation import Metrics
from device_client.task import Examples, Recipe, Task, TaskError, pooled, regression

REPOSITORY = Path(__file__).parents[2]
INPUTS = np.arange(12, dtype=np.float64).reshape(4, 3)
NAN = float("nan")


def some(_device: str = "", *, columns: int = 3, persons: str | None = None) -> Examples:
    return Examples.of(np.ones((4, columns)), [0, 1, 2, 1], None if persons is None else [persons] * 4)


def task(**fields: Any) -> Task:
    usual: dict[str, Any] = {
        "name": "own",
        "classes": ("a", "b", "c"),
        "student": lambda: nn.Linear(3, 3),
        "device_data": some,
        "held_out": some,
    }
    return Task(**(usual | fields))


def complaint(act: Callable[[], object]) -> str:
    with pytest.raises(TaskError) as refusal:
        act()
    assert "\n" not in str(refusal.value)
    return str(refusal.value)


@pytest.mark.parametrize(
    ("inputs", "labels", "said"),
    [
        (INPUTS, [0, 1, -1, -1], "2 of 4 labels are negative, the first is -1 at index 2; labels start at 0"),
        (INPUTS, [0, NAN, 1, NAN], "2 of 4 labels are NaN or infinite, the first is nan at index 1"),
        (INPUTS, [0, 1, float("inf"), 1], "1 of 4 labels are NaN or infinite, the first is inf at index 2"),
        (INPUTS, [0, 1, 1.7, 1], "1 of 4 labels are no whole numbers, the first is 1.7 at index 2"),
        (INPUTS, torch.tensor([0, 0.5, 1, 1]), "1 of 4 labels are no whole numbers"),
        (INPUTS, ["walk", "sit", "run", "run"], "the index of each example's class, such as classes.index"),
        (INPUTS, [0, None, 1, 1], "the index of each example's class"),
        (INPUTS, [0, 1j, 1, 1], "labels are complex128"),
        (INPUTS, [[0, 1], [1]], "labels cannot be converted to one int64 array: ValueError"),
        (INPUTS, np.eye(4, dtype=int), "for one-hot labels give labels.argmax(axis=1)"),
        (
            np.where(INPUTS > 6, NAN, INPUTS),
            [0, 1, 1, 1],
            "2 of 4 inputs hold NaN or infinite values, the first at",
        ),
        (
            [0.0, 1.0, float("-inf"), 1.0],
            [0, 1, 1, 1],
            "1 of 4 inputs hold NaN or infinite values, the first at",
        ),
        ([1e300, 0.0], [0, 1], "1 of 2 inputs hold NaN or infinite values, the first at index 0"),
        (INPUTS * 1j, [0, 1, 1, 1], "inputs are complex128, and the imaginary part would be lost"),
        ([[1j], [0]], [0, 1], "inputs are complex128"),
        ([[1.0, 2.0], [1.0]], [0, 1], "inputs cannot be converted to one float32 array: ValueError"),
        ([["fast"], ["slow"]], [0, 1], "inputs cannot be converted to one float32 array: ValueError"),
        (3.0, [0], "inputs must be float32 and labels one-dimensional"),
    ],
)
def test_examples_that_are_not_valid(inputs: Any, labels: Any, said: str) -> None:
    assert said in complaint(lambda: Examples.of(inputs, labels))


def test_whole_float_labels_and_whole_number_inputs_stay_valid() -> None:
    assert Examples.of([[1], [2]], [1.0, 0.0]).labels.tolist() == [1, 0]
    assert Examples.of(torch.ones(2, 1), np.array([True, False])).labels.tolist() == [1, 0]


def test_arrays_in_the_place_of_tensors_and_parts_that_do_not_fit() -> None:
    arrays: Any = INPUTS
    assert "inputs must be a tensor, not ndarray; Examples.of converts" in complaint(
        lambda: Examples(inputs=arrays, labels=torch.tensor([0, 1, 1, 1]))
    )
    assert "shape (2,) for each example in part 1, but (3,) in part 0" in complaint(
        lambda: pooled([some(), some(columns=2)])
    )
    assert "no parts to pool" in complaint(lambda: pooled([]))


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"schedule": "cosin"}, "schedule='cosin' does not exist; did you mean 'cosine'?"),
        ({"method": "sgd"}, "method='sgd' does not exist; choose asyncfedkd, fedkd"),
        ({"task_loss": "focall"}, "did you mean 'focal'?"),
        ({"alpha": 2}, "alpha=2 must be a number, at least 0 and at most 1"),
        ({"alpha": -0.1}, "alpha=-0.1"),
        ({"epochs": 0}, "epochs=0 must be a whole number of at least 1"),
        ({"epochs": 1.5}, "epochs=1.5"),
        ({"teacher_epochs": 0}, "teacher_epochs=0"),
        ({"batch_size": 0}, "batch_size=0"),
        ({"teacher_batch_size": -1}, "teacher_batch_size=-1"),
        ({"learning_rate": -0.1}, "learning_rate=-0.1 must be a number, at least 0"),
        ({"learning_rate": "0.1"}, "learning_rate='0.1'"),
        ({"learning_rate": NAN}, "learning_rate=nan"),
        ({"teacher_learning_rate": -1}, "teacher_learning_rate=-1"),
        ({"local_teacher_learning_rate": -1}, "local_teacher_learning_rate=-1"),
        ({"weight_decay": -1}, "weight_decay=-1"),
        ({"temperature": 0}, "temperature=0 must be a number, greater than 0"),
        ({"mutual_temperature": -1}, "mutual_temperature=-1"),
        ({"schedule_versions": 0}, "schedule_versions=0"),
        ({"schedule_floor": 1.5}, "schedule_floor=1.5"),
        ({"label_smoothing": 1.5}, "label_smoothing=1.5"),
        ({"focal_gamma": -1}, "focal_gamma=-1"),
        ({"augment": 3}, "augment must be a function"),
    ],
)
def test_recipes_that_are_not_valid(fields: dict[str, Any], said: str) -> None:
    assert said in complaint(lambda: Recipe(**fields))
    assert said in complaint(lambda: replace(Recipe(), **fields))


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"name": "a/b"}, "task 'a/b': use 1 to"),
        ({"name": 3}, "task name 3 must be text"),
        ({"classes": ("a", "b", "a")}, "classes has a more than once"),
        ({"classes": ("a",)}, "needs at least 2 classes"),
        ({"classes": ()}, "needs at least 2 classes"),
        ({"classes": "abc"}, "classes must be a tuple of names"),
        ({"classes": (1, 2)}, "classes must be a tuple of names"),
        ({"classes": ("a", "")}, "classes must be a tuple of names"),
        ({"classes": ("a", "b\nc")}, r"classes has 'b\nc', which holds a line break or another control character"),
        ({"classes": ("a", "b\x1b[31m")}, "control character"),
        ({"classes": ("a", "b" * 1025)}, "with 1,025 characters; up to 1,024 can be sent"),
        ({"devices": ("d1", "d1")}, "devices has d1 more than once"),
        ({"devices": ("d 1",)}, "device 'd 1': use 1 to"),
        ({"devices": "d1"}, "devices must be a tuple of names"),
        (
            {"student": nn.Linear(3, 3)},
            "student must be a function, such as student=lambda: Network(), not an",
        ),
        ({"teacher": nn.Linear(3, 3)}, "teacher must be a function"),
        ({"device_data": some()}, "device_data must be a function, such as device_data=lambda device: Examples"),
        ({"held_out": some()}, "held_out must be a function"),
        ({"teacher_data": 3}, "teacher_data must be a function"),
        ({"recipe": {"epochs": 2}}, "recipe must be a Recipe, not dict"),
    ],
)
def test_tasks_that_are_not_valid(fields: dict[str, Any], said: str) -> None:
    assert said in complaint(lambda: task(**fields))


def test_a_main_metric_needs_a_name_that_fits_its_message() -> None:
    assert replace(regression(), main="m" * 64).main
    assert "longer than 64 characters" in complaint(lambda: replace(regression(), main="m" * 65))
    assert "control character" in complaint(lambda: replace(regression(), main="m\n"))
    assert "'loss' is the name of the mean loss" in complaint(lambda: replace(regression(), main="loss"))


@pytest.mark.parametrize(
    ("name", "said"),
    [("loss", "a metric is called 'loss'"), ("", "empty name"), ("a\nb", "a line break"), ("m" * 1025, "up to 1,024")],
)
def test_names_of_metrics_are_checked_before_the_first_round(name: str, said: str) -> None:
    objective = regression()
    metrics = Metrics(replace(objective, metrics=lambda: {**objective.metrics(), name: lambda _p, _t: 0.0}))
    metrics.update(torch.ones(2, 1), (torch.ones(2, 3), torch.ones(2, 1)), torch.tensor(0.0))
    assert said in complaint(metrics.values)
