"""The built-in metrics. Each keeps sums or counts over batches and never the predictions, so that memory is bounded."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from device_client.scores.class_scores import ClassScores, Ranking

NAN = float("nan")


def _kept(predicted: Tensor, targets: Tensor, ignore: int | None) -> tuple[Tensor, Tensor]:
    predicted, targets = predicted.reshape(-1), targets.reshape(-1)
    if ignore is None:
        return predicted, targets
    counts = targets != ignore
    return predicted[counts], targets[counts]


class Accuracy:
    """The share of decisions that are right; logits with the classes along one dimension."""

    def __init__(self, *, class_dimension: int = 1, ignore: int | None = None) -> None:
        self._class_dimension, self._ignore = class_dimension, ignore
        self.reset()

    def reset(self) -> None:
        """Starts anew."""
        self._correct = self._total = 0

    def update(self, logits: Tensor, targets: Tensor, /) -> None:
        """Takes one batch."""
        predicted, targets = _kept(logits.argmax(dim=self._class_dimension), targets, self._ignore)
        self._correct += int((predicted == targets).sum())
        self._total += len(targets)

    def compute(self) -> float:
        """A share from 0 to 1; NaN if there was no decision."""
        return self._correct / self._total if self._total else NAN


class ClassMetrics:
    """What follows from a confusion matrix: logits (batch, class, …), targets int64 (batch, …)."""

    def __init__(
        self,
        names: Sequence[str],
        which: Sequence[str],
        *,
        ignore: int | None = None,
        class_dimension: int = 1,
        mean_over: Sequence[str] | None = None,
    ) -> None:
        """`which`: macro_f1, recall, f1, mean_iou, pixel_accuracy, iou.

        Means are over the classes that occur among the targets or the predictions, and if `mean_over` is given only
        over these; recall_<class>, f1_<class> and iou_<class> are given for the classes among the targets.
        """
        self._in_mean = torch.tensor([mean_over is None or name in mean_over for name in names])
        self._names, self._which = names, which
        self._ignore, self._class_dimension = ignore, class_dimension
        self.reset()

    def reset(self) -> None:
        """Starts anew."""
        self._confusion = torch.zeros(len(self._names), len(self._names), dtype=torch.int64)  # (true, predicted)

    def update(self, logits: Tensor, targets: Tensor, /) -> None:
        """Takes one batch."""
        count = len(self._names)
        predicted, targets = _kept(logits.argmax(dim=self._class_dimension), targets, self._ignore)
        self._confusion += torch.bincount(targets * count + predicted, minlength=count**2).reshape(count, count)

    def compute(self) -> dict[str, float]:
        """By name."""
        confusion = self._confusion.double()
        correct, actual, claimed = confusion.diagonal(), confusion.sum(dim=1), confusion.sum(dim=0)
        occurs = ((actual + claimed) > 0) & self._in_mean
        overlap = correct / (actual + claimed - correct)
        f1 = 2 * correct / (actual + claimed)
        whole = {
            "macro_f1": f1[occurs].mean(),
            "mean_iou": overlap[occurs].mean(),
            "pixel_accuracy": correct.sum() / confusion.sum(),
        }
        each = {"recall": correct / actual, "f1": f1, "iou": overlap}
        return {name: float(value) for name, value in whole.items() if name in self._which} | {
            f"{name}_{label}": float(values[index])
            for name, values in each.items()
            if name in self._which
            for index, label in enumerate(self._names)
            if actual[index] > 0
        }


class RankingMetrics:
    """AUC, average precision, balanced accuracy, sensitivity and calibration, see `scores.class_scores`; logits
    (batch, class), targets int64 (batch,).
    """

    def __init__(self, names: Sequence[str], ranking: Ranking) -> None:
        self._scores = ClassScores(names, ranking)

    def reset(self) -> None:
        """Starts anew."""
        self._scores.reset()

    def update(self, logits: Tensor, targets: Tensor, /) -> None:
        """Takes one batch."""
        self._scores.update(logits.double().numpy(), targets.reshape(-1).long().numpy())

    def compute(self) -> dict[str, float]:
        """By name; NaN where a metric is not defined."""
        return self._scores.compute()


class LabelMetrics:
    """Of independent yes-or-no decisions at probability 0.5: logits and targets (batch, label)."""

    def __init__(self, names: Sequence[str]) -> None:
        self._names = names
        self.reset()

    def reset(self) -> None:
        """Starts anew."""
        self._right, self._actual, self._claimed = (torch.zeros(len(self._names)).double() for _ in range(3))
        self._whole = self._total = 0

    def update(self, logits: Tensor, targets: Tensor, /) -> None:
        """Takes one batch."""
        actual = targets.reshape(-1, len(self._names)) > 0.5  # noqa: PLR2004 — between 0 and 1
        claimed = logits.reshape(actual.shape) > 0
        self._right += (actual & claimed).sum(dim=0)
        self._actual += actual.sum(dim=0)
        self._claimed += claimed.sum(dim=0)
        self._whole += int((actual == claimed).all(dim=1).sum())
        self._total += len(actual)

    def compute(self) -> dict[str, float]:
        """macro_f1 (mean over the labels that occur; 0 if none does), subset_accuracy, and f1_<label> of those."""
        f1 = 2 * self._right / (self._actual + self._claimed)
        occurs = (self._actual + self._claimed) > 0
        return {
            "macro_f1": float(f1[occurs].mean()) if occurs.any() else 0.0,
            "subset_accuracy": self._whole / self._total if self._total else NAN,
        } | {f"f1_{name}": float(f1[index]) for index, name in enumerate(self._names) if occurs[index]}


class Regression:
    """Errors of numbers: predictions and targets (batch, …)."""

    def __init__(self, which: Sequence[str], names: Sequence[str] = ()) -> None:
        """`which`: mae, mse, rmse, r2. `names` of the last dimension add mae_<name>."""
        self._which, self._names = which, names
        self.reset()

    def reset(self) -> None:
        """Starts anew."""
        self._count = 0
        self._absolute = self._square = self._mean = self._spread = torch.zeros(0)

    def update(self, predictions: Tensor, targets: Tensor, /) -> None:
        """Takes one batch. Mean and spread of the targets are merged as in Chan, Golub and LeVeque 1979, which loses
        no digits when the mean is large.
        """
        targets = targets.double()
        error = predictions.double().reshape(targets.shape) - targets
        count, mean = len(targets), targets.mean(dim=0)
        absolute, square = error.abs().sum(dim=0), error.square().sum(dim=0)
        spread = (targets - mean).square().sum(dim=0)
        if self._count == 0:
            self._absolute, self._square, self._mean, self._spread = absolute, square, mean, spread
        else:
            both, apart = self._count + count, mean - self._mean
            self._spread = self._spread + spread + apart.square() * (self._count * count / both)
            self._mean = self._mean + apart * (count / both)
            self._absolute, self._square = self._absolute + absolute, self._square + square
        self._count += count

    def compute(self) -> dict[str, float]:
        """By name; r2 is the mean over the outputs, and NaN where a target never changes."""
        if self._count == 0:
            return dict.fromkeys(self._which, NAN)
        mse = float(self._square.mean()) / self._count
        values = {
            "mae": float(self._absolute.mean()) / self._count,
            "mse": mse,
            "rmse": mse**0.5,
            "r2": float((1 - self._square / self._spread).mean()) if (self._spread > 0).all() else NAN,
        }
        each: list[float] = []
        if self._names:
            each = (self._absolute.reshape(-1, len(self._names)).mean(dim=0) / self._count).tolist()
        return {name: values[name] for name in self._which} | {
            f"mae_{name}": value for name, value in zip(self._names, each, strict=True)
        }


class Perplexity:
    """exp of the mean cross-entropy over all steps; logits (batch, step, class), targets int64 (batch, step)."""

    def __init__(self, *, ignore: int) -> None:
        self._ignore = ignore
        self.reset()

    def reset(self) -> None:
        """Starts anew."""
        self._nats, self._steps = 0.0, 0

    def update(self, logits: Tensor, targets: Tensor, /) -> None:
        """Takes one batch."""
        flat = logits.reshape(-1, logits.shape[-1]).float()
        self._nats += float(
            functional.cross_entropy(flat, targets.reshape(-1), ignore_index=self._ignore, reduction="sum")
        )
        self._steps += int((targets != self._ignore).sum())

    def compute(self) -> Any:
        """At least 1; NaN if there was no step."""
        return float(torch.tensor(self._nats / self._steps).exp()) if self._steps else NAN
