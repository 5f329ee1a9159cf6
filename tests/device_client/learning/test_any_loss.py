"""A loss, metrics, optimiser and schedule of the user's; what a teacher gives; and where networks are computed."""

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from device_client.learning.accelerator import accelerator_of
from device_client.learning.asyncfedkd import train_student
from device_client.learning.evaluation import evaluate, measure
from device_client.learning.local_teacher import LocalTeacher
from device_client.learning.parameters import layout_of, vector_of
from device_client.learning.seeding import seeded
from device_client.learning.student_trainer import StudentTrainer
from device_client.task import Data, Examples, Objective, Recipe, TaskError, logits_in, targets_of

X = torch.randn(64, 3, generator=torch.Generator().manual_seed(1))
EXAMPLES = Examples.of(X, targets=X.sum(dim=1))
RECIPE = Recipe(epochs=10, batch_size=16, learning_rate=2e-2)


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


def pinball(outputs: Any, batch: Any) -> Tensor:
    """Of the upper quartile."""
    error = targets_of(batch) - logits_in(outputs)[:, 0]
    return torch.maximum(0.75 * error, -0.25 * error).mean()


def distil(student: Any, teacher: Any, _batch: Any, temperature: float) -> Tensor:
    assert temperature > 0
    return (student["logits"] - teacher["logits"]).abs().mean()


class Largest:
    """With the methods of torchmetrics: exact over batches."""

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        self.value = torch.tensor(0.0)

    def update(self, predictions: Tensor, targets: Tensor) -> None:
        self.value = torch.maximum(self.value, (predictions[:, 0] - targets).abs().max())

    def compute(self) -> Tensor:
        return self.value


def mae(predictions: Tensor, targets: Tensor) -> Tensor:
    return (predictions[:, 0] - targets).abs().mean()


def objective(metrics: Mapping[str, Any] | None = None, *, main: str = "mae", **more: Any) -> Objective:
    return Objective(
        loss=pinball,
        metrics=lambda: {"mae": mae, "largest": Largest(), **(metrics or {})},
        main=main,
        higher_is_better=False,
        distillation=distil,
        **more,
    )


class Dicts(nn.Module):
    def __init__(self, width: int = 8) -> None:
        super().__init__()
        self.body, self.head = nn.Linear(3, width), nn.Linear(width, 1)
        self.asked = 0

    def forward(self, inputs: Tensor) -> dict[str, Tensor]:
        self.asked += 1
        return {"logits": self.head(torch.tanh(self.body(inputs)))}


def fresh(width: int = 8) -> Dicts:
    with seeded(1):
        return Dicts(width)


def test_a_loss_of_ones_own_is_learned_and_measured() -> None:
    student = fresh()
    before = evaluate(student, EXAMPLES, objective())
    result = train_student(student, None, EXAMPLES, RECIPE, objective=objective(), seed=1, version=0)
    after = evaluate(student, EXAMPLES, objective())
    assert set(after) == {"mae", "loss", "largest"}
    assert after["loss"] < 0.5 * before["loss"]
    assert set(result.metrics) == {"mae", "loss"}
    with torch.no_grad():
        error = (student(X)["logits"][:, 0] - EXAMPLES.targets).abs()
    assert after["mae"] == pytest.approx(float(error.mean()), rel=1e-5)
    assert after["largest"] == pytest.approx(float(error.max()), rel=1e-5)


def test_plain_functions_are_weighted_by_examples_and_objects_are_exact() -> None:
    loader = DataLoader(TensorDataset(X, EXAMPLES.targets), batch_size=60)
    count, found = measure(fresh(), loader, objective())
    assert count == 64
    assert found == pytest.approx(evaluate(fresh(), EXAMPLES, objective()), rel=1e-5)


def test_an_evaluation_that_fails_leaves_no_trace() -> None:
    student = fresh().train()
    with pytest.raises(TaskError) as kept:
        evaluate(student, EXAMPLES, objective({"other": lambda *_: "x"}))
    assert kept.tb is not None, "as a program that holds the traceback"
    assert student.training
    assert torch.is_grad_enabled()


def test_several_values_of_one_metric_get_names() -> None:
    class Each(Largest):
        def compute(self) -> Any:
            return torch.tensor([1.0, 2.0])

    class Named(Largest):
        def compute(self) -> Any:
            return {"low": 1.0, "high": torch.tensor(2.0)}

    found = evaluate(fresh(), EXAMPLES, objective({"each": Each(), "named": Named()}, labels=("x", "y")))
    assert {name: found[name] for name in ("each_x", "each_y", "low", "high")} == {
        "each_x": 1.0,
        "each_y": 2.0,
        "low": 1.0,
        "high": 2.0,
    }


