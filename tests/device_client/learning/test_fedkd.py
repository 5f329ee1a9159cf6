"""Student and local teacher learn together: both get better, the same way every time, and other seeds other ways."""

from dataclasses import replace
from itertools import count

import pytest
import torch
from torch import Tensor, nn

from device_client.learning.asyncfedkd import train_teacher
from device_client.learning.evaluation import evaluate
from device_client.learning.fedkd import projection_between, train_mutually
from device_client.learning.networks import STUDENT, TEACHER, Sensor, WindowAugmentation, WindowClassifier
from device_client.learning.seeding import seeded
from device_client.task import Examples, Recipe, TaskError, classification

CLASSES = ("still", "shaken", "tilted")
CLASSIFIES = classification(CLASSES)
SENSOR = Sensor(samples=50, acceleration_unit=9.81)
RECIPE = Recipe(method="fedkd", epochs=2, batch_size=16, learning_rate=2e-3, augment=WindowAugmentation())


@pytest.fixture(autouse=True)
def one_thread() -> None:
    """Threads that wait for one another on a busy machine cost more than they bring to so small a network."""
    torch.set_num_threads(1)


def movements(seed: int, examples: int = 96) -> Examples:
    """Windows (example, 6, 50) that are still, shaken at 4 Hz, or tilted."""
    random = torch.Generator().manual_seed(seed)
    labels = torch.arange(examples) % 3
    shaking = torch.sin(2 * torch.pi * 4 * torch.arange(50) / 100)[None, None] * (labels == 1)[:, None, None]
    inputs = torch.randn(examples, 6, 50, generator=random) * 0.3 + shaking
    inputs[:, 0] -= 9.81 * (labels != 2)[:, None]
    inputs[:, 1] -= 9.81 * (labels == 2)[:, None]
    return Examples(inputs=inputs, labels=labels)


class Pair:
    """A fresh student, its teacher, and W_h between them."""

    def __init__(self, seed: int = 1) -> None:
        with seeded(seed):
            self.student: nn.Module = WindowClassifier(SENSOR, STUDENT, len(CLASSES))
            self.teacher: nn.Module = WindowClassifier(SENSOR, TEACHER, len(CLASSES))
        self.projection: nn.Linear | None = projection_between(
            self.student, self.teacher, movements(1), objective=CLASSIFIES, seed=seed
        )

    def train(self, recipe: Recipe = RECIPE, *, seed: int = 1, version: int = 0) -> "dict[str, float]":
        """The metrics."""
        result = train_mutually(
            self.student,
            self.teacher,
            self.projection,
            movements(1),
            recipe,
            objective=CLASSIFIES,
            seed=seed,
            version=version,
        )
        assert result.finished
        return result.metrics

    def weights(self) -> Tensor:
        """Of all three."""
        both = nn.ModuleList([self.student, self.teacher] + ([self.projection] if self.projection else []))
        return nn.utils.parameters_to_vector(both.parameters()).detach().clone()


def test_both_learn_and_say_so() -> None:
    pair, unseen = Pair(), movements(2)
    before = [evaluate(model, unseen, CLASSIFIES)["accuracy"] for model in (pair.student, pair.teacher)]
    first = pair.train()
    second = pair.train(seed=2)
    after = [evaluate(model, unseen, CLASSIFIES)["accuracy"] for model in (pair.student, pair.teacher)]
    assert max(before) < 0.7
    assert min(after) > 0.9
    assert set(first) == {"loss", "accuracy", "teacher_loss", "teacher_accuracy"}
    assert second["teacher_loss"] < first["teacher_loss"]
    assert second["teacher_accuracy"] > 0.9


def test_the_same_seed_gives_the_same_bits_and_another_seed_or_version_others() -> None:
    def trained(seed: int, version: int) -> Tensor:
        pair = Pair()
        torch.manual_seed(seed + 99)  # the global state must not matter
        pair.train(seed=seed, version=version)
        return pair.weights()

    assert torch.equal(trained(1, 3), trained(1, 3))
    assert not torch.equal(trained(1, 3), trained(2, 3))
    assert not torch.equal(trained(1, 3), trained(1, 4))


def test_the_global_random_state_is_untouched() -> None:
    torch.manual_seed(4)
    expected = torch.rand(3)
    torch.manual_seed(4)
    Pair().train()
    assert torch.equal(torch.rand(3), expected)


def test_it_stops_between_batches_when_asked() -> None:
    asked, pair = count(), Pair()
    result = train_mutually(
        pair.student,
        pair.teacher,
        pair.projection,
        movements(1),
        RECIPE,
        objective=CLASSIFIES,
        seed=1,
        version=0,
        should_stop=lambda: next(asked) >= 3,
    )
    assert (result.finished, result.local_steps) == (False, 3)


