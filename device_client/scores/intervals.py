"""Bootstrap intervals by person: the one way in which this project gives the uncertainty of a score.

Examples of one person are alike, so persons are drawn with replacement, all their examples together (the cluster
bootstrap; Davison and Hinkley 1997, section 3.8; percentile interval: Efron and Tibshirani 1993, chapter 13). The same
persons and seed give the same draws, so scores of two models on the same persons can be subtracted draw by draw: a
paired difference.

    from counts    a score of sums over persons, such as accuracy from each person's right and all decisions
    from weights   a score of single examples, such as an AUC, given how often each example was drawn
"""

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
DRAWS = 2_000
"""Of all persons; chosen: the ends of a 95 % interval then move by less than a hundredth."""
SHARES = (0.025, 0.975)
"""Quantiles that are the ends of an interval: 95 %."""
_WEIGHTS_MAX = 4_000_000
"""Weights of examples that are kept in memory at once, 32 MB."""


def person_draws(persons: int, *, draws: int = DRAWS, seed: int = 0) -> npt.NDArray[np.int64]:
    """How often each person is drawn, (draw, person): `persons` persons with replacement in each draw."""
    return np.random.default_rng(seed).multinomial(persons, np.full(persons, 1 / persons), size=draws)


def interval(draws: Floats) -> tuple[float, float]:
    """The 95 % interval of a score from its values (draw,). Draws in which the score is not defined (NaN), such as an
    AUC without a positive person, are left out; NaN if none is left.
    """
    known = draws[np.isfinite(draws)]
    if not len(known):
        return float("nan"), float("nan")
    low, high = np.quantile(known, SHARES)
    return float(low), float(high)


def with_interval(value: float, draws: Floats) -> dict[str, float]:
    """`mean`, `low` and `high`: a score and its 95 % interval. `mean` as scores are usually means over models."""
    low, high = interval(draws)
    return {"mean": value, "low": low, "high": high}


def drawn_counts(counts: npt.NDArray[np.number], *, draws: int = DRAWS, seed: int = 0) -> npt.NDArray[np.number]:
    """Sums over the drawn persons, (draw, …), of counts (person, …)."""
    return np.tensordot(person_draws(len(counts), draws=draws, seed=seed), counts, axes=1)


def drawn_scores(
    score: Callable[[Floats], Floats], persons: npt.ArrayLike, *, draws: int = DRAWS, seed: int = 0
) -> Floats:
    """A score (draw,) of examples, some of them several times.

    Args:
        score: maps weights (draw, example), how often each example counts, to scores (draw,). It is called with some
            of the draws at a time, so that memory is bounded.
        persons: (example,), the person of each.
        draws: their number.
        seed: of the random numbers.
    """
    names, person = np.unique(np.asarray(persons), return_inverse=True)
    times = person_draws(len(names), draws=draws, seed=seed)
    step = max(1, _WEIGHTS_MAX // max(1, len(person)))
    parts = [score(times[start : start + step, person].astype(np.float64)) for start in range(0, draws, step)]
    return np.concatenate(parts)
