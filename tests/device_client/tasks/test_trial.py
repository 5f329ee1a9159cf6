"""What is wrong with a loss, a metric, an optimiser or a data set is one line before the first round, or during it."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, IterableDataset, TensorDataset

from device_client.learning.asyncfedkd import train_student
from device_client.learning.evaluation import evaluate
from device_client.learning.parameters import layout_of, vector_of
from device_client.learning.student_trainer import StudentTrainer
from device_client.task import Examples, Objective, Recipe, Task, TaskError, classification, regression
from device_client.task.batching import evaluation_batches
from device_client.task_checks import first_line
from device_client.tasks.checking import checked
from device_client.tasks.guards import GuardedTrainer
from device_client.tasks.trial import check_learning, check_measuring

X = torch.randn(9, 3, generator=torch.Generator().manual_seed(1))
EXAMPLES = Examples.of(X, targets=X[:, :1])


def task(data: Any = EXAMPLES, **fields: Any) -> Task:
    return checked(
        Task(
            **{  # type: ignore[arg-type]
                "name": "own",
                "objective": regression(),
                "student": lambda: nn.Linear(3, 1),
                "device_data": lambda _device: data,
                "held_out": lambda: EXAMPLES,
                **fields,
            }
        )
    )


def complaint(act: Callable[[], object]) -> str:
    with pytest.raises(TaskError) as refusal:
        act()
    assert "\n" not in str(refusal.value)
    return str(refusal.value)


def trial(data: Any = EXAMPLES, teacher: nn.Module | None = None, **fields: Any) -> None:
    own = task(data, **fields)
    check_learning(own, student=own.student(), teacher=teacher, data=own.examples_of("a"))


def custom(**fields: Any) -> Objective:
    return replace(regression(), **fields)


def failing(*_arguments: object) -> Any:
    return {}["no such key"]


@pytest.mark.parametrize(
    "data",
    [
        EXAMPLES,
        TensorDataset(X, X[:, :1]),
        DataLoader(TensorDataset(X, X[:, :1]), batch_size=4),
        TensorDataset(X.double(), X[:, 0].double()),
    ],
)
def test_what_is_right_passes_and_changes_nothing(data: Any) -> None:
    own = task(data)
    student, teacher = own.student(), nn.Linear(3, 1)
    before, state = vector_of(student, layout_of(student)), torch.get_rng_state()
    check_learning(own, student=student, teacher=teacher, data=own.examples_of("a"))
    check_measuring(own, student, own.held_out())
    assert (vector_of(student, layout_of(student)) == before).all()
    assert torch.equal(torch.get_rng_state(), state) or isinstance(data, DataLoader)
    assert all(parameter.grad is None for parameter in student.parameters())


@pytest.mark.parametrize(
    ("objective", "said"),
    [
        (custom(loss=lambda outputs, _batch: outputs), "own: loss returned a tensor (2, 1); it must be a scalar"),
        (
            custom(loss=lambda outputs, _batch: float(outputs.detach().sum())),
            "own: loss returned float; it must be a scalar",
        ),
        (custom(loss=lambda outputs, _batch: outputs.sum() / 0 * 0), "own: loss is nan for the first examples"),
        (custom(loss=lambda outputs, _batch: outputs.detach().sum()), "own: loss has no gradient, so nothing"),
        (custom(loss=failing), f"own: loss failed: KeyError: 'no such key' ({__file__}:"),
        (custom(main="rmsle"), "the main metric 'rmsle' is not among the metrics: mae, rmse, r2"),
        (custom(metrics=failing), f"own: metrics failed: KeyError: 'no such key' ({__file__}:"),
        (custom(distillation=None), "has no distillation, which a teacher needs"),
        (custom(distillation=failing), f"own: distillation failed: KeyError: 'no such key' ({__file__}:"),
        (custom(distillation=lambda *_: torch.tensor(1.0)), "own: distillation has no gradient"),
        (custom(forward=failing), "own: student does not accept inputs of shape (2, 3): KeyError"),
    ],
)
def test_objectives_that_do_not_work(objective: Objective, said: str) -> None:
    assert said in complaint(lambda: trial(teacher=nn.Linear(3, 1), objective=objective))
    if objective.distillation is None:
        trial(objective=objective)
        trial(teacher=nn.Linear(3, 1), objective=objective, recipe=Recipe(alpha=0.0))


def groups_are(returned: Any) -> Callable[[Any], Any]:
    return lambda _groups: returned


@pytest.mark.parametrize(
    ("recipe", "said"),
    [
        (Recipe(optimiser=groups_are(3)), "optimiser returned int, not a torch.optim.Optimizer"),
        (Recipe(optimiser=failing), f"recipe: optimiser failed: KeyError: 'no such key' ({__file__}:"),
        (Recipe(schedule=failing), f"recipe: schedule(0) failed: KeyError: 'no such key' ({__file__}:"),
        (Recipe(schedule=lambda _version: -1.0), "schedule(0) returned -1.0"),
        (Recipe(augment=failing), f"augment failed: KeyError: 'no such key' ({__file__}:"),
        (Recipe(augment_batch=lambda batch, _generator: batch[0][:1]), "augment_batch returned shape (1, 3)"),
    ],
)
def test_recipes_that_do_not_work(recipe: Recipe, said: str) -> None:
    assert said in complaint(lambda: trial(recipe=recipe))


def test_functions_of_a_recipe_that_are_none_and_two_augmentations() -> None:
    wrong: Any = 3
    assert "optimiser must be a function of parameter groups" in complaint(lambda: Recipe(optimiser=wrong))
    assert "augment_batch must be a function of a batch" in complaint(lambda: Recipe(augment_batch=wrong))
    assert "augment or augment_batch, not both" in complaint(lambda: Recipe(augment=failing, augment_batch=failing))


def test_outputs_that_do_not_fit_the_targets() -> None:
    assert "outputs have shape (2, 2) and targets (2, 1)" in complaint(lambda: trial(student=lambda: nn.Linear(3, 2)))


def test_measurements_that_were_taken_for_tokens() -> None:
    counts = Examples.of((X * 100).long(), targets=X[:, :1])
    assert "whole numbers are taken for tokens: give measurements as floats" in complaint(lambda: trial(counts))


def test_one_single_example_for_batch_norm() -> None:
    def network() -> nn.Module:
        return nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 1))

    one = Examples.of(X[:1], targets=X[:1, :1])
    assert "and this device has one example; give more, or use GroupNorm" in complaint(
        lambda: trial(one, student=network)
    )
    assert "and batch_size is 1" in complaint(lambda: trial(student=network, recipe=Recipe(batch_size=1)))
    trial(student=network)
    trial(one)


@pytest.mark.parametrize(
    ("data", "said"),
    [
        ((X, X[:, :1]), "returned tuple, not Examples; end it with return Examples.of"),
        ([X], "returned list, not Examples"),
        (3, "returned int, not Examples"),
        (iter([X]), "returned an iterator (list_iterator), which can be read only once"),
        (TensorDataset(X[:0]), "the data set is empty"),
        (DataLoader(TensorDataset(X[:0]), batch_size=2), "the data has no examples"),
    ],
)
def test_data_that_is_none(data: Any, said: str) -> None:
    assert said in complaint(lambda: trial(data))


class Breaks(torch.utils.data.Dataset[Any]):
    """A file that is damaged after the first rows."""

    persons = ("p", "q")

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        if index > 4:
            raise OSError("row cannot be read")
        return X[index], X[index, :1]

    def __len__(self) -> int:
        return len(X)


class BreakingStream(IterableDataset[Any]):
    def __iter__(self) -> Iterator[Any]:
        for index in range(9):
            yield Breaks()[index]


@pytest.mark.parametrize("data", [Breaks(), DataLoader(Breaks(), batch_size=4), BreakingStream()])
def test_data_that_breaks_while_it_is_read(data: Any) -> None:
    """One line, in a round and in an evaluation, with the line in the user's file."""
    own = task(data)
    student, loaded = own.student(), own.examples_of("a")
    check_learning(own, student=student, teacher=None, data=loaded)
    layout = layout_of(student)
    trainer = StudentTrainer(
        device="a", student=student, layout=layout, data=loaded, recipe=own.recipe, objective=own.objective
    )
    guard = GuardedTrainer(trainer, own.name, device="d1")
    said = complaint(lambda: guard.train(vector_of(student, layout), version=0, round=1, tick=lambda: True))
    assert "task own: device_data('a')" in said
    assert f"OSError: row cannot be read ({__file__}:" in said
    assert "OSError" in complaint(lambda: list(evaluation_batches(loaded, 4)))