def test_one_object_may_hold_all_metrics() -> None:
    class Collection(Largest):
        def compute(self) -> Any:
            return {"largest": self.value, "half": self.value / 2}

    whole: Any = Collection
    found = evaluate(fresh(), EXAMPLES, replace(objective(), metrics=whole, main="half"))
    assert found["largest"] == pytest.approx(2 * found["half"])
    assert list(found) == ["half", "loss", "largest"]


def test_a_metric_that_is_not_finite_is_left_out_and_said_so() -> None:
    said: list[str] = []
    broken = objective({"odd": lambda _predictions, _targets: math.nan})
    assert "odd" not in evaluate(fresh(), EXAMPLES, broken, warn=said.append)
    assert said == ["metric odd is left out, because its value is nan"]
    with pytest.raises(TaskError, match="the main metric odd is nan on the held-out data"):
        evaluate(fresh(), EXAMPLES, replace(broken, main="odd"))
    result = train_student(fresh(), None, EXAMPLES, RECIPE, objective=replace(broken, main="odd"), seed=1, version=0)
    assert set(result.metrics) == {"loss"}, "it does not make the round diverge"


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        (objective(main="rmse"), "main metric 'rmse' is not among the metrics: mae, largest"),
        (objective({"other": 3}), "metric other must be a function"),
        (objective({"other": lambda *_: "x"}), "metric other returned str, not a number"),
        (replace(objective(), metrics=lambda: [mae]), "returned list, not metrics by name"),  # type: ignore[arg-type,return-value]
    ],
)
def test_metrics_that_are_none(wrong: Objective, said: str) -> None:
    with pytest.raises(TaskError, match=said):
        evaluate(fresh(), EXAMPLES, wrong)


@pytest.mark.parametrize(
    ("field", "value", "said"),
    [
        ("loss", None, "loss must be a function"),
        ("loss", 3, "loss must be a function"),
        ("metrics", {"mae": mae}, "metrics must be a function, such as lambda"),
        ("main", "", "main='' must be the name"),
        ("higher_is_better", "yes", "must be True or False"),
        ("labels", ("a", "a"), "more than once"),
    ],
)
def test_objectives_that_are_none(field: str, value: Any, said: str) -> None:
    with pytest.raises(TaskError, match=said):
        replace(objective(), **{field: value})


def trainer(data: Data, teacher: nn.Module | None, **more: Any) -> tuple[StudentTrainer, Any]:
    student = fresh()
    layout = layout_of(student)
    made = StudentTrainer(
        device="a",
        student=student,
        layout=layout,
        data=data,
        recipe=RECIPE,
        objective=objective(),
        teacher=teacher,
        **more,
    )
    return made, vector_of(student, layout)


def test_a_teacher_with_outputs_of_any_form_is_asked_once_for_examples_and_each_batch_of_other_data() -> None:
    """And gives the same lesson either way, where the order is the same."""
    lessons = []
    for data, asked in ((EXAMPLES, 1), (TensorDataset(X, EXAMPLES.targets), 2 * 10 * 4)):
        teacher = fresh(16)
        made, start = trainer(data, teacher)
        for number in (1, 2):
            trained = made.train(start, version=0, round=number, tick=lambda: True)
            assert trained is not None
            lessons.append(trained.weights)
        assert teacher.asked == asked
    untaught = trainer(EXAMPLES, None)[0].train(start, version=0, round=1, tick=lambda: True)
    assert untaught is not None
    np.testing.assert_allclose(lessons[0], lessons[2], atol=1e-5)
    assert not np.allclose(lessons[0], untaught.weights, atol=1e-3)


def test_outputs_that_do_not_belong_to_one_example_are_computed_for_each_batch() -> None:
    class WithLoss(Dicts):
        def forward(self, inputs: Tensor) -> dict[str, Tensor]:
            return {"loss": inputs.mean(), **super().forward(inputs)}

    teacher = WithLoss(16)
    made, start = trainer(EXAMPLES, teacher)
    assert made.train(start, version=0, round=1, tick=lambda: True) is not None
    assert teacher.asked == 1 + 10 * 4


