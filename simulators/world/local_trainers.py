"""Local training for the virtual world, with the device's own methods."""

from collections.abc import Mapping
from copy import deepcopy

from torch import Tensor, nn

from device_client.learning.asyncfedkd import train_student
from device_client.learning.evaluation import logits_of
from device_client.learning.fedkd import projection_between, train_mutually
from device_client.learning.parameters import load_vector, vector_of
from device_client.learning.seeding import seed_of, seeded
from device_client.learning.training_loop import TrainingResult
from device_client.task import Examples, Task
from device_client.trainer import Trained
from wire_contract.layout import Layout, Vector


class AsyncFedKDTrainer:
    """AsyncFedKD: the student trains under a frozen teacher, whose logits on each device's data are computed once."""

    def __init__(
        self,
        task: Task,
        data: Mapping[str, Examples],
        teacher: nn.Module | None,
        layout: Layout,
        *,
        seed: int,
        teacher_logits: Mapping[str, Tensor] | None = None,
    ) -> None:
        """`teacher_logits`: the teacher's logits (example, class) by device, if they were computed before."""
        self._recipe = task.recipe
        self._data = data
        self._layout = layout
        self._seed = seed
        self._numbers = {device: number for number, device in enumerate(sorted(data))}
        with seeded(seed):
            self._student = task.student()
        wanted = teacher is not None and task.recipe.alpha > 0
        self._teacher_logits: dict[str, Tensor | None] = dict.fromkeys(data)
        if teacher is not None and wanted:
            self._teacher_logits |= teacher_logits or teacher_logits_of(teacher, data)

    def __call__(self, device: str, start: Vector, *, version: int, round_number: int) -> Trained:
        load_vector(self._student, self._layout, start)
        result = train_student(
            self._student,
            None,
            self._data[device],
            self._recipe,
            seed=seed_of(self._seed, self._numbers[device], round_number),
            version=version,
            teacher_logits=self._teacher_logits[device],
        )
        return trained_of(self._student, self._layout, result)


def teacher_logits_of(teacher: nn.Module, data: Mapping[str, Examples]) -> dict[str, Tensor]:
    """A teacher's logits (example, class) on each device's data."""
    return {device: logits_of(teacher, examples.inputs) for device, examples in data.items()}


def trained_of(student: nn.Module, layout: Layout, result: TrainingResult) -> Trained:
    """The result of a round in the form that the device's core uses."""
    return Trained(
        weights=vector_of(student, layout),
        samples=result.samples,
        steps=result.local_steps,
        metrics=result.metrics,
    )


class FedKDTrainer:
    """FedKD: each device trains its own teacher together with the student (`device_client/learning/fedkd.py`)."""

    def __init__(
        self, task: Task, data: Mapping[str, Examples], teacher: nn.Module, layout: Layout, *, seed: int
    ) -> None:
        """Each device's teacher starts as a copy of `teacher`; projections are initialised from the seed."""
        self._recipe = task.recipe
        self._data = data
        self._layout = layout
        self._seed = seed
        self._numbers = {device: number for number, device in enumerate(sorted(data))}
        with seeded(seed):
            self._student = task.student()
        self.teachers = {device: deepcopy(teacher) for device in data}
        """By device, after its last round."""
        self._projections = {
            device: projection_between(self._student, teacher, examples, seed=seed_of(seed, self._numbers[device]))
            for device, examples in data.items()
        }

    def __call__(self, device: str, start: Vector, *, version: int, round_number: int) -> Trained:
        load_vector(self._student, self._layout, start)
        result = train_mutually(
            self._student,
            self.teachers[device],
            self._projections[device],
            self._data[device],
            self._recipe,
            seed=seed_of(self._seed, self._numbers[device], round_number),
            version=version,
        )
        return trained_of(self._student, self._layout, result)