@pytest.mark.parametrize(
    ("labels", "said"),
    [
        (torch.tensor([0, 1, 2, 0, 5, 1]), "1 of 2 labels have no class, the first is 5 at index 0"),
        (torch.tensor([0, 1, 2, 0, -1, 1]), "1 of 2 labels have no class, the first is -1"),
        (torch.tensor([0.0, 1, 2, 0, 1, 1]), "labels must be one-dimensional whole numbers.*not torch.float32"),
        (torch.tensor([[0], [1], [2], [0], [1], [1]]), "labels must be one-dimensional whole numbers"),
    ],
)
def test_labels_of_a_data_set_are_checked_with_each_batch(labels: Tensor, said: str) -> None:
    loader = DataLoader(TensorDataset(X[:6], labels), batch_size=2)
    student, classes = nn.Linear(3, 3), classification(("a", "b", "c"))
    with pytest.raises(TaskError, match=said):
        train_student(student, None, loader, Recipe(), objective=classes, seed=1, version=0)
    with pytest.raises(TaskError, match=said):
        evaluate(student, loader, classes)
    small = DataLoader(TensorDataset(X[:6], torch.tensor([0, 1, 2, 0, 1, 1], dtype=torch.uint8)), batch_size=2)
    assert train_student(student, None, small, Recipe(), objective=classes, seed=1, version=0).finished


