"""Running statistics that stay at home: on the device across restarts, estimated where there are none."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from device_client.learning.parameters import layout_of, vector_of
from device_client.learning.statistics.estimation import estimate, load_model
from device_client.learning.statistics.home import STATISTICS_NAME, HomeStatistics, load_statistics
from device_client.learning.student_trainer import StudentTrainer
from device_client.model_files import ModelFileError
from device_client.task import Examples, Recipe, Task

RECIPE = Recipe(statistics="home", epochs=2, batch_size=16)


def network() -> nn.Module:
    return nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6), nn.ReLU(), nn.Dropout(0.5), nn.Linear(6, 2))


def examples(shift: float = 0.0, count: int = 64) -> Examples:
    random = np.random.default_rng(1)
    labels = random.integers(0, 2, count)
    return Examples.of(random.normal(shift, 2.0, (count, 4)) + labels[:, None], labels)


TASK = Task(
    name="t", classes=("a", "b"), student=network, device_data=lambda _: examples(), held_out=examples, recipe=RECIPE
)


def trainer(student: nn.Module, path: Path, data: Examples | None = None) -> StudentTrainer:
    return StudentTrainer(
        device="d",
        student=student,
        layout=layout_of(student, "home"),
        data=examples(5.0) if data is None else data,
        recipe=RECIPE,
        objective=TASK.objective,
        statistics=HomeStatistics(student, task="t", path=path),
    )


def means(student: nn.Module) -> list[float]:
    found: list[float] = student.get_buffer("1.running_mean").tolist()
    return found


def test_a_round_sends_none_and_the_next_start_of_the_program_has_them(tmp_path: Path) -> None:
    torch.manual_seed(0)
    student, path = network(), tmp_path / STATISTICS_NAME
    start = vector_of(student, layout_of(student, "home"))
    trained = trainer(student, path).train(start, version=0, round=1, tick=lambda: True)
    assert trained is not None
    assert trained.weights.size == start.size == sum(p.numel() for p in student.parameters())
    kept = means(student)
    assert any(abs(value) > 0.1 for value in kept)
    assert path.stat().st_mode & 0o077 == 0
    again = network()
    HomeStatistics(again, task="t", path=path)
    assert means(again) == kept
    other = network()
    load_statistics(other, path, task="t")
    assert means(other) == kept


def test_a_round_that_is_stopped_or_diverges_leaves_them(tmp_path: Path) -> None:
    torch.manual_seed(0)
    student, path = network(), tmp_path / STATISTICS_NAME
    one = trainer(student, path)
    start = vector_of(student, layout_of(student, "home"))
    assert one.train(start, version=0, round=1, tick=iter([True, True, False]).__next__) is None
    assert not path.exists()
    diverging = start.copy()
    diverging[0] = 1e30
    one.train(diverging, version=0, round=2, tick=lambda: True)
    one._statistics.restore()  # type: ignore[union-attr]
    assert all(np.isfinite(value) for value in means(student))


def test_a_file_of_another_student_is_refused(tmp_path: Path) -> None:
    path = tmp_path / STATISTICS_NAME
    HomeStatistics(network(), task="t", path=path).keep()
    wide = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8))
    with pytest.raises(ModelFileError, match="does not fit the student of task t; move it away"):
        HomeStatistics(wide, task="t", path=path)
    with pytest.raises(ModelFileError, match="of task 't', not 'u'"):
        HomeStatistics(network(), task="u", path=path)


def test_a_model_without_statistics_gets_those_of_the_inputs_at_hand() -> None:
    torch.manual_seed(0)
    student, data = network(), examples(5.0, count=65)
    layout = layout_of(student, "home")
    assert load_model(student, layout, vector_of(student, layout), data, TASK.objective)
    hidden = student[0](data.inputs)  # type: ignore[index]
    np.testing.assert_allclose(means(student), hidden[:64].mean(0).tolist(), rtol=1e-5, atol=1e-5)
    merged = layout_of(student)
    before = means(student)
    assert not load_model(student, merged, vector_of(student, merged), examples(-9.0), TASK.objective)
    np.testing.assert_allclose(means(student), before, rtol=1e-6)


def test_estimating_leaves_weights_momentum_and_mode() -> None:
    student = network().train()
    before = vector_of(student, layout_of(student, "home"))
    estimate(student, examples(), TASK.objective)
    np.testing.assert_array_equal(vector_of(student, layout_of(student, "home")), before)
    assert student.training
    assert student.get_submodule("1").momentum == 0.1
