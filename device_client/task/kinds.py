"""The built-in objectives. Each finds logits or predictions in the outputs by `logits_in`, and targets in the batch by
`targets_of`.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from device_client.scores.class_scores import MAIN_SCORES, Ranking
from device_client.task.array_checks import check_labels, check_range
from device_client.task.batches import Batch, logits_in, targets_of
from device_client.task.losses import LabelLoss, binary_divergence, cross_entropy, divergence
from device_client.task.metrics import Accuracy, ClassMetrics, LabelMetrics, Perplexity, RankingMetrics, Regression
from device_client.task.objective import Loss, Metric, Objective
from device_client.task_checks import CLASSES_MIN, TaskError, check_choice, check_numbers

IGNORED = -100
"""The target of a position that is not learned; torch's own default."""


def classification(
    classes: tuple[str, ...], *, main: str = "accuracy", positive: tuple[str, ...] = (), specificity: float = 0.9
) -> Objective:
    """One class for each example: logits (batch, class), labels int64 (batch,).

    Distillation: `divergence`. Metrics: accuracy, macro_f1, and recall_<class> of each class among the labels. With
    another `main`, or with `positive`, also auc, average_precision, balanced_accuracy,
    sensitivity_at_specificity_<percent> and ece (`scores.class_scores`).

    Args:
        classes: their names.
        main: the main metric: accuracy, macro_f1, balanced_accuracy, auc or average_precision.
        positive: the classes that together are ranked against the rest, such as ("malignant",). Empty: of two classes
            the second; of more, each against the rest, and the mean over the classes that occur.
        specificity: at which the sensitivity is given, 0 to 1.

    Raises:
        TaskError: one of these is not as described.
    """
    names = _names(classes, "classification")
    ranking = Ranking(positive=_positive(positive, names), specificity=specificity)
    check_choice("main", main, ("accuracy", "macro_f1", *MAIN_SCORES), of="classification")
    check_numbers({"specificity": specificity}, most=1.0, of="classification")
    is_ranked = main in MAIN_SCORES or bool(positive)

    def metrics() -> dict[str, Metric]:
        # Under the main metric's name, as training computes no other.
        ranked = {main if main in MAIN_SCORES else "ranking": RankingMetrics(names, ranking)} if is_ranked else {}
        return {"accuracy": Accuracy(), "classes": ClassMetrics(names, ("macro_f1", "recall")), **ranked}

    def with_label_loss(label_loss: LabelLoss) -> Loss:
        return lambda outputs, batch: label_loss(logits_in(outputs), targets_of(batch).long())

    def distillation(student: Any, teacher: Any, _batch: Batch, temperature: float) -> Tensor:
        return divergence(logits_in(student), logits_in(teacher), temperature=temperature)

    return Objective(
        kind="classification",
        loss=with_label_loss(cross_entropy),
        metrics=metrics,
        main=main,
        higher_is_better=True,
        distillation=distillation,
        labels=names,
        teaching=logits_in,
        with_label_loss=with_label_loss,
        check_targets=lambda labels: check_labels(labels, names),
        ranking=ranking if is_ranked else None,
    )


def regression(names: tuple[str, ...] = ()) -> Objective:
    """Numbers: outputs and targets of one shape, (batch, …); `names` are those of the last dimension.

    Loss and distillation: mean squared error; the teacher's outputs are targets as well. Metrics: mae, rmse, r2 (mean
    over the outputs), and mae_<name> where there are names.
    """

    def loss(outputs: Any, batch: Batch) -> Tensor:
        return functional.mse_loss(*_alike(logits_in(outputs), targets_of(batch)))

    return Objective(
        kind="regression",
        loss=loss,
        metrics=lambda: {"numbers": Regression(("mae", "rmse", "r2"), names)},
        main="mae",
        higher_is_better=False,
        distillation=_towards,
        labels=tuple(names),
        teaching=logits_in,
        check_targets=lambda targets: check_range(targets, None, None, width=len(names) or None),
    )


def reconstruction() -> Objective:
    """An autoencoder: outputs like the inputs, or like the targets where the batch has some.

    Loss and distillation: mean squared error. Metric: mse.
    """

    def loss(outputs: Any, batch: Batch) -> Tensor:
        return functional.mse_loss(*_alike(logits_in(outputs), targets_of(batch)))

    return Objective(
        kind="reconstruction",
        loss=loss,
        metrics=lambda: {"numbers": Regression(("mse",))},
        main="mse",
        higher_is_better=False,
        distillation=_towards,
        teaching=logits_in,
    )


def multi_label(labels: tuple[str, ...]) -> Objective:
    """Any number of labels for each example: logits (batch, label), targets 0 or 1 (batch, label).

    Loss: binary cross-entropy. Distillation: `binary_divergence`. Metrics at probability 0.5: macro_f1,
    subset_accuracy (all labels of an example right), and f1_<label>.
    """
    names = _names(labels, "multi_label", least=1)

    def loss(outputs: Any, batch: Batch) -> Tensor:
        logits, targets = _alike(logits_in(outputs), targets_of(batch))
        return functional.binary_cross_entropy_with_logits(logits, targets)

    def distillation(student: Any, teacher: Any, _batch: Batch, temperature: float) -> Tensor:
        return binary_divergence(logits_in(student), logits_in(teacher), temperature=temperature)

    return Objective(
        kind="multi_label",
        loss=loss,
        metrics=lambda: {"labels": LabelMetrics(names)},
        main="macro_f1",
        higher_is_better=True,
        distillation=distillation,
        labels=names,
        teaching=logits_in,
        check_targets=lambda targets: check_range(targets, 0, 1, width=len(names)),
    )


