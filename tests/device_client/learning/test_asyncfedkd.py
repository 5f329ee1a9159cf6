"""Training is repeatable, learns, can be stopped, and leaves the world as it was."""

from dataclasses import replace
from itertools import count

import pytest
import torch
from torch import Tensor, nn

from device_client.learning.asyncfedkd import train_alone, train_student, train_teacher
from device_client.learning.evaluation import evaluate, kept, teaching_outputs
from device_client.learning.networks import STUDENT, TEACHER, Sensor, WindowAugmentation, WindowClassifier
from device_client.learning.seeding import seed_of
from device_client.task import Examples, Recipe, classification

CLASSES = ("still", "shaken")
CLASSIFIES = classification(CLASSES)
SENSOR = Sensor(samples=50, acceleration_unit=9.81)
RECIPE = Recipe(epochs=2, batch_size=16, learning_rate=2e-3, augment=WindowAugmentation(), teacher_epochs=6)


@pytest.fixture(autouse=True)
def one_thread() -> None:
    """Threads that wait for one another on a busy machine cost more than they bring to so small a network."""
    torch.set_num_threads(1)


def movements(seed: int, examples: int = 64) -> Examples:
    """Windows (example, 6, 50) that are still, or shaken at 4 Hz."""
    random = torch.Generator().manual_seed(seed)
    labels = torch.arange(examples) % 2
    time = torch.arange(50) / 100
    shaking = torch.sin(2 * torch.pi * 4 * time)[None, None] * labels[:, None, None]
    inputs = torch.randn(examples, 6, 50, generator=random) * 0.3 + shaking
    inputs[:, 0] -= 9.81
    return Examples(inputs=inputs, labels=labels)


def student(seed: int = 1) -> WindowClassifier:
    torch.manual_seed(seed)
    return WindowClassifier(SENSOR, STUDENT, len(CLASSES))


def weights(module: nn.Module) -> Tensor:
    return nn.utils.parameters_to_vector(module.parameters()).detach()


def test_a_round_learns() -> None:
    model = student()
    before = evaluate(model, movements(2), CLASSIFIES)
    result = train_student(model, None, movements(1), RECIPE, objective=CLASSIFIES, seed=1, version=0)
    after = evaluate(model, movements(2), CLASSIFIES)
    assert after["accuracy"] > 0.9 > before["accuracy"]
    assert result.finished
    assert (result.samples, result.local_steps) == (64, 8)
    assert set(result.metrics) == {"loss", "accuracy"}


def test_the_same_seed_gives_the_same_bits_and_another_seed_or_version_others() -> None:
    def trained(seed: int, version: int) -> Tensor:
        model = student()
        torch.manual_seed(seed + 99)  # the global state must not matter
        train_student(model, student(5), movements(1), RECIPE, objective=CLASSIFIES, seed=seed, version=version)
        return weights(model)

    assert torch.equal(trained(1, 3), trained(1, 3))
    assert not torch.equal(trained(1, 3), trained(2, 3))
    assert not torch.equal(trained(1, 3), trained(1, 4))


def test_the_global_random_state_is_untouched() -> None:
    torch.manual_seed(4)
    expected = torch.rand(3)
    torch.manual_seed(4)
    train_student(student_without_seeding(), None, movements(1), RECIPE, objective=CLASSIFIES, seed=1, version=0)
    assert torch.equal(torch.rand(3), expected)


def student_without_seeding() -> WindowClassifier:
    with torch.random.fork_rng(devices=[]):
        return WindowClassifier(SENSOR, STUDENT, len(CLASSES))


def test_it_stops_between_batches_when_asked() -> None:
    asked = count()
    result = train_student(
        student(),
        None,
        movements(1),
        RECIPE,
        objective=CLASSIFIES,
        seed=1,
        version=0,
        should_stop=lambda: next(asked) >= 3,
    )
    assert not result.finished
    assert result.local_steps == 3


def test_seconds_are_those_of_the_given_clock() -> None:
    moments = iter([10.0, 12.5])
    result = train_student(
        student(), None, movements(1), RECIPE, objective=CLASSIFIES, seed=1, version=0, clock=lambda: next(moments)
    )
    assert result.train_seconds == 2.5


