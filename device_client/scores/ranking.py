"""How well scores rank positive examples above negative ones: ROC and precision-recall curves and what follows.

Everything is computed from a `Tally`, the number of positive and negative examples at each distinct score, so that
equal scores are treated as one threshold. Numbers of examples may be weights, with leading dimensions such as the
draws of a bootstrap.
"""

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
_SLACK = 1e-9
"""Share of the negative examples that rounding may hide: (1 - 0.9) * 10 is a little less than 1."""


class Tally(NamedTuple):
    """Positive and negative examples at each distinct score, in ascending order of the scores; both (…, score)."""

    positives: Floats
    negatives: Floats


def tally(scores: npt.ArrayLike, positive: npt.ArrayLike, weights: Floats | None = None) -> Tally:
    """Counts examples by score.

    Args:
        scores: (example,); any monotonic function of the probability gives the same results.
        positive: (example,), bool.
        weights: (…, example), how often each example counts; None: once.
    """
    scores, positive = np.asarray(scores, dtype=np.float64), np.asarray(positive, dtype=np.bool_)
    order = np.argsort(scores, kind="stable")
    ordered, is_positive = scores[order], positive[order]
    weights = np.ones(len(scores)) if weights is None else weights[..., order]
    if not len(scores):
        return Tally(weights, weights)
    starts = np.flatnonzero(np.concatenate([[True], ordered[1:] != ordered[:-1]]))
    return Tally(
        np.add.reduceat(weights * is_positive, starts, axis=-1),
        np.add.reduceat(weights * ~is_positive, starts, axis=-1),
    )


def auc_of(counts: Tally) -> Floats:
    """The area under the ROC curve (…,): the probability that a positive example has a higher score than a negative
    one, where a tie counts half (Hanley and McNeil 1982). 0 to 1; NaN without positive or without negative examples.
    """
    positives, negatives = counts
    beaten = np.cumsum(negatives, axis=-1) - negatives / 2
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.asarray((positives * beaten).sum(-1) / (positives.sum(-1) * negatives.sum(-1)), dtype=np.float64)


def average_precision_of(counts: Tally) -> Floats:
    """Average precision (…,), the area under the precision-recall curve in steps: the sum over thresholds n of
    (R_n - R_(n-1)) P_n with recall R and precision P. 0 to 1; NaN without positive examples.

    Steps instead of straight lines, because straight lines between points of this curve are too optimistic (Davis and
    Goadrich 2006).
    """
    positives, negatives = (each[..., ::-1] for each in counts)
    found, false = np.cumsum(positives, axis=-1), np.cumsum(negatives, axis=-1)
    with np.errstate(invalid="ignore", divide="ignore"):
        precision = np.where(positives > 0, found / (found + false), 0.0)
        return np.asarray((positives * precision).sum(-1) / positives.sum(-1), dtype=np.float64)


def sensitivity_of(counts: Tally, specificity: float) -> Floats:
    """The highest sensitivity (…,) of all thresholds whose specificity is at least `specificity`.

    The threshold is chosen on the same examples, so with few negative ones the value is optimistic. 0 to 1; NaN
    without positive or without negative examples.

    Raises:
        ValueError: the specificity is not from 0 to 1.
    """
    if not 0 <= specificity <= 1:
        raise ValueError(f"a specificity is from 0 to 1, not {specificity}")
    found, false = (np.cumsum(each[..., ::-1], axis=-1) for each in counts)
    positives, negatives = counts.positives.sum(-1), counts.negatives.sum(-1)
    most = (1 - specificity + _SLACK) * negatives
    allowed = np.where(false <= most[..., None], found, 0.0)
    with np.errstate(invalid="ignore", divide="ignore"):
        share = allowed.max(axis=-1, initial=0.0) / positives
    return np.asarray(np.where(negatives > 0, share, np.nan), dtype=np.float64)


def threshold_at(scores: npt.ArrayLike, positive: npt.ArrayLike, specificity: float) -> float:
    """The threshold of `sensitivity_of`: an example is called positive if its score is at least this. Of all thresholds
    with that sensitivity it is the highest. Infinite if no score would do; NaN without either class.

    Args:
        scores: (example,).
        positive: (example,), bool.
        specificity: 0 to 1.
    """
    values, is_positive = np.asarray(scores, dtype=np.float64), np.asarray(positive, dtype=np.bool_)
    if is_positive.all() or not is_positive.any():
        return float("nan")
    distinct = np.unique(values[is_positive])
    false = np.array([int((values[~is_positive] >= each).sum()) for each in distinct])
    allowed = distinct[false <= (1 - specificity + _SLACK) * int((~is_positive).sum())]
    return float(allowed.min()) if len(allowed) else float("inf")


def roc_points(counts: Tally) -> tuple[Floats, Floats]:
    """The ROC curve: false positive rate and true positive rate, both (threshold,), from (0, 0) to (1, 1).

    NaN without positive or without negative examples. Fawcett 2006, "An introduction to ROC analysis".
    """
    found, false = (np.concatenate([[0.0], np.cumsum(each[::-1])]) for each in counts)
    with np.errstate(invalid="ignore", divide="ignore"):
        return false / false[-1], found / found[-1]


def precision_recall_points(counts: Tally) -> tuple[Floats, Floats]:
    """The precision-recall curve: recall and precision, both (threshold,), in ascending order of recall; the precision
    is that of all examples with at least the threshold's score. NaN without positive examples.
    """
    found, false = (np.cumsum(each[::-1]) for each in counts)
    with np.errstate(invalid="ignore", divide="ignore"):
        return found / (found[-1] if len(found) else 1.0), found / (found + false)


def auc(scores: npt.ArrayLike, positive: npt.ArrayLike) -> float:
    """`auc_of` scores (example,) and a mask `positive` (example,)."""
    return float(auc_of(tally(scores, positive)))
