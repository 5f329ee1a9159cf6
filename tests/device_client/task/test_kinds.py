"""Every built-in objective learns: under a frozen teacher, together with a teacher, and alone."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from device_client.learning.asyncfedkd import train_alone, train_student, train_teacher
from device_client.learning.evaluation import evaluate
from device_client.learning.fedkd import train_mutually
from device_client.learning.seeding import seeded
from device_client.task import (
    Examples,
    Objective,
    Recipe,
    Task,
    TaskError,
    classification,
    multi_label,
    per_pixel,
    per_token,
    reconstruction,
    regression,
)

RECIPE = Recipe(epochs=8, batch_size=16, learning_rate=1e-2, teacher_epochs=8, teacher_learning_rate=1e-2)
EXAMPLES = 67


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


def noise(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(3))


class Tokens(nn.Module):
    """Tokens (batch, step) to logits (batch, step, 5), as a dict."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.embedding, self.head = nn.Embedding(5, width), nn.Linear(width, 5)

    def forward(self, tokens: Tensor) -> dict[str, Tensor]:
        return {"logits": self.head(self.embedding(tokens))}


def table(width: int, outputs: int) -> nn.Module:
    return nn.Sequential(nn.Linear(4, width), nn.Tanh(), nn.Linear(width, outputs))


@dataclass(frozen=True)
class Case:
    objective: Objective
    make: Callable[[int], nn.Module]
    data: Callable[[], Examples]
    good: float
    """What a learned model reaches by the main metric."""


X = noise(EXAMPLES, 4)
IMAGES = noise(EXAMPLES, 1, 6, 5)
WALK = torch.arange(EXAMPLES)[:, None] + torch.arange(7)[None]
CASES = {
    "classification": Case(
        classification(("a", "b")), lambda w: table(w, 2), lambda: Examples.of(X, (X[:, 0] > 0).long()), 0.9
    ),
    "ranked classification": Case(
        classification(("a", "b"), main="auc"), lambda w: table(w, 2), lambda: Examples.of(X, (X[:, 0] > 0).long()), 0.9
    ),
    "regression": Case(
        regression(("one", "two")), lambda w: table(w, 2), lambda: Examples.of(X, targets=X[:, :2] * 0.5), 0.2
    ),
    "one number": Case(
        regression(("load",)), lambda w: table(w, 1), lambda: Examples.of(X, targets=X[:, 1].double()), 0.35
    ),
    "multi_label": Case(
        multi_label(("p", "q", "r")), lambda w: table(w, 3), lambda: Examples.of(X, targets=X[:, :3] > 0), 0.85
    ),
    "per_pixel": Case(
        per_pixel(("off", "on")),
        lambda w: nn.Sequential(nn.Conv2d(1, w, 1), nn.ReLU(), nn.Conv2d(w, 2, 1)),
        lambda: Examples.of(IMAGES, targets=IMAGES[:, 0] > 0),
        0.8,
    ),
    "per_token": Case(per_token(5), Tokens, lambda: Examples.of(WALK % 5, targets=(WALK + 1) % 5), 0.95),
    "reconstruction": Case(reconstruction(), lambda w: table(w, 4), lambda: Examples.of(X), 0.5),
}
each = pytest.mark.parametrize("case", CASES.values(), ids=list(CASES))


def fresh(case: Case, width: int = 16) -> nn.Module:
    with seeded(1):
        return case.make(width)


def is_better(case: Case, one: float, other: float) -> bool:
    return one > other if case.objective.higher_is_better else one < other


@each
def test_it_learns_under_a_teacher_and_is_measured(case: Case) -> None:
    student, teacher, data = fresh(case), fresh(case, 32), case.data()
    train_teacher(teacher, data, RECIPE, objective=case.objective, seed=1)
    before = evaluate(student, data, case.objective)
    result = train_student(student, teacher, data, RECIPE, objective=case.objective, seed=1, version=0)
    after = evaluate(student, data, case.objective)
    main = case.objective.main
    assert list(after)[:2] == [main, "loss"]
    assert set(result.metrics) == {main, "loss"}
    assert result.samples == EXAMPLES
    assert is_better(case, after[main], before[main])
    assert is_better(case, after[main], case.good), after


@each
def test_it_learns_together_with_a_teacher(case: Case) -> None:
    student, teacher = fresh(case), fresh(case, 32)
    main = case.objective.main
    before = [evaluate(network, case.data(), case.objective)[main] for network in (student, teacher)]
    result = train_mutually(student, teacher, None, case.data(), RECIPE, objective=case.objective, seed=1, version=0)
    after = [evaluate(network, case.data(), case.objective)[main] for network in (student, teacher)]
    assert set(result.metrics) == {main, "loss", f"teacher_{main}", "teacher_loss"}
    assert all(is_better(case, new, old) for new, old in zip(after, before, strict=True))