def test_each_network_has_its_own_rate_and_both_fall_with_the_version() -> None:
    for still, recipe in (
        ("student", replace(RECIPE, learning_rate=0.0)),
        ("teacher", replace(RECIPE, local_teacher_learning_rate=0.0)),
    ):
        pair, fresh = Pair(), Pair()
        pair.train(recipe)
        for name in ("student", "teacher"):
            one, other = (nn.utils.parameters_to_vector(getattr(each, name).parameters()) for each in (pair, fresh))
            assert torch.equal(one, other) == (name == still)
    pair, fresh = Pair(), Pair()
    pair.train(replace(RECIPE, schedule="cosine", schedule_versions=4, schedule_floor=0.0), version=4)
    assert torch.equal(pair.weights(), fresh.weights()), "both rates have fallen to nothing"
    recipe = Recipe(learning_rate=4e-3, local_teacher_learning_rate=2e-3, schedule="inverse", schedule_versions=10)
    assert recipe.local_teacher_learning_rate_at(0) == 2e-3
    assert recipe.local_teacher_learning_rate_at(10) == pytest.approx(1e-3)


def test_the_hidden_states_count_and_w_h_learns() -> None:
    with_hidden, without = Pair(), Pair()
    assert with_hidden.projection is not None
    assert with_hidden.projection.weight.shape == (2 * 160 + 256, 2 * 48 + 48)
    fresh = with_hidden.projection.weight.detach().clone()
    without.projection = None
    with_hidden.train()
    without.train()
    assert not torch.equal(with_hidden.projection.weight, fresh)
    for name in ("student", "teacher"):
        one, other = (
            nn.utils.parameters_to_vector(getattr(each, name).parameters()) for each in (with_hidden, without)
        )
        assert not torch.equal(one, other)


@pytest.mark.parametrize("change", [{"task_loss": "focal"}, {"label_smoothing": 0.1}, {"mutual_temperature": 3.0}])
def test_the_recipe_is_heard(change: dict[str, object]) -> None:
    one, other = Pair(), Pair()
    one.train(replace(RECIPE, **change))  # type: ignore[arg-type]
    other.train()
    assert not torch.equal(one.weights(), other.weights())
    assert bool(torch.isfinite(one.weights()).all())


def test_a_teacher_that_pre_training_froze_learns_on_and_one_frozen_in_parts_does_so_there() -> None:
    pair = Pair()
    train_teacher(pair.teacher, movements(3), replace(RECIPE, teacher_epochs=1), objective=CLASSIFIES, seed=1)
    before = nn.utils.parameters_to_vector(pair.teacher.parameters()).detach().clone()
    pair.train()
    assert not torch.equal(nn.utils.parameters_to_vector(pair.teacher.parameters()), before)
    parted = Pair()
    assert isinstance(parted.teacher, WindowClassifier)
    parted.teacher.convolutions.requires_grad_(False)
    kept = nn.utils.parameters_to_vector(parted.teacher.convolutions.parameters()).clone()
    head = parted.teacher.head.weight.detach().clone()
    parted.train()
    assert torch.equal(nn.utils.parameters_to_vector(parted.teacher.convolutions.parameters()), kept)
    assert not torch.equal(parted.teacher.head.weight, head)


def plain(width: int) -> nn.Module:
    """A user's network that shows no hidden state."""
    return nn.Sequential(nn.Flatten(), nn.LayerNorm(300), nn.Linear(300, width), nn.ReLU(), nn.Linear(width, 3))


def test_networks_that_show_no_hidden_state_learn_without_that_loss() -> None:
    pair = Pair()
    with seeded(1):
        pair.student, pair.teacher = plain(8), plain(64)
    pair.projection = projection_between(pair.student, pair.teacher, movements(1), objective=CLASSIFIES, seed=1)
    assert pair.projection is None
    assert projection_between(Pair().student, plain(64), movements(1), objective=CLASSIFIES, seed=1) is None, (
        "both must"
    )
    for seed in range(6):
        pair.train(replace(RECIPE, augment=None), seed=seed)
    assert evaluate(pair.student, movements(2), CLASSIFIES)["accuracy"] > 0.6
    assert evaluate(pair.teacher, movements(2), CLASSIFIES)["accuracy"] > 0.6


def test_w_h_follows_from_its_seed_and_leaves_the_networks_as_they_were() -> None:
    pair = Pair()
    pair.student.train()
    one, same, other = (
        projection_between(pair.student, pair.teacher, movements(1), objective=CLASSIFIES, seed=seed)
        for seed in (1, 1, 2)
    )
    assert one is not None
    assert same is not None
    assert other is not None
    assert list(one.state_dict()) == ["weight"], "no bias"
    assert torch.equal(one.weight, same.weight)
    assert not torch.equal(one.weight, other.weight)
    assert pair.student.training


def test_hidden_states_of_another_shape_are_said() -> None:
    class Sequences(nn.Module):
        """Shows (batch, time, hidden)."""

        def features(self, inputs: Tensor) -> Tensor:
            return inputs.transpose(1, 2)

        def classify(self, features: Tensor) -> Tensor:
            return features.mean(dim=1)

    with pytest.raises(TaskError, match=r"Sequences.features returns \(1, 50, 6\) .* must be \(batch, hidden\)"):
        projection_between(Sequences(), Pair().teacher, movements(1), objective=CLASSIFIES, seed=1)