def test_fedkd_distils_by_a_function_of_the_users_in_both_directions() -> None:
    teacher = LocalTeacher(fresh(16), None, task="t")
    student = fresh()
    layout = layout_of(student)
    made = StudentTrainer(
        device="a",
        student=student,
        layout=layout,
        data=EXAMPLES,
        recipe=replace(RECIPE, method="fedkd"),
        objective=objective(),
        local_teacher=teacher,
    )
    trained = made.train(vector_of(student, layout), version=0, round=1, tick=lambda: True)
    assert trained is not None
    assert set(trained.metrics) == {"loss", "mae", "teacher_loss", "teacher_mae"}
    with pytest.raises(TaskError, match=r"\(custom\) has no distillation, which a teacher needs"):
        train_student(
            student,
            teacher.network,
            EXAMPLES,
            RECIPE,
            objective=replace(objective(), distillation=None),
            seed=1,
            version=0,
        )


def test_data_is_loaded_anew_before_each_round() -> None:
    loaded: list[int] = []

    def load() -> Examples:
        loaded.append(8 * (len(loaded) + 1))
        return Examples.of(X[: loaded[-1]], targets=EXAMPLES.targets[: loaded[-1]])

    teacher = fresh(16)
    made, start = trainer(load(), teacher, reload=load)
    trained = [made.train(start, version=0, round=number, tick=lambda: True) for number in (1, 2)]
    assert [one.samples for one in trained if one] == [16, 24]
    assert teacher.asked == 2


def test_an_optimiser_of_ones_own_gets_the_schedule() -> None:
    rates: dict[int, list[float]] = {0: [], 1: []}

    class Sgd(torch.optim.SGD):
        def step(self, closure: Any = None) -> None:  # type: ignore[override]
            for number, group in enumerate(self.param_groups):
                rates[number].append(float(group["lr"]))
            super().step(closure)

    def halves(groups: list[dict[str, Any]]) -> torch.optim.Optimizer:
        parameters, rate = groups[0]["params"], groups[0]["lr"]
        return Sgd([{"params": parameters[:1], "lr": rate}, {"params": parameters[1:], "lr": rate / 10}], momentum=0.9)

    recipe = replace(RECIPE, epochs=1, optimiser=halves, schedule=lambda version: 1 / (1 + version))
    student = fresh()
    student.head.bias.requires_grad_(False)
    before = vector_of(student, layout_of(student))
    train_student(student, None, EXAMPLES, recipe, objective=objective(), seed=1, version=3)
    assert rates == {0: pytest.approx([5e-3] * 4), 1: pytest.approx([5e-4] * 4)}
    assert not np.array_equal(vector_of(student, layout_of(student)), before)
    assert float(student.head.bias.detach()) == before[-1], "a frozen parameter stays as it is"


@pytest.mark.parametrize("share", [-0.1, math.nan, math.inf, "half", None])
def test_a_schedule_that_returns_no_share(share: Any) -> None:
    with pytest.raises(TaskError, match=r"schedule\(3\) returned .*; it must be a share of the learning rate"):
        Recipe(schedule=lambda _version: share).learning_rate_at(3)


def test_a_loss_that_becomes_nan_is_in_the_metrics_so_that_the_round_is_dropped() -> None:
    broken = replace(objective(), loss=lambda outputs, batch: pinball(outputs, batch) * math.nan)
    result = train_student(fresh(), None, EXAMPLES, RECIPE, objective=broken, seed=1, version=0)
    assert math.isnan(result.metrics["loss"])


def test_batch_norm_learns_from_an_incomplete_last_batch() -> None:
    network = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 1))
    own = replace(objective(), distillation=None)
    for data in (Examples.of(X[:33], targets=EXAMPLES.targets[:33]), TensorDataset(X[:33], EXAMPLES.targets[:33])):
        result = train_student(network, None, data, RECIPE, objective=own, seed=1, version=0)
        assert (result.samples, result.local_steps) == (33, 20), "16 and 17 examples, in each of 10 epochs"
    small = nn.Sequential(nn.Linear(3, 4), nn.LayerNorm(4), nn.Linear(4, 1))
    result = train_student(small, None, data, RECIPE, objective=own, seed=1, version=0)
    assert result.local_steps == 30, "a batch of one is as good as any for other networks"


def test_the_accelerator_is_chosen_where_there_is_one() -> None:
    assert accelerator_of("auto", available=lambda: True).type == "cuda"
    assert accelerator_of("auto", available=lambda: False).type == "cpu"
    assert accelerator_of("cpu", available=lambda: True).type == "cpu"
    with pytest.raises(TaskError, match="--accelerator cuda: there is no CUDA device"):
        accelerator_of("cuda", available=lambda: False)
