"""Local training for the virtual world, with the device's own methods."""

from collections.abc import Mapping
from copy import deepcopy
from typing import Any

from torch import nn

from device_client.learning.asyncfedkd import train_student
from device_client.learning.evaluation import TeacherOutputs, kept, outputs_under, teaching_outputs
from device_client.learning.fedkd import projection_between, train_mutually
from device_client.learning.parameters import LoadedWeights
from device_client.learning.seeding import seed_of, seeded
from device_client.learning.statistics.home import HomeStatistics
from device_client.learning.training_loop import TrainingResult
from device_client.task import Data, Examples, Task
from device_client.trainer import Trained
from wire_contract.layout import Layout, Vector


class AsyncFedKDTrainer:
    """AsyncFedKD: the student trains under a frozen teacher, whose outputs on a device's examples are computed once."""

    def __init__(
        self,
        task: Task,
        data: Mapping[str, Data],
        teacher: nn.Module | None,
        layout: Layout,
        *,
        seed: int,
        teacher_outputs: Mapping[str, Any] | None = None,
    ) -> None:
        """`teacher_outputs`: the teacher's (example, …) by device, if they were computed before."""
        self._recipe, self._objective = task.recipe, task.objective
        self._data = data
        self._layout = layout
        self._seed = seed
        self._numbers = {device: number for number, device in enumerate(sorted(data))}
        with seeded(seed):
            self._student = task.student()
        self._statistics = _at_home(task, self._student, data)
        wanted = teacher is not None and task.recipe.alpha > 0
        self._teacher_outputs: dict[str, TeacherOutputs] = {}
        if teacher is not None and wanted:
            self._teacher_outputs = {
                device: outputs_under(teacher, own, self._objective)
                if teacher_outputs is None
                else kept(teacher_outputs[device])
                for device, own in data.items()
            }

    def __call__(self, device: str, start: Vector, *, version: int, round_number: int) -> Trained:
        loaded = LoadedWeights.load(self._student, self._layout, start)
        own = self._statistics.get(device)
        if own is not None:
            own.restore()
        result = train_student(
            self._student,
            None,
            self._data[device],
            self._recipe,
            objective=self._objective,
            seed=seed_of(self._seed, self._numbers[device], round_number),
            version=version,
            teacher_outputs=self._teacher_outputs.get(device),
        )
        if own is not None:
            own.keep()
        return trained_of(self._student, loaded, result)


def _at_home(task: Task, student: nn.Module, data: Mapping[str, Data]) -> dict[str, HomeStatistics]:
    """Each device's own running statistics, if they stay at home."""
    if task.recipe.statistics == "merged":
        return {}
    return {device: HomeStatistics(student, task=task.name) for device in data}


def teacher_outputs_of(teacher: nn.Module, data: Mapping[str, Examples], task: Task) -> dict[str, Any]:
    """What distillation needs of a teacher's outputs (example, …) on each device's data, such as logits."""
    return {device: teaching_outputs(teacher, examples, task.objective) for device, examples in data.items()}


def trained_of(student: nn.Module, loaded: LoadedWeights, result: TrainingResult) -> Trained:
    """The result of a round in the form that the device's core uses."""
    return Trained(
        weights=loaded.after(student),
        samples=result.samples,
        steps=result.local_steps,
        metrics=result.metrics,
    )


class FedKDTrainer:
    """FedKD: each device trains its own teacher together with the student (`device_client/learning/fedkd.py`)."""

    def __init__(self, task: Task, data: Mapping[str, Data], teacher: nn.Module, layout: Layout, *, seed: int) -> None:
        """Each device's teacher starts as a copy of `teacher`; projections are initialised from the seed."""
        self._recipe, self._objective = task.recipe, task.objective
        self._data = data
        self._layout = layout
        self._seed = seed
        self._numbers = {device: number for number, device in enumerate(sorted(data))}
        with seeded(seed):
            self._student = task.student()
        self._statistics = _at_home(task, self._student, data)
        self.teachers = {device: deepcopy(teacher) for device in data}
        """By device, after its last round."""
        self._projections = {
            device: projection_between(
                self._student,
                teacher,
                own,
                objective=self._objective,
                seed=seed_of(seed, self._numbers[device]),
            )
            for device, own in data.items()
        }

    def __call__(self, device: str, start: Vector, *, version: int, round_number: int) -> Trained:
        loaded = LoadedWeights.load(self._student, self._layout, start)
        own = self._statistics.get(device)
        if own is not None:
            own.restore()
        result = train_mutually(
            self._student,
            self.teachers[device],
            self._projections[device],
            self._data[device],
            self._recipe,
            objective=self._objective,
            seed=seed_of(self._seed, self._numbers[device], round_number),
            version=version,
        )
        if own is not None:
            own.keep()
        return trained_of(self._student, loaded, result)