def per_pixel(classes: tuple[str, ...], *, ignore: int = IGNORED) -> Objective:
    """One class for each position, as in segmentation: logits (batch, class, …), targets int64 (batch, …).

    Loss: mean cross-entropy over positions. Distillation: `divergence` at each position. Metrics: mean_iou (over the
    classes that occur), pixel_accuracy, and iou_<class> of each class among the targets.

    Args:
        classes: their names.
        ignore: the target of positions that neither are learned nor measured.
    """
    names = _names(classes, "per_pixel")
    return _positions(
        "per_pixel",
        names,
        class_dimension=1,
        ignore=ignore,
        count=len(names),
        main="mean_iou",
        metrics=lambda: {
            "positions": ClassMetrics(names, ("mean_iou", "pixel_accuracy", "iou"), ignore=ignore, class_dimension=1)
        },
    )


def per_token(classes: tuple[str, ...] | int, ignore: int = IGNORED) -> Objective:
    """One class or token for each step of a sequence: logits (batch, step, class), targets int64 (batch, step).

    For next-token prediction the target of a step is the token after it; shift the data, not the outputs. Loss: mean
    cross-entropy over steps. Distillation: `divergence` at each step. Metrics: token_accuracy and perplexity.

    Args:
        classes: their names, or the size of a vocabulary.
        ignore: the target of steps that are neither learned nor measured, such as padding.
    """
    names: tuple[str, ...] = ()
    if isinstance(classes, int):
        if classes < CLASSES_MIN:
            raise TaskError(f"per_token: a vocabulary needs at least {CLASSES_MIN} tokens, not {classes}")
        count = classes
    else:
        names = _names(classes, "per_token")
        count = len(names)
    return _positions(
        "per_token",
        names,
        class_dimension=-1,
        ignore=ignore,
        count=count,
        main="token_accuracy",
        metrics=lambda: {
            "token_accuracy": Accuracy(class_dimension=-1, ignore=ignore),
            "perplexity": Perplexity(ignore=ignore),
        },
    )


def _positions(
    kind: str,
    names: tuple[str, ...],
    *,
    class_dimension: int,
    ignore: int,
    count: int,
    main: str,
    metrics: Callable[[], dict[str, Any]],
) -> Objective:
    """An objective with one class at each position of an example."""

    def learned(outputs: Any, targets: Tensor) -> tuple[Tensor, Tensor]:
        """Logits (position, class) and a mask (position,) of the positions that count."""
        logits = logits_in(outputs).movedim(class_dimension, -1)
        if logits.shape[:-1] != targets.shape:
            where = "(batch, class, …)" if class_dimension == 1 else "(batch, step, class)"
            raise TaskError(
                f"{kind}: outputs of shape {tuple(logits_in(outputs).shape)} for targets of shape "
                f"{tuple(targets.shape)}; outputs must be logits {where}, with one target at each position"
            )
        return logits.reshape(-1, logits.shape[-1]), targets.reshape(-1) != ignore

    def with_label_loss(label_loss: LabelLoss) -> Loss:
        def loss(outputs: Any, batch: Batch) -> Tensor:
            targets = targets_of(batch).long()
            logits, counts = learned(outputs, targets)
            if not counts.any():
                return logits.sum() * 0.0  # nothing to learn here, and a mean over nothing would be NaN
            return label_loss(logits[counts], targets.reshape(-1)[counts])

        return loss

    def distillation(student: Any, teacher: Any, batch: Batch, temperature: float) -> Tensor:
        logits, counts = learned(student, targets_of(batch))
        taught, _ = learned(teacher, targets_of(batch))
        if not counts.any():
            return logits.sum() * 0.0
        return divergence(logits[counts], taught[counts], temperature=temperature)

    return Objective(
        kind=kind,
        loss=with_label_loss(cross_entropy),
        metrics=metrics,
        main=main,
        higher_is_better=True,
        distillation=distillation,
        labels=names,
        teaching=logits_in,
        with_label_loss=with_label_loss,
        check_targets=lambda targets: check_range(targets, 0, count - 1, ignore=ignore),
    )


def _towards(student: Any, teacher: Any, _batch: Batch, _temperature: float) -> Tensor:
    """Mean squared error between both outputs; numbers have no temperature."""
    return functional.mse_loss(*_alike(logits_in(student), logits_in(teacher)))


def _alike(outputs: Any, targets: Tensor) -> tuple[Tensor, Tensor]:
    """Outputs and targets in one shape, as float32: (batch, 1) and (batch,) would be broadcast to (batch, batch).

    Raises:
        TaskError: they have different numbers of values.
    """
    if not isinstance(outputs, Tensor):
        raise TaskError(f"the outputs must be, or hold as `logits`, a tensor, not {type(outputs).__name__}")
    if len(outputs) != len(targets) or outputs.numel() != targets.numel():
        raise TaskError(
            f"outputs have shape {tuple(outputs.shape)} and targets {tuple(targets.shape)}; they must have one shape"
        )
    return outputs.reshape(targets.shape).float(), targets.detach().to(torch.float32)


def _names(names: tuple[str, ...], what: str, *, least: int = CLASSES_MIN) -> tuple[str, ...]:
    if not isinstance(names, (tuple, list)) or len(names) < least:
        raise TaskError(f'{what}: give the names of at least {least} of them, such as ("a", "b"), not {names!r}')
    return tuple(names)


def _positive(positive: tuple[str, ...], names: tuple[str, ...]) -> tuple[str, ...]:
    given: object = positive
    if isinstance(given, str) or not set(positive) <= set(names) or set(positive) == set(names):
        raise TaskError(
            f"classification: positive={positive!r} must be some of the classes {', '.join(names)}, but not all"
        )
    return tuple(positive)
