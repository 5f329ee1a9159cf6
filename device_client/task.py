"""The interface for tasks of one's own: `Task`, its data (`Examples`) and its hyper-parameters (`Recipe`).

`tasks/loading.py` finds a task by name; `task_checks.py` has the checks and the errors.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from itertools import combinations
from typing import Literal, get_args

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from device_client.task_checks import (
    ExamplesError,
    SplitError,
    TaskError,
    check_choice,
    check_counts,
    check_functions,
    check_numbers,
    check_same_shapes,
    check_task_names,
    check_tensors,
    float32_array,
    int64_array,
)

__all__ = [
    "Augment",
    "Examples",
    "Method",
    "Recipe",
    "Schedule",
    "SplitError",
    "Task",
    "TaskError",
    "TaskLoss",
    "check_split",
    "pooled",
    "scheduled",
]

TaskLoss = Literal["cross_entropy", "focal"]
Method = Literal["asyncfedkd", "fedkd"]
Schedule = Literal["constant", "inverse", "cosine"]
Augment = Callable[[Tensor, torch.Generator], Tensor]
"""Maps inputs (batch, …) to augmented inputs of the same shape, drawing random numbers only from the generator."""


@dataclass(frozen=True, kw_only=True)
class Examples:
    """Labelled examples in memory."""

    inputs: Tensor
    """float32 (example, …)."""
    labels: Tensor
    """int64 (example,), an index into the task's classes."""
    persons: npt.NDArray[np.str_] | None = None
    """The person of each example, (example,); None: not known."""

    def __post_init__(self) -> None:
        check_tensors(self.inputs, self.labels)
        if len(self.inputs) != len(self.labels) or (self.persons is not None and len(self.persons) != len(self.labels)):
            raise ExamplesError(f"examples: {len(self.inputs)} inputs for {len(self.labels)} labels (or persons)")
        if len(self.labels) == 0:
            raise ExamplesError("examples: the data set is empty")

    @classmethod
    def of(cls, inputs: npt.ArrayLike, labels: npt.ArrayLike, persons: npt.ArrayLike | None = None) -> "Examples":
        """Examples from anything that numpy can convert to arrays, with the right dtypes.

        Raises:
            TaskError: they are no numbers, not finite, or the labels are not whole numbers from 0.
        """
        return cls(
            inputs=torch.tensor(float32_array(inputs)),
            labels=torch.tensor(int64_array(labels)),
            persons=None if persons is None else np.asarray(persons, dtype=np.str_),
        )

    def __len__(self) -> int:
        return len(self.labels)

    def where(self, chosen: npt.NDArray[np.bool_]) -> "Examples":
        """The examples selected by a mask (example,)."""
        mask = torch.from_numpy(chosen)
        return Examples(
            inputs=self.inputs[mask],
            labels=self.labels[mask],
            persons=None if self.persons is None else self.persons[chosen],
        )


def pooled(parts: "list[Examples]") -> Examples:
    """The examples of several devices as one data set, in the given order.

    Raises:
        TaskError: there are no parts, or their inputs differ in shape.
    """
    if not parts:
        raise ExamplesError("there are no parts to pool")
    check_same_shapes({f"part {number}": tuple(part.inputs.shape[1:]) for number, part in enumerate(parts)})
    known = [part.persons for part in parts if part.persons is not None]
    return Examples(
        inputs=torch.cat([part.inputs for part in parts]),
        labels=torch.cat([part.labels for part in parts]),
        persons=np.concatenate(known) if len(known) == len(parts) else None,
    )


