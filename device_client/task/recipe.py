"""The hyper-parameters of a task."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from numbers import Real
from traceback import walk_tb
from typing import TYPE_CHECKING, Any, Literal, get_args

import torch

from device_client.task.batches import Batch
from device_client.task_checks import TaskError, check_choice, check_counts, check_numbers, first_line

if TYPE_CHECKING:
    from torch.optim import Optimizer

TaskLoss = Literal["cross_entropy", "focal"]
Method = Literal["asyncfedkd", "fedkd"]
StatisticsChoice = Literal["merged", "home"]
Schedule = Literal["constant", "inverse", "cosine"]
Augment = Callable[[Any, torch.Generator], Any]
"""Maps inputs (batch, …) to augmented inputs of the same shapes, drawing random numbers only from the generator."""
AugmentBatch = Callable[[Batch, torch.Generator], Batch]
"""The same for a whole batch."""
MakeOptimiser = Callable[[list[dict[str, Any]]], "Optimizer"]
"""Makes an optimiser of torch from parameter groups, each with its parameters `params` and its learning rate `lr`."""


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
    schedule: Schedule | Callable[[int], float] = "constant"
    """How the learning rate falls with the base version, the only measure of progress that a device knows; or a
    function that maps this version to a share of the learning rate, finite and at least 0."""
    optimiser: MakeOptimiser | None = None
    """Makes the optimiser of each round and network from parameter groups, which carry the learning rate; the training
    loop sets it before each step. None: AdamW."""
    schedule_versions: float = 20.0
    """inverse: the version at which the rate is halved. cosine: the version from which on it stays at its floor.
    Chosen, not measured; each task sets it to the length of its run."""
    schedule_floor: float = 0.02
    """cosine: lowest share of `learning_rate`, so that a model that is published for years keeps learning. 2 % is part
    of `docs/decisions/0039-local-training.md`."""
    statistics: StatisticsChoice = "merged"
    """Running statistics of BatchNorm and its kind. merged: part of the model. home: each device keeps its own, and who
    has none estimates them from the inputs at hand (`docs/decisions/0065-running-statistics.md`)."""
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
    augment_batch: AugmentBatch | None = None
    """Instead of `augment`, where inputs and targets must change together, such as an image and its mask."""
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
        check_choice("method", self.method, get_args(Method))
        check_choice("statistics", self.statistics, get_args(StatisticsChoice))
        check_choice("task_loss", self.task_loss, get_args(TaskLoss))
        if not callable(self.schedule):
            check_choice("schedule", self.schedule, get_args(Schedule))
        counts = ("epochs", "batch_size", "teacher_epochs", "teacher_batch_size")
        check_counts({name: getattr(self, name) for name in counts})
        rates = ("learning_rate", "local_teacher_learning_rate", "teacher_learning_rate", "weight_decay", "focal_gamma")
        check_numbers({name: getattr(self, name) for name in rates})
        positive = ("temperature", "mutual_temperature", "schedule_versions")
        check_numbers({name: getattr(self, name) for name in positive}, above=True)
        shares = ("alpha", "schedule_floor", "label_smoothing", "teacher_label_smoothing")
        check_numbers({name: getattr(self, name) for name in shares}, most=1.0)
        for name, wanted in (
            ("augment", "a function of inputs and a generator"),
            ("augment_batch", "a function of a batch and a generator"),
            ("optimiser", "a function of parameter groups, such as lambda groups: torch.optim.SGD(groups)"),
        ):
            value = getattr(self, name)
            if value is not None and not callable(value):
                raise TaskError(f"recipe: {name} must be {wanted}, not an instance of {type(value).__name__}")
        if self.augment is not None and self.augment_batch is not None:
            raise TaskError("recipe: give augment or augment_batch, not both")

    def learning_rate_at(self, version: int) -> float:
        """The student's learning rate for a round on base `version`."""
        return self.learning_rate * self._share_at(version)

    def local_teacher_learning_rate_at(self, version: int) -> float:
        """The local teacher's learning rate for a round on base `version`."""
        return self.local_teacher_learning_rate * self._share_at(version)

    def _share_at(self, version: int) -> float:
        if callable(self.schedule):
            return self._own_share(self.schedule, version)
        progress = version / self.schedule_versions
        share = 1.0
        if self.schedule == "inverse":
            share = 1.0 / (1.0 + progress)
        elif self.schedule == "cosine":
            share = max(self.schedule_floor, 0.5 * (1.0 + math.cos(math.pi * min(progress, 1.0))))
        return share

    def _own_share(self, schedule: Callable[[int], float], version: int) -> float:
        try:
            share: object = schedule(version)
        except Exception as error:
            last = list(walk_tb(error.__traceback__))[-1]
            place = f"{last[0].f_code.co_filename}:{last[1]}"
            raise TaskError(f"recipe: schedule({version}) failed: {first_line(error)} ({place})") from error
        if not isinstance(share, Real) or not math.isfinite(float(share)) or float(share) < 0:
            raise TaskError(
                f"recipe: schedule({version}) returned {share!r}; it must be a share of the learning rate, finite "
                "and at least 0"
            )
        return float(share)
