"""The metrics of the built-in objectives, in numpy: the same names and values as `device_client/task/metrics.py`.

They keep sums over batches, never the outputs. `loss` of objectives with one class at each position is the mean over
positions.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

import numpy as np

from device_client.onnx_inference.exported_model import Array, Metadata, OnnxModelError
from device_client.scores.class_scores import ClassScores, Ranking

IGNORED = -100
"""As `device_client.task.kinds.IGNORED`, which imports torch."""


LOWER_IS_BETTER = frozenset({"mae", "mse", "rmse", "loss", "perplexity"})


class Metric(Protocol):
    """Takes batches of outputs and targets (batch, …)."""

    def update(self, outputs: Array, targets: Array, /) -> None: ...

    def compute(self) -> dict[str, float]: ...


def metrics_of(metadata: Metadata) -> Metric:
    """The metrics of a model.

    Raises:
        OnnxModelError: its objective is the task's own, and only the task can measure it.
    """
    make = _METRICS.get(metadata.objective)
    if make is None:
        raise OnnxModelError(
            f"objective {metadata.objective} of task {metadata.task} has metrics that only the task knows: "
            "evaluate with --task"
        )
    if metadata.objective == "classification" and metadata.ranking is not None:
        return _Classes(metadata.labels, kind="classification", class_dimension=1, ranking=metadata.ranking)
    return make(metadata.labels)


def log_softmax(logits: Array, axis: int = -1) -> Array:
    """In float64, without overflow."""
    shifted = logits.astype(np.float64) - logits.max(axis=axis, keepdims=True)
    result: Array = shifted - np.log(np.exp(shifted).sum(axis=axis, keepdims=True))
    return result


class _Classes:
    """One class for each example or position: logits with the classes along one dimension, targets int64."""

    def __init__(
        self, labels: Sequence[str], *, kind: str, class_dimension: int, ranking: Ranking | None = None
    ) -> None:
        self._ranked = None if ranking is None else ClassScores(labels, ranking)
        self._labels, self._kind, self._dimension = labels, kind, class_dimension
        self._confusion: Array = np.zeros((len(labels), len(labels)), dtype=np.int64)  # (true, predicted)
        self._correct = self._total = 0
        self._nats = 0.0

    def update(self, outputs: Array, targets: Array, /) -> None:
        logits = np.moveaxis(outputs, self._dimension, -1)
        if logits.shape[:-1] != targets.shape:
            raise OnnxModelError(f"outputs of shape {outputs.shape} do not fit targets of shape {targets.shape}")
        flat, true = logits.reshape(-1, logits.shape[-1]), targets.reshape(-1)
        counts = true != IGNORED
        flat, true = flat[counts], true[counts]
        if true.size and not 0 <= true.min() <= true.max() < flat.shape[-1]:
            raise OnnxModelError(f"a target is not among the {flat.shape[-1]} classes of the model")
        predicted = flat.argmax(axis=-1)
        self._nats -= float(log_softmax(flat)[np.arange(len(true)), true].sum())
        self._correct += int((predicted == true).sum())
        self._total += len(true)
        if self._labels:
            np.add.at(self._confusion, (true, predicted), 1)
        if self._ranked is not None:
            self._ranked.update(flat, true)

    def compute(self) -> dict[str, float]:
        accuracy, loss = (value / self._total if self._total else np.nan for value in (self._correct, self._nats))
        if self._kind == "per_token":
            return {"token_accuracy": accuracy, "loss": loss, "perplexity": float(np.exp(loss))}
        confusion = self._confusion.astype(np.float64)
        correct, actual, claimed = confusion.diagonal(), confusion.sum(axis=1), confusion.sum(axis=0)
        occurs = (actual + claimed) > 0
        with np.errstate(divide="ignore", invalid="ignore"):
            f1, overlap = 2 * correct / (actual + claimed), correct / (actual + claimed - correct)
            recall = correct / actual
        if self._kind == "classification":
            whole = {"accuracy": accuracy, "loss": loss, "macro_f1": float(f1[occurs].mean())}
            ranked = {} if self._ranked is None else self._ranked.compute()
            return whole | self._each("recall", recall, actual) | ranked
        whole = {"mean_iou": float(overlap[occurs].mean()), "loss": loss, "pixel_accuracy": accuracy}
        return whole | self._each("iou", overlap, actual)

    def _each(self, name: str, values: Array, actual: Array) -> dict[str, float]:
        return {
            f"{name}_{label}": float(values[index]) for index, label in enumerate(self._labels) if actual[index] > 0
        }


class _Decisions:
    """Independent yes-or-no decisions at probability 0.5: logits and targets (batch, label)."""

    def __init__(self, labels: Sequence[str]) -> None:
        self._labels = labels
        self._right, self._actual, self._claimed = (np.zeros(len(labels)) for _ in range(3))
        self._whole = self._total = 0
        self._nats = 0.0

    def update(self, outputs: Array, targets: Array, /) -> None:
        logits, truth = outputs.astype(np.float64), targets.reshape(-1, len(self._labels))
        if logits.size != truth.size:
            raise OnnxModelError(f"outputs of shape {outputs.shape} do not fit targets of shape {targets.shape}")
        logits = logits.reshape(truth.shape)
        # log(1 + exp(x)) without overflow
        self._nats += float((np.logaddexp(0, logits) - truth * logits).sum())
        actual, claimed = truth > 0.5, logits > 0  # noqa: PLR2004 — between 0 and 1
        self._right += (actual & claimed).sum(axis=0)
        self._actual += actual.sum(axis=0)
        self._claimed += claimed.sum(axis=0)
        self._whole += int((actual == claimed).all(axis=1).sum())
        self._total += len(truth)

    def compute(self) -> dict[str, float]:
        occurs = (self._actual + self._claimed) > 0
        with np.errstate(divide="ignore", invalid="ignore"):
            f1 = 2 * self._right / (self._actual + self._claimed)
        return {
            "macro_f1": float(f1[occurs].mean()) if occurs.any() else 0.0,
            "loss": self._nats / (self._total * len(self._labels)),
            "subset_accuracy": self._whole / self._total,
        } | {f"f1_{name}": float(f1[index]) for index, name in enumerate(self._labels) if occurs[index]}


class _Numbers:
    """Errors of numbers: outputs and targets (batch, …)."""

    def __init__(self, which: Sequence[str], labels: Sequence[str] = ()) -> None:
        self._which, self._labels = which, labels
        self._count = 0
        self._absolute = self._square = self._mean = self._spread = np.zeros(0)

    def update(self, outputs: Array, targets: Array, /) -> None:
        if outputs.size != targets.size:
            raise OnnxModelError(f"outputs of shape {outputs.shape} do not fit targets of shape {targets.shape}")
        truth = targets.astype(np.float64)
        error = outputs.astype(np.float64).reshape(truth.shape) - truth
        count, mean = len(truth), truth.mean(axis=0)
        absolute, square = np.abs(error).sum(axis=0), np.square(error).sum(axis=0)
        spread = np.square(truth - mean).sum(axis=0)
        if self._count == 0:
            self._absolute, self._square, self._mean, self._spread = absolute, square, mean, spread
        else:  # merged as in Chan, Golub and LeVeque 1979
            both, apart = self._count + count, mean - self._mean
            self._spread = self._spread + spread + np.square(apart) * (self._count * count / both)
            self._mean = self._mean + apart * (count / both)
            self._absolute, self._square = self._absolute + absolute, self._square + square
        self._count += count

    def compute(self) -> dict[str, float]:
        mse = float(self._square.mean()) / self._count
        changes = bool((self._spread > 0).all())
        values = {
            "mae": float(self._absolute.mean()) / self._count,
            "loss": mse,
            "mse": mse,
            "rmse": mse**0.5,
            "r2": float((1 - self._square / self._spread).mean()) if changes else np.nan,
        }
        each: list[float] = []
        if self._labels:
            each = (self._absolute.reshape(-1, len(self._labels)).mean(axis=0) / self._count).tolist()
        return {name: values[name] for name in self._which} | {
            f"mae_{name}": value for name, value in zip(self._labels, each, strict=True)
        }


_METRICS: Mapping[str, Callable[[Sequence[str]], Metric]] = {
    "classification": lambda labels: _Classes(labels, kind="classification", class_dimension=1),
    "per_pixel": lambda labels: _Classes(labels, kind="per_pixel", class_dimension=1),
    "per_token": lambda labels: _Classes(labels, kind="per_token", class_dimension=-1),
    "multi_label": _Decisions,
    "regression": lambda labels: _Numbers(("mae", "loss", "rmse", "r2"), labels),
    "reconstruction": lambda _labels: _Numbers(("mse", "loss")),
}