def test_the_teacher_is_heard_but_not_changed() -> None:
    teacher = student(7)
    before = weights(teacher).clone()
    one, other, told = student(), student(), student()
    recipe = replace(RECIPE, alpha=0.5)
    train_student(one, teacher, movements(1), recipe, objective=CLASSIFIES, seed=1, version=0)
    train_student(other, None, movements(1), recipe, objective=CLASSIFIES, seed=1, version=0)
    answers = teaching_outputs(teacher, movements(1), CLASSIFIES)
    train_student(
        told, None, movements(1), recipe, objective=CLASSIFIES, seed=1, version=0, teacher_outputs=kept(answers)
    )
    assert torch.equal(weights(teacher), before)
    assert not torch.equal(weights(one), weights(other))
    assert torch.equal(weights(one), weights(told)), "kept answers are the teacher's answers"


def test_the_rate_falls_to_a_half_where_the_recipe_says() -> None:
    recipe = Recipe(learning_rate=4e-3, schedule="inverse", schedule_versions=10)
    assert recipe.learning_rate_at(0) == 4e-3
    assert recipe.learning_rate_at(10) == pytest.approx(2e-3)
    assert Recipe(learning_rate=4e-3).learning_rate_at(1000) == 4e-3
    cosine = Recipe(learning_rate=4e-3, schedule="cosine", schedule_versions=10, schedule_floor=0.05)
    assert cosine.learning_rate_at(0) == 4e-3
    assert cosine.learning_rate_at(5) == pytest.approx(2e-3)
    assert cosine.learning_rate_at(10) == cosine.learning_rate_at(500) == pytest.approx(2e-4)
    one, other = student(), student()
    train_student(one, None, movements(1), replace(RECIPE, learning_rate=0.0), objective=CLASSIFIES, seed=1, version=0)
    assert torch.equal(weights(one), weights(other)), "a rate of zero learns nothing"


def test_a_pre_trained_teacher_is_frozen() -> None:
    torch.manual_seed(1)
    teacher = WindowClassifier(SENSOR, TEACHER, len(CLASSES))
    train_teacher(teacher, movements(3), RECIPE, objective=CLASSIFIES, seed=1)
    assert not any(parameter.requires_grad for parameter in teacher.parameters())
    assert evaluate(teacher, movements(4), CLASSIFIES)["accuracy"] > 0.9


def test_training_alone_is_repeatable_and_counts_its_epochs() -> None:
    one, other = student(), student()
    result = train_alone(one, None, movements(1), RECIPE, objective=CLASSIFIES, epochs=3, seed=1)
    train_alone(other, None, movements(1), RECIPE, objective=CLASSIFIES, epochs=3, seed=1)
    assert result.local_steps == 12
    assert torch.equal(weights(one), weights(other))


class Says(nn.Module):
    """Answers with the inputs, which are logits."""

    def forward(self, inputs: Tensor) -> Tensor:
        return inputs


def test_metrics_against_a_case_counted_by_hand() -> None:
    predicted, labels = torch.tensor([0, 0, 1, 1, 1]), torch.tensor([0, 1, 1, 1, 0])
    examples = Examples(inputs=nn.functional.one_hot(predicted, 3).float() * 9, labels=labels)
    metrics = evaluate(Says(), examples, classification(("a", "b", "never")))
    assert metrics["accuracy"] == pytest.approx(3 / 5)
    assert metrics["recall_a"] == pytest.approx(1 / 2)
    assert metrics["recall_b"] == pytest.approx(2 / 3)
    assert "recall_never" not in metrics
    assert metrics["macro_f1"] == pytest.approx((2 * 1 / (2 + 2) + 2 * 2 / (3 + 3)) / 2)
    assert metrics["loss"] == pytest.approx(float(nn.functional.cross_entropy(examples.inputs, labels)))


def test_seeds_of_neighbours_differ() -> None:
    assert len({seed_of(a, b) for a in range(10) for b in range(10)}) == 100