def test_a_person_of_a_data_set_on_two_sides() -> None:
    own = task(Breaks(), held_out=lambda: Examples.of(X, targets=X[:, :1], persons=["q"] * 9))
    own.examples_of("a")
    assert "person q is in both the device and the held-out data" in complaint(own.held_out)


def test_a_loss_that_fails_during_a_round_is_one_line_and_a_defect_of_ours_is_not() -> None:
    calls: list[int] = []

    def fails_later(outputs: Tensor, _batch: Any) -> Tensor:
        calls.append(1)
        if len(calls) > 2:
            raise ZeroDivisionError("no items")
        return outputs.sum()

    own = task(objective=custom(loss=fails_later), recipe=Recipe(batch_size=2))
    student = own.student()
    layout = layout_of(student)
    trainer = StudentTrainer(
        device="a", student=student, layout=layout, data=EXAMPLES, recipe=own.recipe, objective=own.objective
    )
    guard, start = GuardedTrainer(trainer, own.name, device="d1"), vector_of(student, layout)
    said = complaint(lambda: guard.train(start, version=4, round=2, tick=lambda: True))
    assert f"task own: round 2 on model 4 failed: ZeroDivisionError: no items ({__file__}:" in said
    with pytest.raises(Exception, match="layout: a float32 vector"):
        guard.train(start[:1], version=4, round=2, tick=lambda: True)


class Grows(nn.Linear):
    def forward(self, inputs: Tensor) -> Tensor:
        if not hasattr(self, "more"):
            self.more = nn.Linear(1, 1)
        return super().forward(inputs)


def test_weights_that_appear_in_the_first_pass() -> None:
    said = complaint(lambda: trial(student=lambda: Grows(3, 1)))
    assert "its first pass adds or removes weights (more.bias, more.weight); make all of them in the constr" in said


class Ragged(torch.utils.data.Dataset[Any]):
    """Its last example is longer than the others."""

    def __getitem__(self, index: int) -> Any:
        return torch.ones(3 + (index == 8)), torch.ones(1)

    def __len__(self) -> int:
        return 9


def test_what_fails_in_a_later_round_is_named() -> None:
    def fails_later(version: int) -> float:
        return 1.0 / (3 - version)

    for data, recipe, version, said in (
        (Ragged(), Recipe(batch_size=9), 0, "device_data('a'): the examples cannot be put into one batch"),
        (EXAMPLES, Recipe(schedule=fails_later), 3, "recipe: schedule(3) failed: ZeroDivisionError: float divis"),
    ):
        own = task(data, recipe=recipe)
        student, loaded = own.student(), own.examples_of("a")
        layout = layout_of(student)
        trainer = StudentTrainer(
            device="a", student=student, layout=layout, data=loaded, recipe=recipe, objective=own.objective
        )
        guard, start = GuardedTrainer(trainer, own.name, device="a"), vector_of(student, layout)
        message = complaint(lambda: guard.train(start, version=version, round=1, tick=lambda: True))  # noqa: B023
        assert said in message


def test_an_error_of_a_loaders_worker_is_what_the_worker_raised() -> None:
    said = "Caught ValueError in DataLoader worker process 0.\nOriginal Traceback:\n  …\nValueError: bad row\n"
    assert first_line(ValueError(said)) == "ValueError: bad row"