def check_split(sides: Mapping[str, npt.NDArray[np.str_]]) -> None:
    """Checks that no person is on two sides of a split.

    Raises:
        SplitError: some person is; the message names the sides and the persons.
    """
    for one, other in combinations(sides, 2):
        both = sorted(set(sides[one].tolist()) & set(sides[other].tolist()))
        if both:
            raise SplitError(f"person {', '.join(both)} is in both the {one} and the {other} data; split by person")


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """Hyper-parameters: how a student is trained on a device, and its teacher before or together with it."""

    method: Method = "asyncfedkd"
    """asyncfedkd: under a frozen teacher. fedkd: together with the device's own teacher, which never leaves the device.
    Formulas: `learning/losses.py`."""
    epochs: int = 1
    """Passes over the device's data per round. The built-in tasks use 2 (`docs/decisions/0039-local-training.md`)."""
    batch_size: int = 32
    """Chosen: few examples per device still make several steps. `har` gained from 16
    (`docs/decisions/0039-local-training.md`)."""
    learning_rate: float = 3e-3
    """Learning rate of AdamW at version 0. Chosen, not measured; the built-in tasks have their own."""
    schedule: Schedule = "constant"
    """How the learning rate falls with the base version, the only measure of progress that a device knows."""
    schedule_versions: float = 20.0
    """inverse: the version at which the rate is halved. cosine: the version from which on it stays at its floor.
    Chosen, not measured; each task sets it to the length of its run."""
    schedule_floor: float = 0.02
    """cosine: lowest share of `learning_rate`, so that a model that is published for years keeps learning. 2 % is part
    of `docs/decisions/0039-local-training.md`."""
    weight_decay: float = 1e-3
    """Of AdamW. Chosen, not measured: a tenth of PyTorch's default, as averaging many devices regularises already; a
    much larger one would pull the weights to 0 in every round of every device."""
    temperature: float = 2.0
    """asyncfedkd: distillation temperature T, by which both networks' logits are divided. Chosen, not measured: at 1
    the teacher's targets are nearly one-hot, at high T all classes look alike."""
    alpha: float = 0.3
    """asyncfedkd: weight of the distillation loss; without a teacher the loss is the task loss alone. Chosen, not
    measured: at 1 the student would learn the teacher's errors as well, at 0 nothing of it."""
    mutual_temperature: float = 1.0
    """fedkd: temperature of the distillation in both directions. 1, because the paper's formulas have none."""
    local_teacher_learning_rate: float = 1e-3
    """fedkd: learning rate of the local teacher and W_h at version 0; it follows the student's schedule. AdamW's
    default in PyTorch."""
    task_loss: TaskLoss = "cross_entropy"
    focal_gamma: float = 2.0
    """focal: its exponent; 2 worked best in the paper (Lin et al. 2017)."""
    label_smoothing: float = 0.0
    augment: Augment | None = None
    teacher_epochs: int = 20
    """Chosen, not measured: fewer leave the teacher weak, more cost time once."""
    teacher_learning_rate: float = 1.5e-3
    """Half of the student's, as the network is larger. Chosen, not measured."""
    teacher_batch_size: int = 64
    """Twice the student's, as its data is pooled: fewer, larger steps take less time. Chosen, not measured."""
    teacher_label_smoothing: float = 0.1
    """Label smoothing keeps the teacher from being over-confident, so that its logits show which classes are similar.
    0.1 is the usual value (Szegedy et al. 2016)."""

    def __post_init__(self) -> None:
        for name, value, choice in (
            ("method", self.method, Method),
            ("schedule", self.schedule, Schedule),
            ("task_loss", self.task_loss, TaskLoss),
        ):
            check_choice(name, value, get_args(choice))
        counts = ("epochs", "batch_size", "teacher_epochs", "teacher_batch_size")
        check_counts({name: getattr(self, name) for name in counts})
        rates = ("learning_rate", "local_teacher_learning_rate", "teacher_learning_rate", "weight_decay", "focal_gamma")
        check_numbers({name: getattr(self, name) for name in rates})
        positive = ("temperature", "mutual_temperature", "schedule_versions")
        check_numbers({name: getattr(self, name) for name in positive}, above=True)
        shares = ("alpha", "schedule_floor", "label_smoothing", "teacher_label_smoothing")
        check_numbers({name: getattr(self, name) for name in shares}, most=1.0)
        if self.augment is not None and not callable(self.augment):
            raise TaskError(f"recipe: augment must be a function of inputs and a generator, not {self.augment!r}")

    def learning_rate_at(self, version: int) -> float:
        """The student's learning rate for a round on base `version`."""
        return self.learning_rate * self._share_at(version)

    def local_teacher_learning_rate_at(self, version: int) -> float:
        """The local teacher's learning rate for a round on base `version`."""
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
    """What a federation learns: one model line."""

    name: str
    classes: tuple[str, ...]
    student: Callable[[], nn.Module]
    """Makes a fresh student; the caller seeds the random numbers. It maps inputs (batch, …) to logits (batch, class).
    If it and the teacher expose their hidden states (`fedkd.ShowsHidden`), method fedkd distils these as well."""
    device_data: Callable[[str], Examples]
    """The private data of a device, given its id."""
    held_out: Callable[[], Examples]
    """Test data of persons who are neither on a device nor in the teacher's data."""
    teacher: Callable[[], nn.Module] | None = None
    """Makes a fresh teacher, larger than the student; it never leaves the device."""
    teacher_data: Callable[[], Examples] | None = None
    """Data for pre-training the teacher, of persons who are neither on a device nor held out."""
    devices: tuple[str, ...] = ()
    """The device ids of this task; empty: `device_data` accepts any."""
    recipe: Recipe = field(default_factory=Recipe)

    def __post_init__(self) -> None:
        check_task_names(self.name, self.classes, self.devices)
        check_functions(
            self.name,
            (
                ("student", self.student, "lambda: Network()"),
                ("teacher", self.teacher, "lambda: Network()"),
                ("device_data", self.device_data, "lambda device: Examples.of(…)"),
                ("held_out", self.held_out, "lambda: Examples.of(…)"),
                ("teacher_data", self.teacher_data, "lambda: Examples.of(…)"),
            ),
        )
        if not isinstance(self.recipe, Recipe):
            raise TaskError(f"task {self.name}: recipe must be a Recipe, not {type(self.recipe).__name__}")

    def examples_of(self, device: str) -> Examples:
        """The private data of `device`.

        Raises:
            TaskError: the task has no such device.
        """
        if self.devices and device not in self.devices:
            raise TaskError(f"task {self.name} has no device {device!r}; known: {', '.join(self.devices)}")
        return self.device_data(device)


def scheduled(task: Task, versions: float) -> Task:
    """The task with its cosine schedule ending at version `versions`; other schedules stay as they are."""
    if task.recipe.schedule != "cosine":
        return task
    return replace(task, recipe=replace(task.recipe, schedule_versions=float(versions)))
