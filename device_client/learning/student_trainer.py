"""Trains a task's student on this device's data, by the task's method. Implements `device_client.trainer` with
torch.
"""

import math
import time
from collections.abc import Callable

from torch import nn

from device_client.learning.asyncfedkd import train_student
from device_client.learning.evaluation import TeacherOutputs, outputs_under
from device_client.learning.fedkd import train_mutually
from device_client.learning.local_teacher import LocalTeacher
from device_client.learning.parameters import LoadedWeights
from device_client.learning.seeding import round_seed
from device_client.learning.statistics.home import HomeStatistics
from device_client.learning.training_loop import TrainingResult
from device_client.task import Data, Objective, Recipe, TaskError
from device_client.trainer import Tick, Trained, is_finite
from wire_contract.layout import Layout, Vector


class StudentTrainer:
    """Implements `trainer.Trainer`."""

    def __init__(
        self,
        *,
        device: str,
        student: nn.Module,
        layout: Layout,
        data: Data,
        recipe: Recipe,
        objective: Objective,
        teacher: nn.Module | None = None,
        local_teacher: LocalTeacher | None = None,
        statistics: HomeStatistics | None = None,
        reload: Callable[[], Data] | None = None,
        seed: int = 0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Computes nothing yet.

        Args:
            device: its id; it seeds the random numbers, together with version and round.
            student: a student of the task; its weights are overwritten.
            layout: `layout_of(student)`.
            data: the device's private data.
            recipe: of the task.
            objective: of the task.
            teacher: for asyncfedkd: pre-trained and frozen; None: train on the targets alone.
            local_teacher: for fedkd, and only then: it is trained together with the student.
            statistics: the device's own, of `student`, if they stay at home.
            reload: loads the data anew, before each round; None: it stays the same object.
            seed: varies the random numbers between repeated experiments.
            clock: seconds.
        """
        assert (local_teacher is not None) == (recipe.method == "fedkd"), "fedkd needs a local teacher, others none"
        self._device = device
        self._student = student
        self._layout = layout
        self._data = data
        self._recipe = recipe
        self._objective = objective
        self._teacher = teacher if recipe.alpha > 0 else None
        self._local_teacher = local_teacher
        self._statistics = statistics
        self._seed = seed
        self._clock = clock
        self._reload = reload
        self._teacher_outputs: TeacherOutputs | None = None
        self._taught: Data | None = None
        """The data that `_teacher_outputs` belong to."""

    def warm_up(self) -> None:
        """Computes the frozen teacher's outputs, and trains one batch whose result is discarded.

        The first use of torch takes seconds, and a duty cycle would multiply them in the first round.

        Raises:
            TaskError: the loss is not finite.
        """
        batches = iter((False,))
        result = self._train(seed=0, version=0, should_stop=lambda: next(batches, True))
        loss = result.metrics.get("loss", 0.0)
        if not math.isfinite(loss):
            raise TaskError(f"the loss of a first batch is {loss}; look for a logarithm or a division of 0 in it")
        if self._local_teacher is not None:
            self._local_teacher.give_up()

    def train(self, weights: Vector, *, version: int, round: int, tick: Tick) -> Trained | None:  # noqa: A002
        """See `trainer.Trainer`. With a local teacher, the result also depends on the rounds before."""
        if self._reload is not None:
            self._data = self._reload()
        loaded = LoadedWeights.load(self._student, self._layout, weights)
        if self._statistics is not None:
            self._statistics.restore()
        result = self._train(
            seed=round_seed(self._device, version=version, round_number=round, seed=self._seed),
            version=version,
            should_stop=lambda: not tick(),
        )
        trained = Trained(
            weights=loaded.after(self._student),
            samples=result.samples,
            steps=result.local_steps,
            metrics=result.metrics,
        )
        accepted = result.finished and is_finite(trained)
        if accepted and self._statistics is not None:
            self._statistics.keep()
        if self._local_teacher is not None:
            if accepted:
                self._local_teacher.keep()
            else:
                self._local_teacher.give_up()
        return trained if result.finished else None

    def _train(self, *, seed: int, version: int, should_stop: Callable[[], bool]) -> TrainingResult:
        if self._local_teacher is not None:
            return train_mutually(
                self._student,
                self._local_teacher.network,
                self._local_teacher.projection,
                self._data,
                self._recipe,
                objective=self._objective,
                seed=seed,
                version=version,
                clock=self._clock,
                should_stop=should_stop,
            )
        if self._teacher is not None:
            self._learn_from(self._teacher)
        return train_student(
            self._student,
            None,
            self._data,
            self._recipe,
            objective=self._objective,
            seed=seed,
            version=version,
            teacher_outputs=self._teacher_outputs,
            clock=self._clock,
            should_stop=should_stop,
        )

    def _learn_from(self, teacher: nn.Module) -> None:
        """Computes the frozen teacher's outputs, once for all rounds on the same examples."""
        if self._taught is not self._data:
            self._teacher_outputs = outputs_under(teacher, self._data, self._objective)
            self._taught = self._data
