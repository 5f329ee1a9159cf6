"""The trainer behind the runner: torch, a small student, and the same outcome every time."""

import numpy as np
import pytest
import torch
from torch import nn

from device_client.task import Examples, Recipe
from device_client.trainer import StudentTrainer, round_seed
from device_client.training import logits_of, seeded, train_student
from device_client.vectors import layout_of, load_vector, vector_of
from wire_contract.layout import Vector

EXAMPLES = Examples.of(np.random.default_rng(0).standard_normal((40, 6)), np.arange(40) % 3)


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
        examples=EXAMPLES,
        recipe=recipe or Recipe(batch_size=8),
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


def test_a_second_round_keeps_to_the_published_model_it_came_from() -> None:
    recipe = Recipe(batch_size=8, alpha=0.5, anchor=1.0)
    line = START + np.float32(0.3)
    seed = round_seed("watch-1", version=3, round_number=2)

    def anchored_to(weights: Vector) -> Vector:
        base, model = student(), student()
        load_vector(base, LAYOUT, weights)
        load_vector(model, LAYOUT, line)
        answers = logits_of(base, EXAMPLES.inputs)
        train_student(model, None, EXAMPLES, recipe, seed=seed, version=3, base_logits=answers)
        return vector_of(model, LAYOUT)

    device = trainer(recipe=recipe)
    for start, version, round_number, anchor in (
        (START, 3, 1, None),
        (line, 3, 2, START),
        (START * 2, 9, 1, None),
        (START, 3, 1, None),
        (line, 3, 2, START),
    ):
        trained = device.train(start, version=version, round=round_number, tick=always)
        assert trained is not None
        if anchor is not None:
            np.testing.assert_array_equal(trained.weights, anchored_to(anchor))
    restarted = trainer(recipe=recipe).train(line, version=3, round=2, tick=always)
    assert restarted is not None
    np.testing.assert_array_equal(restarted.weights, anchored_to(line), "the best that is left after a restart")


def test_warming_up_changes_nothing_that_is_learned() -> None:
    teacher = nn.Linear(6, 3)
    cold, warm = trainer(teacher=teacher), trainer(teacher=teacher)
    warm.warm_up()
    learned = [one.train(START, version=3, round=1, tick=always) for one in (cold, warm)]
    assert learned[0] is not None
    assert learned[1] is not None
    assert np.array_equal(learned[0].weights, learned[1].weights)
