"""The area under the ROC curve, and its interval by person."""

import numpy as np
import numpy.typing as npt

DRAWS = 1000
_LEVEL = 0.95


def auc(scores: npt.ArrayLike, positive: npt.ArrayLike) -> float:
    """The probability that a positive example has a higher score than a negative one; a tie counts half.

    Args:
        scores: (example,).
        positive: (example,), bool.

    Returns:
        0 to 1; NaN if there is no positive or no negative example.
    """
    scores, positive = np.asarray(scores, dtype=np.float64), np.asarray(positive, dtype=np.bool_)
    return float(_weighted(scores, positive, np.ones((1, len(scores))))[0])


def auc_interval(
    scores: npt.ArrayLike, positive: npt.ArrayLike, persons: npt.ArrayLike, *, draws: int = DRAWS, seed: int = 0
) -> tuple[float, float]:
    """The 95 % interval of `auc` over persons, who are drawn with replacement, all their examples together.

    Draws without a positive or without a negative example are left out.
    """
    values = auc_draws(scores, positive, persons, draws=draws, seed=seed)
    values = values[np.isfinite(values)]
    if not len(values):
        return float("nan"), float("nan")
    low, high = np.quantile(values, [(1 - _LEVEL) / 2, (1 + _LEVEL) / 2])
    return float(low), float(high)


def auc_draws(
    scores: npt.ArrayLike, positive: npt.ArrayLike, persons: npt.ArrayLike, *, draws: int = DRAWS, seed: int = 0
) -> npt.NDArray[np.float64]:
    """`auc` (draw,) of persons drawn with replacement, all their examples together; NaN without either class.

    With the same persons and seed the draws are the same, so those of two models can be compared in pairs.
    """
    scores, positive = np.asarray(scores, dtype=np.float64), np.asarray(positive, dtype=np.bool_)
    names, person = np.unique(np.asarray(persons), return_inverse=True)
    generator = np.random.default_rng(seed)
    found = []
    for start in range(0, draws, 100):
        chosen = generator.integers(0, len(names), (min(100, draws - start), len(names)))
        times = np.stack([np.bincount(draw, minlength=len(names)) for draw in chosen]).astype(np.float64)
        found.append(_weighted(scores, positive, times[:, person]))
    return np.concatenate(found)


def _weighted(
    scores: npt.NDArray[np.float64], positive: npt.NDArray[np.bool_], weights: npt.NDArray[np.float64]
) -> npt.NDArray[np.float64]:
    """The AUC (draw,) for each row of weights (draw, example)."""
    order = np.argsort(scores, kind="stable")
    ordered = scores[order]
    starts = np.flatnonzero(np.concatenate([[True], ordered[1:] != ordered[:-1]]))
    weights = weights[:, order]
    is_positive = positive[order]
    above = np.add.reduceat(weights * is_positive, starts, axis=1)
    below = np.add.reduceat(weights * ~is_positive, starts, axis=1)
    beaten = np.cumsum(below, axis=1) - below / 2
    pairs = above.sum(axis=1) * below.sum(axis=1)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.asarray((above * beaten).sum(axis=1) / pairs, dtype=np.float64)
