"""Data sets and loaders: order, growth, the incomplete last batch, augmentation, and the memory of an evaluation."""

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, IterableDataset, TensorDataset

from device_client.learning.asyncfedkd import train_student, train_teacher
from device_client.learning.evaluation import evaluate
from device_client.learning.training_loop import TrainingResult
from device_client.task import Examples, Recipe, TaskError, pooled, regression
from device_client.task.batches import size_of
from device_client.task.batching import batch_count, evaluation_batches, first_batch, training_batches

X = torch.arange(13.0)[:, None]
RECIPE = Recipe(batch_size=4)


class Rows(torch.utils.data.Dataset[tuple[Tensor, Tensor]]):
    """Rows that a sensor keeps adding to."""

    def __init__(self, rows: int) -> None:
        self.rows = rows

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        if index >= self.rows:
            raise IndexError(index)
        return X[index], X[index] * 2

    def __len__(self) -> int:
        return self.rows


class Stream(IterableDataset[Tensor]):
    """Single examples, whose number is not known before."""

    def __iter__(self) -> Iterator[Tensor]:
        return iter(X)


def drawn(data: Any, recipe: Recipe = RECIPE, *, join_single: bool = False, seed: int = 1) -> list[Any]:
    generator = torch.Generator().manual_seed(seed)
    return list(
        training_batches(data, recipe, batch_size=recipe.batch_size, generator=generator, join_single=join_single)
    )


def sizes(data: Any, *, join_single: bool) -> list[int]:
    return [size_of(one.batch) for one in drawn(data, join_single=join_single)]


KINDS = {
    "examples": Examples.of(X, targets=X * 2),
    "data set": Rows(13),
    "loader": DataLoader(TensorDataset(X, X * 2), batch_size=4, shuffle=True),
    "stream": Stream(),
    "loader of a stream": DataLoader(Stream(), batch_size=4),
}
each = pytest.mark.parametrize("data", KINDS.values(), ids=list(KINDS))


@each
def test_every_example_comes_once_an_epoch_and_a_single_one_may_join(data: Any) -> None:
    batches = [one.batch for one in drawn(data)]
    seen = sorted(float(row) for batch in batches for row in (batch if isinstance(batch, Tensor) else batch[0]))
    assert seen == X[:, 0].tolist()
    assert sizes(data, join_single=False) == [4, 4, 4, 1]
    assert sizes(data, join_single=True) == [4, 4, 5], "BatchNorm cannot train on one example"
    assert [size_of(batch) for batch in evaluation_batches(data, 4)] == [4, 4, 4, 1]
    assert float(first_batch(data, 2)[0][0].flatten()[0]) in X


def test_data_sets_are_shuffled_as_examples_are_and_a_loader_keeps_its_order() -> None:
    def order(data: Any, seed: int) -> list[float]:
        return [float(row) for one in drawn(data, seed=seed) for row in one.batch[0]]

    assert order(Rows(13), 1) == order(KINDS["examples"], 1) != order(Rows(13), 2)
    ordered = DataLoader(TensorDataset(X, X), batch_size=4)
    assert order(ordered, 1) == X[:, 0].tolist()
    assert (batch_count(Rows(13), 4), batch_count(ordered, 99), batch_count(Stream(), 4)) == (4, 4, None)


def test_rows_that_are_added_are_learned_in_the_next_round() -> None:
    rows = Rows(5)

    def learn() -> TrainingResult:
        return train_student(nn.Linear(1, 1), None, rows, RECIPE, objective=regression(), seed=1, version=0)

    assert (learn().samples, learn().local_steps) == (5, 2)
    rows.rows = 13
    assert (learn().samples, learn().local_steps) == (13, 4)


def test_samples_of_a_stream_are_those_seen() -> None:
    recipe = Recipe(batch_size=4, epochs=3, teacher_epochs=3, teacher_batch_size=4)
    network = nn.Linear(1, 1)
    result = train_student(network, None, Stream(), recipe, objective=regression(), seed=1, version=0)
    assert (result.samples, result.local_steps) == (13, 12)
    rates: list[float] = []

    class Sgd(torch.optim.SGD):
        def step(self, closure: Any = None) -> None:  # type: ignore[override]
            rates.append(float(self.param_groups[0]["lr"]))
            super().step(closure)

    taught = Recipe(teacher_epochs=3, teacher_batch_size=4, optimiser=Sgd)
    train_teacher(network, Stream(), taught, objective=regression(), seed=1)
    assert rates[-1] < rates[4] < rates[1], "the half cosine falls though its length is only known after an epoch"


def test_inputs_alone_or_a_whole_batch_are_augmented_and_the_teacher_sees_the_original() -> None:
    def both(batch: Any, generator: torch.Generator) -> Any:
        assert isinstance(generator, torch.Generator)
        return batch[0] + 100, batch[1] + 100

    for data in (KINDS["examples"], KINDS["data set"], KINDS["loader"]):
        for one in drawn(data, Recipe(batch_size=4, augment=lambda inputs, _generator: inputs + 100)):
            assert torch.equal((one.batch[0] - 100) * 2, one.batch[1])
            assert torch.equal(one.plain()[0], one.batch[0] - 100)
        for one in drawn(data, Recipe(batch_size=4, augment_batch=both)):
            assert torch.equal((one.batch[0] - 100) * 2, one.batch[1] - 100)


def test_an_evaluation_is_bounded_by_what_its_outputs_take() -> None:
    """A network whose outputs are large sees small batches, and every example once."""
    seen: list[int] = []

    class Large(nn.Module):
        def forward(self, inputs: Tensor) -> Tensor:
            seen.append(len(inputs))
            return inputs.expand(-1, 1 << 17)

    examples = Examples.of(torch.ones(100, 1), targets=torch.ones(100, 1))
    objective = regression()
    with pytest.raises(Exception, match="must have one shape"):
        evaluate(Large(), examples, objective)
    seen.clear()

    class Sums(Large):
        def forward(self, inputs: Tensor) -> Any:
            return {"logits": super().forward(inputs).mean(dim=1, keepdim=True), "all": super().forward(inputs)}

    assert evaluate(Sums(), examples, objective)["mae"] == 0.0
    assert max(seen) <= 8
    assert sum(seen) == 2 * (100 + 1), "one example more asks for the size"


def test_data_sets_are_pooled_like_examples_and_with_them() -> None:
    whole = pooled([Rows(2), Examples.of(X[5:8], targets=X[5:8] * 2), Rows(1)])
    assert [float(whole[index][0]) for index in range(len(whole))] == [0, 1, 5, 6, 7, 0]
    assert first_batch(whole, 3)[1].flatten().tolist() == [0, 2, 10]
    with pytest.raises(IndexError):
        whole[6]
    with pytest.raises(TaskError, match="not loaders of batches"):
        pooled([Rows(2), KINDS["loader"]])
