"""Trains a task's student on this device's data, under its teacher. Knows torch; the runner does not."""

import hashlib
import time
from collections.abc import Callable

from torch import Tensor, nn

from device_client.rounds import Tick, Trained
from device_client.task import Examples, Recipe
from device_client.training import logits_of, train_student, wants_anchor
from device_client.vectors import load_vector, vector_of
from wire_contract.layout import Layout, Vector


class StudentTrainer:
    """Satisfies `rounds.Trainer`."""

    def __init__(
        self,
        *,
        device: str,
        student: nn.Module,
        layout: Layout,
        examples: Examples,
        recipe: Recipe,
        teacher: nn.Module | None = None,
        seed: int = 0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Nothing is computed yet.

        Args:
            device: its id; with version and round it fixes the random numbers.
            student: one of the task; its weights are overwritten.
            layout: `layout_of(student)`.
            examples: the device's own.
            recipe: the task's.
            teacher: pre-trained and frozen; None trains on the labels alone.
            seed: a further part of the random numbers, for repeated experiments.
            clock: seconds.
        """
        self._device = device
        self._student = student
        self._layout = layout
        self._examples = examples
        self._recipe = recipe
        self._teacher = teacher if recipe.alpha > 0 else None
        self._seed = seed
        self._clock = clock
        self._teacher_logits: Tensor | None = None
        self._base_logits: tuple[int, Tensor] | None = None

    def warm_up(self) -> None:
        """Asks the teacher, and trains one batch that is thrown away.

        The first use of torch costs seconds; in the first round, a duty cycle would multiply them.
        """
        self._ask_the_teacher()
        batches = iter((False,))
        train_student(
            self._student,
            None,
            self._examples,
            self._recipe,
            seed=0,
            version=0,
            teacher_logits=self._teacher_logits,
            clock=self._clock,
            should_stop=lambda: next(batches, True),
        )

    def _ask_the_teacher(self) -> None:
        """Once for all rounds: the teacher is frozen, and is asked about the unchanged examples."""
        if self._teacher is not None and self._teacher_logits is None:
            self._teacher_logits = logits_of(self._teacher, self._examples.inputs)

    def train(self, weights: Vector, *, version: int, round: int, tick: Tick) -> Trained | None:  # noqa: A002
        self._ask_the_teacher()
        load_vector(self._student, self._layout, weights)
        if wants_anchor(self._recipe) and (
            # Further rounds start from the device's own student, but keep to the model that everybody has. After a
            # restart in the middle of them, that student stands in for it.
            round == 1 or self._base_logits is None or self._base_logits[0] != version
        ):
            self._base_logits = (version, logits_of(self._student, self._examples.inputs))
        result = train_student(
            self._student,
            None,
            self._examples,
            self._recipe,
            seed=round_seed(self._device, version=version, round_number=round, seed=self._seed),
            version=version,
            teacher_logits=self._teacher_logits,
            base_logits=None if self._base_logits is None else self._base_logits[1],
            clock=self._clock,
            should_stop=lambda: not tick(),
        )
        if not result.finished:
            return None
        return Trained(
            weights=vector_of(self._student, self._layout),
            samples=result.samples,
            steps=result.local_steps,
            metrics=result.metrics,
        )


def round_seed(device: str, *, version: int, round_number: int, seed: int = 0) -> int:
    """The same on every machine and in every process, and another one for every round of every device."""
    named = f"{seed}/{device}/{version}/{round_number}".encode()
    return int.from_bytes(hashlib.sha256(named).digest()[:8], "big") >> 1
