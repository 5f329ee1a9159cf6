"""Any batch and any output: where inputs, targets and logits are found, and how batches get to a network."""

from collections import OrderedDict, namedtuple
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from device_client.task import Examples, TaskError, inputs_of, logits_in, outputs_of, targets_of
from device_client.task.batches import joined, leaves, mapped, placement, size_of, with_inputs

X, Y, Z = torch.zeros(3, 2), torch.ones(3), torch.full((3,), 2.0)


@dataclass
class ModelOutput(OrderedDict[str, Tensor]):
    """As in transformers: a dataclass and a mapping at once, with fields that may be missing."""

    logits: Tensor
    hidden: Tensor | None = None

    def __post_init__(self) -> None:
        self.update({name: item for name, item in vars(self).items() if item is not None})


Pair = namedtuple("Pair", "first second")  # noqa: PYI024 — untyped, as users write them


@pytest.mark.parametrize(
    ("batch", "inputs", "targets"),
    [
        (X, X, X),
        ((X, Y), X, Y),
        ([X, Y, Z], X, Y),
        ([X], X, X),
        (((X, Z), Y), (X, Z), Y),
        ({"inputs": X, "labels": Y}, X, Y),
        ({"input_ids": X, "mask": Z, "labels": Y}, {"input_ids": X, "mask": Z}, Y),
        ({"x": X, "target": Y}, {"x": X}, Y),
        ({"x": X}, {"x": X}, {"x": X}),
    ],
)
def test_inputs_and_targets_of_any_batch(batch: Any, inputs: Any, targets: Any) -> None:
    def same(one: Any, other: Any) -> bool:
        return type(one) is type(other) and all(a is b for a, b in zip(leaves(one), leaves(other), strict=True))

    assert same(inputs_of(batch), inputs)
    assert same(targets_of(batch), targets)
    assert same(inputs_of(with_inputs(batch, inputs)), inputs)
    assert size_of(batch) == 3


def test_a_network_is_called_as_its_inputs_are() -> None:
    class Sum(nn.Module):
        def forward(self, left: Tensor, right: Tensor) -> Tensor:
            return left - right

    assert torch.equal(outputs_of(Sum(), ((Y, Z), X)), Y - Z)
    assert torch.equal(outputs_of(Sum(), {"right": Y, "left": Z, "labels": X}), Z - Y)
    assert torch.equal(outputs_of(nn.Identity(), (Y, Z)), Y)


def test_logits_in_any_output() -> None:
    for outputs in (X, {"logits": X, "hidden": Y}, ModelOutput(logits=X), (X, Y), [X]):
        assert logits_in(outputs) is X


def test_structures_keep_their_types() -> None:
    output = mapped(ModelOutput(logits=X), lambda tensor: tensor + 1)
    assert type(output) is ModelOutput
    assert output.hidden is None
    assert torch.equal(output.logits, X + 1)
    pair = mapped(Pair(X, [Y, "name"]), lambda tensor: tensor[:1])
    assert (type(pair), size_of(pair), pair.second[1]) == (Pair, 1, "name")
    both = joined([{"x": X, "y": (Y,)}, {"x": X, "y": (Z,)}])
    assert both["y"][0].tolist() == [1, 1, 1, 2, 2, 2]


def test_a_batch_follows_its_network() -> None:
    """To its device, of which `meta` stands for any other, and into its dtype; whole numbers and targets stay."""
    batch = (torch.zeros(3, 2, dtype=torch.float64), torch.zeros(3, dtype=torch.int64))
    inputs, labels = placement(nn.Linear(2, 1).to("meta"))(batch)
    assert (inputs.device.type, inputs.dtype, labels.device.type, labels.dtype) == (
        "meta",
        torch.float32,
        "meta",
        torch.int64,
    )
    inputs, numbers = placement(nn.Linear(2, 1, dtype=torch.bfloat16))((X, Y.double()))
    assert (inputs.dtype, numbers.dtype) == (torch.bfloat16, torch.float32)
    assert placement(nn.Linear(2, 1, dtype=torch.float64))(X.double()).dtype == torch.float64
    mixed = nn.Sequential(nn.Linear(2, 1), nn.Linear(1, 1, dtype=torch.bfloat16))
    assert placement(mixed)(X.double()).dtype == torch.float32


def test_examples_of_several_inputs_and_any_targets() -> None:
    several = Examples.of({"x": [[1.0], [2.0], [3.0]], "t": torch.arange(3)}, targets=([0.5, 1.0, 2.0], [1, 2, 3]))
    assert (several.inputs["x"].dtype, several.inputs["t"].dtype) == (torch.float32, torch.int64)
    inputs, (numbers, whole) = several.batch(torch.tensor([2, 0]))
    assert inputs["t"].tolist() == [2, 0]
    assert (numbers.tolist(), whole.dtype) == ([2.0, 0.5], torch.int64)
    alone = Examples.of(X)
    assert torch.equal(alone.batch(slice(0, 2)), X[:2])
    for examples in (several, alone):
        with pytest.raises(TaskError, match="no class labels"):
            _ = examples.labels


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: Examples.of(X, [0, 1, 1], targets=Y), "labels .* or targets, not both"),
        (lambda: Examples.of(X, targets=[1.0, float("nan"), 0.0]), "1 of 3 targets hold NaN .* index 1"),
        (lambda: Examples.of({"a": X, "b": X[:2]}, targets=Y), "one input has 2 examples, another 3"),
        (lambda: Examples.of((X, X.log()), [0, 1, 1]), r"3 of 3 inputs\[1\] hold NaN or infinite"),
        (lambda: Examples.of(X, targets=Y[:2]), "3 inputs for 2 targets"),
        (lambda: Examples.of(X, targets=["a", "b", "c"]), "targets are <U1; they must be real numbers"),
        (lambda: Examples.of(X, [0, 1, 1], ["p", "q"]), "3 inputs for 2 persons"),
        (lambda: Examples.of((), [0]), "there are no inputs"),
    ],
)
def test_examples_that_cannot_be_learned(make: Any, said: str) -> None:
    with pytest.raises(TaskError, match=said):
        make()
