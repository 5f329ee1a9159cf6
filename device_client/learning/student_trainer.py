"""Trains a task's student on this device's data, by the task's method. Implements `device_client.trainer` with
torch.
"""

import time
from collections.abc import Callable

from torch import Tensor, nn

from device_client.learning.asyncfedkd import train_student
from device_client.learning.evaluation import logits_of
from device_client.learning.fedkd import train_mutually
from device_client.learning.local_teacher import LocalTeacher
from device_client.learning.parameters import load_vector, vector_of
from device_client.learning.seeding import round_seed
from device_client.learning.training_loop import TrainingResult
from device_client.task import Examples, Recipe
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
        examples: Examples,
        recipe: Recipe,
        teacher: nn.Module | None = None,
        local_teacher: LocalTeacher | None = None,
        seed: int = 0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Computes nothing yet.

        Args:
            device: its id; it seeds the random numbers, together with version and round.
            student: a student of the task; its weights are overwritten.
            layout: `layout_of(student)`.
            examples: the device's private data.
            recipe: of the task.
            teacher: for asyncfedkd: pre-trained and frozen; None: train on the labels alone.
            local_teacher: for fedkd, and only then: it is trained together with the student.
            seed: varies the random numbers between repeated experiments.
            clock: seconds.
        """
        assert (local_teacher is not None) == (recipe.method == "fedkd"), "fedkd needs a local teacher, others none"
        self._device = device
        self._student = student
        self._layout = layout
        self._examples = examples
        self._recipe = recipe
        self._teacher = teacher if recipe.alpha > 0 else None
        self._local_teacher = local_teacher
        self._seed = seed
        self._clock = clock
        self._teacher_logits: Tensor | None = None

    def warm_up(self) -> None:
        """Computes the frozen teacher's logits, and trains one batch whose result is discarded.

        The first use of torch takes seconds, and a duty cycle would multiply them in the first round.
        """
        batches = iter((False,))
        self._train(seed=0, version=0, should_stop=lambda: next(batches, True))
        if self._local_teacher is not None:
            self._local_teacher.give_up()

    def train(self, weights: Vector, *, version: int, round: int, tick: Tick) -> Trained | None:  # noqa: A002
        """See `trainer.Trainer`. With a local teacher, the result also depends on the rounds before."""
        load_vector(self._student, self._layout, weights)
        result = self._train(
            seed=round_seed(self._device, version=version, round_number=round, seed=self._seed),
            version=version,
            should_stop=lambda: not tick(),
        )
        trained = Trained(
            weights=vector_of(self._student, self._layout),
            samples=result.samples,
            steps=result.local_steps,
            metrics=result.metrics,
        )
        if self._local_teacher is not None:
            if result.finished and is_finite(trained):
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
                self._examples,
                self._recipe,
                seed=seed,
                version=version,
                clock=self._clock,
                should_stop=should_stop,
            )
        if self._teacher is not None and self._teacher_logits is None:
            # Once for all rounds: the teacher is frozen and sees the examples without augmentation.
            self._teacher_logits = logits_of(self._teacher, self._examples.inputs)
        return train_student(
            self._student,
            None,
            self._examples,
            self._recipe,
            seed=seed,
            version=version,
            teacher_logits=self._teacher_logits,
            clock=self._clock,
            should_stop=should_stop,
        )
