"""What a user's task brings: networks, data, objective, recipe."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import cast

from torch import nn

from device_client.task.batches import Forward
from device_client.task.examples import Data
from device_client.task.kinds import classification
from device_client.task.objective import Objective
from device_client.task.recipe import Recipe
from device_client.task_checks import TaskError, check_classes, check_functions, check_task_names


@dataclass(frozen=True, kw_only=True)
class Task:
    """What a federation learns: one model line."""

    name: str
    classes: tuple[str, ...] = ()
    """Short for `objective=classification(classes)`."""
    objective: Objective = field(default_factory=lambda: cast("Objective", None))
    """What is learned: loss, metrics, distillation. Always there once the task is made."""
    student: Callable[[], nn.Module]
    """Makes a fresh student; the caller seeds the random numbers. It maps inputs (batch, …) to logits (batch, class),
    or to what the objective expects. If it and the teacher expose their hidden states (`fedkd.ShowsHidden`), method
    fedkd distils these as well."""
    device_data: Callable[[str], Data]
    """The private data of a device, given its id: examples in memory, a map-style `Dataset` or a `DataLoader`."""
    held_out: Callable[[], Data]
    """Test data of persons who are neither on a device nor in the teacher's data."""
    teacher: Callable[[], nn.Module] | None = None
    """Makes a fresh teacher, larger than the student; it never leaves the device."""
    teacher_data: Callable[[], Data] | None = None
    """Data for pre-training the teacher, of persons who are neither on a device nor held out."""
    teacher_source: str = ""
    """Where a teacher without `teacher_data` comes from: a sentence or an address, shown to whoever has to give its
    file to a device (`run --teacher`)."""
    devices: tuple[str, ...] = ()
    """The device ids of this task; empty: `device_data` accepts any."""
    recipe: Recipe = field(default_factory=Recipe)
    forward: Forward | None = None
    """How a network's outputs are computed from a batch; None: `outputs_of`."""
    data_changes: bool = False
    """Whether `device_data` is called again before each round. A `Dataset` that grows needs no such call."""

    def __post_init__(self) -> None:
        check_task_names(self.name, self.devices)
        object.__setattr__(self, "objective", self._checked_objective())
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
        if not isinstance(self.teacher_source, str):
            raise TaskError(f"task {self.name}: teacher_source must be text, not {type(self.teacher_source).__name__}")
        if not isinstance(self.recipe, Recipe):
            raise TaskError(f"task {self.name}: recipe must be a Recipe, not {type(self.recipe).__name__}")
        labelled = self.recipe.task_loss != "cross_entropy" or self.recipe.label_smoothing > 0
        if labelled and self.objective.with_label_loss is None:
            raise TaskError(
                f"task {self.name}: recipe: task_loss and label_smoothing apply to class labels, and this objective "
                f"({self.objective.kind}) has none; put them into its loss"
            )

    def _checked_objective(self) -> Objective:
        given: object = self.objective
        if given is None:
            check_classes(self.name, self.classes)
            objective = classification(self.classes)
        elif not isinstance(given, Objective):
            raise TaskError(f"task {self.name}: objective must be an Objective, such as regression(), not {given!r}")
        else:
            objective = given
        if self.classes and (objective.kind != "classification" or objective.labels != tuple(self.classes)):
            raise TaskError(f"task {self.name}: give classes, or an objective with labels, but not both")
        if self.forward is not None:
            if not callable(self.forward):
                raise TaskError(f"task {self.name}: forward must be a function of network and batch")
            objective = replace(objective, forward=self.forward)
        return objective

    @property
    def labels(self) -> tuple[str, ...]:
        """The names of the classes or outputs, in their order."""
        return self.objective.labels

    def examples_of(self, device: str) -> Data:
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