@each
def test_distillation_vanishes_where_both_agree_and_only_the_student_gets_a_gradient(case: Case) -> None:
    student, teacher, batch = fresh(case), fresh(case, 32), case.data().batch(slice(0, 8))
    distil = case.objective.distillation
    assert distil is not None
    outputs = case.objective.forward(student, batch)
    with torch.no_grad():
        others = case.objective.teaching(case.objective.forward(teacher, batch))
    assert float(distil(outputs, outputs, batch, 2.0).detach()) == pytest.approx(0.0, abs=1e-6)
    apart = distil(outputs, others, batch, 2.0)
    assert float(apart.detach()) > 1e-3
    apart.backward()  # type: ignore[no-untyped-call]
    assert all(parameter.grad is not None for parameter in student.parameters())


def test_predictions_of_numbers_are_not_broadcast_against_targets() -> None:
    """(batch, 1) and (batch,) are the same numbers; others are refused."""
    objective, outputs = regression(), torch.arange(4.0)[:, None]
    assert float(objective.loss(outputs, (None, torch.arange(4.0)))) == 0.0
    with pytest.raises(TaskError, match=r"outputs have shape \(4, 2\) and targets \(4,\)"):
        objective.loss(torch.zeros(4, 2), (None, torch.arange(4.0)))


def test_positions_that_are_ignored_neither_teach_nor_count() -> None:
    objective = per_token(("a", "b"))
    logits, targets = torch.tensor([[[2.0, 0.0], [0.0, 3.0]]]), torch.tensor([[0, -100]])
    alone = objective.loss(logits[:, :1], (None, targets[:, :1]))
    assert torch.equal(objective.loss(logits, (None, targets)), alone)
    assert float(objective.loss(logits, (None, torch.full((1, 2), -100)))) == 0.0, "not NaN"

    class Says(nn.Module):
        def forward(self, inputs: Tensor) -> Tensor:
            return inputs

    assert evaluate(Says(), Examples.of(logits, targets=targets), objective)["token_accuracy"] == 1.0


def test_metrics_of_numbers_are_those_of_all_examples_at_once() -> None:
    random = np.random.default_rng(1)
    targets, errors = random.normal(1e4, 2.0, (1200, 3)), random.normal(0, 0.5, (1200, 3))

    class Says(nn.Module):
        def forward(self, inputs: Tensor) -> Tensor:
            return inputs

    found = evaluate(Says(), Examples.of(targets + errors, targets=targets), regression(("x", "y", "z")))
    made = np.float32(targets + errors).astype(float) - np.float32(targets)
    assert found["mae"] == pytest.approx(np.abs(made).mean())
    assert found["mae_y"] == pytest.approx(np.abs(made[:, 1]).mean())
    assert found["rmse"] == pytest.approx(np.sqrt((made**2).mean()))
    spread = np.float32(targets).astype(float).var(axis=0)
    assert found["r2"] == pytest.approx((1 - (made**2).mean(axis=0) / spread).mean(), rel=1e-6)


@pytest.mark.parametrize(
    ("case", "targets", "said"),
    [
        ("multi_label", [[0, 2, 1]], "1 of 3 targets are outside 0 to 1, the first is 2"),
        ("multi_label", [[0, 1]], "the last dimension must be 3"),
        ("per_pixel", [[[0, 5]]], "outside 0 to 1, the first is 5"),
        ("per_token", [[-1, 4, 5, -100]], "2 of 4 targets are outside 0 to 4"),
    ],
)
def test_targets_outside_are_refused(case: str, targets: Any, said: str) -> None:
    check = CASES[case].objective.check_targets
    assert check is not None
    with pytest.raises(TaskError, match=said):
        check(torch.tensor(targets))


def test_a_task_has_an_objective_and_labels_whichever_way_it_is_written() -> None:
    def task(**fields: Any) -> Task:
        return Task(name="t", student=lambda: nn.Linear(1, 2), device_data=None, held_out=None, **fields)

    short = task(classes=("a", "b"))
    assert (short.objective.kind, short.labels) == ("classification", ("a", "b"))
    assert replace(short, recipe=Recipe(epochs=3)).labels == ("a", "b")
    other = task(objective=regression(("speed",)), forward=lambda network, batch: network(batch[0]))
    assert (other.classes, other.labels, other.objective.kind) == ((), ("speed",), "regression")
    assert other.objective.forward is other.forward
    for fields, said in (
        ({}, "at least 2 classes"),
        ({"classes": ("a", "b"), "objective": regression()}, "classes, or an objective"),
        ({"objective": "regression"}, "objective must be an Objective"),
        ({"objective": regression(), "recipe": Recipe(task_loss="focal")}, "apply to class labels"),
    ):
        with pytest.raises(TaskError, match=said):
            task(**fields)


def test_a_baseline_learns_any_objective() -> None:
    case = CASES["regression"]
    student = fresh(case)
    train_alone(student, None, case.data(), RECIPE, objective=case.objective, epochs=8, seed=1)
    assert evaluate(student, case.data(), case.objective)["mae"] < case.good
