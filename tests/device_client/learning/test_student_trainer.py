"""The trainer behind the runner: torch, a small student, and the same outcome every time."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from device_client.learning.local_teacher import LocalTeacher
from device_client.learning.parameters import layout_of, vector_of
from device_client.learning.seeding import round_seed, seeded
from device_client.learning.student_trainer import StudentTrainer
from device_client.model_files import read_model
from device_client.task import Examples, Recipe, classification
from device_client.trainer import Trained, is_finite

EXAMPLES = Examples.of(np.random.default_rng(0).standard_normal((40, 6)), np.arange(40) % 3)
CLASSIFIES = classification(("a", "b", "c"))


@pytest.fixture(autouse=True)
def one_thread() -> None:
    """Threads that wait for one another on a busy machine cost more than they bring to so small a network."""
    torch.set_num_threads(1)


def student() -> nn.Module:
    with seeded(1):
        return nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Dropout(0.2), nn.Linear(8, 3))


LAYOUT = layout_of(student())
START = vector_of(student(), LAYOUT)


def trainer(
    device: str = "watch-1", *, teacher: nn.Module | None = None, recipe: Recipe | None = None, seed: int = 0
) -> StudentTrainer:
    return StudentTrainer(
        device=device,
        student=student(),
        layout=LAYOUT,
        data=EXAMPLES,
        recipe=recipe or Recipe(batch_size=8),
        objective=CLASSIFIES,
        teacher=teacher,
        seed=seed,
    )


def always() -> bool:
    return True


def test_a_round_leaves_its_start_alone_and_counts_its_work() -> None:
    start = START.copy()
    trained = trainer().train(start, version=3, round=1, tick=always)
    assert trained is not None
    assert np.array_equal(start, START)
    assert not np.array_equal(trained.weights, START)
    assert (trained.samples, trained.steps, set(trained.metrics)) == (40, 5, {"loss", "accuracy"})


def test_the_same_round_gives_the_same_weights_whatever_was_trained_before() -> None:
    one, other = trainer(), trainer()
    other.train(START, version=0, round=1, tick=always)
    first, second = (each.train(START, version=3, round=2, tick=always) for each in (one, other))
    assert first is not None
    assert second is not None
    assert np.array_equal(first.weights, second.weights)


def test_another_round_of_the_same_base_draws_other_numbers() -> None:
    first, second = (trainer().train(START, version=3, round=number, tick=always) for number in (1, 2))
    assert first is not None
    assert second is not None
    assert not np.array_equal(first.weights, second.weights)


def test_seeds_are_stable_and_differ_for_every_round_of_every_device() -> None:
    assert round_seed("watch-1", version=3, round_number=1) == 4_393_505_927_594_683_937
    seeds = {
        round_seed(device, version=version, round_number=number, seed=seed)
        for device in ("a", "b", "a/1")
        for version in range(4)
        for number in range(4)
        for seed in range(2)
    }
    assert len(seeds) == 3 * 4 * 4 * 2
    assert all(0 <= seed < 2**63 for seed in seeds)


@pytest.mark.parametrize("batches", [0, 3])
def test_it_gives_up_when_the_tick_says_so(batches: int) -> None:
    ticks = 0

    def tick() -> bool:
        nonlocal ticks
        ticks += 1
        return ticks <= batches

    assert trainer().train(START, version=0, round=1, tick=tick) is None
    assert ticks == batches + 1


class CountingTeacher(nn.Module):
    """Says class 0, and counts how often it is asked."""

    def __init__(self) -> None:
        super().__init__()
        self.asked = 0

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        self.asked += 1
        return torch.tensor([5.0, 0.0, 0.0]).expand(len(inputs), 3)


@pytest.mark.parametrize(("alpha", "asked"), [(0.5, 1), (0.0, 0)])
def test_the_teacher_is_asked_once_for_all_rounds_and_only_if_it_counts(alpha: float, asked: int) -> None:
    teacher = CountingTeacher()
    taught = trainer(teacher=teacher, recipe=Recipe(batch_size=8, alpha=alpha))
    for number in (1, 2):
        assert taught.train(START, version=0, round=number, tick=always) is not None
    assert teacher.asked == asked


def test_the_teacher_changes_what_is_learned() -> None:
    alone = trainer().train(START, version=0, round=1, tick=always)
    taught = trainer(teacher=CountingTeacher()).train(START, version=0, round=1, tick=always)
    assert alone is not None
    assert taught is not None
    assert not np.array_equal(alone.weights, taught.weights)


def test_warming_up_changes_nothing_that_is_learned() -> None:
    teacher = nn.Linear(6, 3)
    cold, warm = trainer(teacher=teacher), trainer(teacher=teacher)
    warm.warm_up()
    learned = [one.train(START, version=3, round=1, tick=always) for one in (cold, warm)]
    assert learned[0] is not None
    assert learned[1] is not None
    assert np.array_equal(learned[0].weights, learned[1].weights)


# --- together with a local teacher ----------------------------------------------------------------------------------

MUTUAL = Recipe(method="fedkd", batch_size=8)


class Staged(nn.Module):
    """A network that shows its hidden state."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Linear(6, width), nn.ReLU())
        self.head = nn.Sequential(nn.Dropout(0.2), nn.Linear(width, 3))

    def features(self, inputs: torch.Tensor) -> torch.Tensor:
        hidden: torch.Tensor = self.body(inputs)
        return hidden

    def classify(self, features: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.head(features)
        return logits

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        return self.classify(self.features(inputs))


class Device:
    """One device that runs fedkd, from its file on."""

    def __init__(self, path: Path, recipe: Recipe = MUTUAL) -> None:
        with seeded(1):
            self.student, network, projection = Staged(8), Staged(16), nn.Linear(8, 16, bias=False)
        self.layout = layout_of(self.student)
        self.start = vector_of(self.student, self.layout)
        self.teacher = LocalTeacher(network, projection, task="t", path=path)
        self.trainer = StudentTrainer(
            device="watch-1",
            student=self.student,
            layout=self.layout,
            data=EXAMPLES,
            recipe=recipe,
            objective=CLASSIFIES,
            local_teacher=self.teacher,
        )

    def round(self, number: int, *, batches: int = 1000) -> Trained | None:
        """One round from the same start, stopped after so many batches."""
        ticks = iter([True] * batches)
        return self.trainer.train(self.start, version=3, round=number, tick=lambda: next(ticks, False))


def test_a_restart_between_two_rounds_changes_no_bit(tmp_path: Path) -> None:
    through, halves = tmp_path / "through", tmp_path / "halves"
    device = Device(through)
    device.round(1)
    first = device.round(2)
    Device(halves).round(1)
    restarted = Device(halves)
    assert restarted.teacher.rounds == 1
    restarted.trainer.warm_up()
    second = restarted.round(2)
    assert first is not None
    assert second is not None
    np.testing.assert_array_equal(first.weights, second.weights)
    assert first.metrics == second.metrics
    one, other = read_model(through), read_model(halves)
    np.testing.assert_array_equal(one.weights, other.weights)
    assert (one.rounds, other.rounds) == (2, 2)
    fresh = Device(tmp_path / "fresh").round(2)
    assert fresh is not None
    assert not np.array_equal(fresh.weights, first.weights), "what the teacher has learned before counts"


def test_a_round_tells_of_both_and_sends_the_student_only(tmp_path: Path) -> None:
    device = Device(tmp_path / "teacher")
    trained = device.round(1)
    assert trained is not None
    assert set(trained.metrics) == {"loss", "accuracy", "teacher_loss", "teacher_accuracy"}
    assert trained.weights.shape == (device.layout.size,)
    assert is_finite(trained)


@pytest.mark.parametrize("batches", [0, 3])
def test_a_round_given_up_leaves_the_teacher_as_it_was(tmp_path: Path, batches: int) -> None:
    path = tmp_path / "teacher"
    device = Device(path)
    device.round(1)
    content = path.read_bytes()
    assert device.round(2, batches=batches) is None
    assert path.read_bytes() == content
    assert device.teacher.rounds == 1
    again = device.round(2)
    assert again is not None
    other = Device(tmp_path / "undisturbed")
    other.round(1)
    undisturbed = other.round(2)
    assert undisturbed is not None
    np.testing.assert_array_equal(again.weights, undisturbed.weights)


@pytest.mark.parametrize(
    "recipe",
    [
        replace(MUTUAL, learning_rate=1e30, local_teacher_learning_rate=1e30),
        replace(MUTUAL, learning_rate=1e39, batch_size=40),  # one step: the student alone is lost
    ],
)
def test_a_round_that_diverges_leaves_the_teacher_as_it_was(tmp_path: Path, recipe: Recipe) -> None:
    device, fresh = Device(tmp_path / "teacher", recipe), Device(tmp_path / "fresh")
    trained = device.round(1)
    assert trained is not None
    assert not is_finite(trained)
    assert not (tmp_path / "teacher").exists()
    for ours, theirs in zip(device.teacher.network.parameters(), fresh.teacher.network.parameters(), strict=True):
        assert torch.equal(ours, theirs)


def test_warming_up_leaves_the_teacher_as_it_was(tmp_path: Path) -> None:
    cold, warm = Device(tmp_path / "cold"), Device(tmp_path / "warm")
    warm.trainer.warm_up()
    assert not (tmp_path / "warm").exists()
    learned = [device.round(1) for device in (cold, warm)]
    assert learned[0] is not None
    assert learned[1] is not None
    np.testing.assert_array_equal(learned[0].weights, learned[1].weights)
