"""What a user brings to be learned. `tasks/loading.py` finds a task by name.

TaskError          a task cannot be had; the message is one line that says what to do
└── SplitError     … because one person stands on both sides of a split
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from itertools import combinations
from typing import Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

TaskLoss = Literal["cross_entropy", "focal"]
Method = Literal["asyncfedkd", "fedkd"]
Schedule = Literal["constant", "inverse", "cosine"]
Augment = Callable[[Tensor, torch.Generator], Tensor]
"""Inputs (batch, …) to changed inputs of the same shape, drawing only from the given generator."""


class TaskError(Exception):
    """A task, its data or one of its devices cannot be had. One line, and it says what to do."""


class SplitError(TaskError):
    """One person stands on both sides of a split, so a measurement would flatter the model."""


@dataclass(frozen=True, kw_only=True)
class Examples:
    """Labelled examples in memory."""

    inputs: Tensor
    """float32 (example, …)."""
    labels: Tensor
    """int64 (example,), an index into the task's classes."""
    persons: npt.NDArray[np.str_] | None = None
    """Whose each example is, (example,); None where nobody knows."""

    def __post_init__(self) -> None:
        if self.inputs.dtype != torch.float32 or self.labels.dtype != torch.int64 or self.labels.ndim != 1:
            raise TaskError(
                f"examples: inputs must be float32 and labels a row of int64, not {self.inputs.dtype} and "
                f"{self.labels.dtype} {tuple(self.labels.shape)}"
            )
        if len(self.inputs) != len(self.labels) or (self.persons is not None and len(self.persons) != len(self.labels)):
            raise TaskError(f"examples: {len(self.inputs)} inputs for {len(self.labels)} labels (or persons)")
        if len(self.labels) == 0:
            raise TaskError("examples: there are none")

    @classmethod
    def of(cls, inputs: npt.ArrayLike, labels: npt.ArrayLike, persons: npt.ArrayLike | None = None) -> "Examples":
        """Examples out of anything numpy reads, with the dtypes put right."""
        return cls(
            inputs=torch.tensor(np.asarray(inputs, dtype=np.float32)),
            labels=torch.tensor(np.asarray(labels, dtype=np.int64)),
            persons=None if persons is None else np.asarray(persons, dtype=np.str_),
        )

    def __len__(self) -> int:
        return len(self.labels)

    def where(self, chosen: npt.NDArray[np.bool_]) -> "Examples":
        """The examples of a mask (example,)."""
        mask = torch.from_numpy(chosen)
        return Examples(
            inputs=self.inputs[mask],
            labels=self.labels[mask],
            persons=None if self.persons is None else self.persons[chosen],
        )


def pooled(parts: "list[Examples]") -> Examples:
    """The examples of several devices in one heap, in the given order."""
    known = [part.persons for part in parts if part.persons is not None]
    return Examples(
        inputs=torch.cat([part.inputs for part in parts]),
        labels=torch.cat([part.labels for part in parts]),
        persons=np.concatenate(known) if len(known) == len(parts) else None,
    )


def check_split(sides: Mapping[str, npt.NDArray[np.str_]]) -> None:
    """Nobody may be on two sides.

    Raises:
        SplitError: somebody is; the message names the sides and the persons.
    """
    for one, other in combinations(sides, 2):
        both = sorted(set(sides[one].tolist()) & set(sides[other].tolist()))
        if both:
            raise SplitError(f"person {', '.join(both)} is among both the {one} and the {other} data; split by person")


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """How a student is trained on a device, and how its teacher was or is."""

    method: Method = "asyncfedkd"
    """asyncfedkd: under a frozen teacher. fedkd: together with a teacher of the device's own, which learns, too, and
    never leaves it. Formulas: `distillation.py`."""
    epochs: int = 1
    """Passes over the device's data behind one update."""
    batch_size: int = 32
    learning_rate: float = 3e-3
    """Of AdamW, at version 0."""
    schedule: Schedule = "constant"
    """How the rate falls with the base version, which is all that a device knows of the progress made."""
    schedule_versions: float = 20.0
    """inverse: at this version the rate has fallen to one half. cosine: from this version on it stays at its floor."""
    schedule_floor: float = 0.02
    """cosine: the least share of `learning_rate`, so that a model that is published for years goes on learning."""
    weight_decay: float = 1e-3
    temperature: float = 2.0
    """asyncfedkd: T of the distillation; both sets of logits are divided by it."""
    alpha: float = 0.3
    """asyncfedkd: share of the distillation in the loss; without a teacher, its part goes to the labels."""
    mutual_temperature: float = 1.0
    """fedkd: T of the distillation both ways."""
    local_teacher_learning_rate: float = 1e-3
    """fedkd: of the local teacher and W_h, at version 0; it falls by the student's schedule."""
    task_loss: TaskLoss = "cross_entropy"
    focal_gamma: float = 2.0
    label_smoothing: float = 0.0
    augment: Augment | None = None
    teacher_epochs: int = 20
    teacher_learning_rate: float = 1.5e-3
    teacher_batch_size: int = 64
    teacher_label_smoothing: float = 0.1
    """Smoothed labels keep the teacher from being sure, so that its logits tell which classes are alike."""

    def learning_rate_at(self, version: int) -> float:
        """The student's rate for a round that starts from `version`."""
        return self.learning_rate * self._share_at(version)

    def local_teacher_learning_rate_at(self, version: int) -> float:
        """The local teacher's, likewise."""
        return self.local_teacher_learning_rate * self._share_at(version)

    def _share_at(self, version: int) -> float:
        progress = version / self.schedule_versions
        share = 1.0
        if self.schedule == "inverse":
            share = 1.0 / (1.0 + progress)
        elif self.schedule == "cosine":
            share = max(self.schedule_floor, 0.5 * (1.0 + math.cos(math.pi * min(progress, 1.0))))
        return share


@dataclass(frozen=True, kw_only=True)
class Task:
    """One thing to be learned: one model line."""

    name: str
    classes: tuple[str, ...]
    student: Callable[[], nn.Module]
    """A fresh student; seeded by the caller. Inputs (batch, …) to logits (batch, class). If it and the teacher show
    their hidden states (`mutual.ShowsHidden`), method fedkd brings these together as well."""
    device_data: Callable[[str], Examples]
    """The private data of a device, by its id."""
    held_out: Callable[[], Examples]
    """Data of persons who are neither devices nor known to the teacher."""
    teacher: Callable[[], nn.Module] | None = None
    """A fresh teacher, larger than the student; it never leaves the device."""
    teacher_data: Callable[[], Examples] | None = None
    """Data of persons who are neither devices nor held out; the teacher is pre-trained on them."""
    devices: tuple[str, ...] = ()
    """The known device ids; empty when `device_data` takes any."""
    recipe: Recipe = field(default_factory=Recipe)

    def examples_of(self, device: str) -> Examples:
        """The private data of `device`.

        Raises:
            TaskError: the device is not one of this task's.
        """
        if self.devices and device not in self.devices:
            raise TaskError(f"task {self.name} has no device {device!r}; known: {', '.join(self.devices)}")
        return self.device_data(device)


def scheduled(task: Task, versions: float) -> Task:
    """The task with a cosine that has fallen when version `versions` comes, the last of a run; other schedules stay."""
    if task.recipe.schedule != "cosine":
        return task
    return replace(task, recipe=replace(task.recipe, schedule_versions=float(versions)))
