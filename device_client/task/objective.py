"""What a task learns: its loss, its metrics, and how a teacher's outputs teach."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

from torch import Tensor

from device_client.scores.class_scores import Ranking
from device_client.task.batches import Batch, Forward, outputs_of, targets_of
from device_client.task.examples import Data, Examples
from device_client.task.losses import LabelLoss
from device_client.task_checks import TaskError, check_label_names, check_text
from wire_contract.limits import NAME_CHARACTERS_MAX

LOSS = "loss"
"""The name under which the mean loss is reported; no metric may have it."""
Loss = Callable[[Any, Batch], Tensor]
"""Maps a network's outputs and the batch to the mean loss over the batch, a scalar."""
Distillation = Callable[[Any, Any, Batch, float], Tensor]
"""Maps the student's outputs, the teacher's outputs, the batch and the temperature to a scalar, the mean over the
batch. The teacher's outputs carry no gradient."""


@runtime_checkable
class Metric(Protocol):
    """A metric that is exact over batches; those of torchmetrics are. Predictions and targets arrive on the CPU."""

    def update(self, predictions: Any, targets: Any, /) -> object:
        """Takes one batch: the network's main output (`logits_in`), and the batch's targets."""

    def compute(self) -> Any:
        """The value; or several, as a mapping from names, or as a tensor of one value for each label."""

    def reset(self) -> object:
        """Starts anew."""


AnyMetric = Metric | Callable[[Any, Any], Any]
"""A function of predictions and targets is averaged over batches, weighted by their numbers of examples."""


def _whole(outputs: Any) -> Any:
    return outputs


@dataclass(frozen=True, kw_only=True)
class Objective:
    """What is minimised, measured and distilled. `kinds` makes the built-in ones."""

    kind: str = "custom"
    loss: Loss
    metrics: Callable[[], Mapping[str, AnyMetric]]
    """Fresh metrics, by name."""
    main: str
    """The name of the metric by which models are compared."""
    higher_is_better: bool
    distillation: Distillation | None = None
    """None: this objective learns from no teacher."""
    labels: tuple[str, ...] = ()
    """The names of classes or outputs, in their order; every program of a model line must have the same."""
    forward: Forward = outputs_of
    """How a network's outputs are computed from a batch."""
    teaching: Callable[[Any], Any] = _whole
    """The part of a teacher's outputs that `distillation` uses, and that is kept in memory between rounds."""
    with_label_loss: Callable[[LabelLoss], Loss] | None = None
    """The loss with another loss of labels in it, chosen by `Recipe.task_loss`, `focal_gamma` and `label_smoothing`;
    None: these do not apply."""
    check_targets: Callable[[Any], object] | None = None
    """Raises an `ExamplesError` for targets (example, …) that cannot be learned: for examples in memory when they are
    loaded, for other data with each batch."""

    ranking: Ranking | None = None
    """What its metrics of ranking and calibration are about, for programs that measure an exported model; None: it has
    none of them."""

    def check_batch(self, data: Data, batch: Batch) -> None:
        """Checks the targets in a batch, unless they were checked when the data was loaded.

        Raises:
            ExamplesError: they cannot be learned.
        """
        if self.check_targets is not None and not isinstance(data, Examples):
            self.check_targets(targets_of(batch))

    def __post_init__(self) -> None:
        for name in ("loss", "metrics", "distillation", "forward"):
            value = getattr(self, name)
            if not callable(value) and (value is not None or name != "distillation"):
                hint = ", such as lambda: {'mae': mae}" if name == "metrics" else ""
                raise TaskError(f"objective: {name} must be a function{hint}, not {type(value).__name__}")
        if not isinstance(self.main, str) or not self.main:
            raise TaskError(f"objective: main={self.main!r} must be the name of one of the metrics")
        check_text(self.main, "objective: main")
        if self.main == LOSS:
            raise TaskError(f"objective: main={LOSS!r} is the name of the mean loss; call the metric something else")
        if len(self.main) > NAME_CHARACTERS_MAX:
            raise TaskError(f"objective: main={self.main!r} is longer than {NAME_CHARACTERS_MAX} characters")
        if not isinstance(self.higher_is_better, bool):
            raise TaskError(f"objective: higher_is_better={self.higher_is_better!r} must be True or False")
        check_label_names(self.labels, "objective: labels")
