"""Scores with 95 % intervals by patient: patients are drawn with replacement, all their crops together."""

from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt

from device_client.task.roc import auc, auc_draws

DRAWS = 2_000
Score = dict[str, float]
Floats = npt.NDArray[np.float64]


def auc_score(models: Sequence[Floats], positive: npt.NDArray[np.bool_], persons: npt.NDArray[np.str_]) -> Score:
    """The mean AUC over models, each with its scores (example,)."""
    value = float(np.mean([auc(scores, positive) for scores in models]))
    return _with_interval(value, _mean_draws(models, positive, persons))


def auc_difference(
    models: Sequence[Floats], others: Sequence[Floats], positive: npt.NDArray[np.bool_], persons: npt.NDArray[np.str_]
) -> Score:
    """The mean AUC of some models minus that of others, in pairs: on the same patients in each draw."""
    value = np.mean([auc(scores, positive) for scores in models]) - np.mean([auc(each, positive) for each in others])
    return _with_interval(float(value), _mean_draws(models, positive, persons) - _mean_draws(others, positive, persons))


def class_scores(
    predicted: Sequence[npt.NDArray[np.int64]],
    labels: npt.NDArray[np.int64],
    persons: npt.NDArray[np.str_],
) -> dict[str, Score]:
    """Accuracy and balanced accuracy (mean recall of the classes), the mean over models of predictions (example,)."""
    classes = int(labels.max()) + 1
    _names, person = np.unique(persons, return_inverse=True)
    people = int(person.max()) + 1
    right = np.zeros((len(predicted), people, classes))
    total = np.zeros((people, classes))
    np.add.at(total, (person, labels), 1)
    for model, each in enumerate(predicted):
        np.add.at(right[model], (person, labels), each == labels)
    draws = np.random.default_rng(0).multinomial(people, np.full(people, 1 / people), size=DRAWS)
    ways: dict[str, Callable[[Floats, Floats], Floats]] = {
        "accuracy": lambda hits, all_: np.asarray(hits.sum(-1) / all_.sum(-1)),
        "balanced_accuracy": lambda hits, all_: np.asarray((hits / all_).mean(-1)),
    }
    mean = right.mean(axis=0)
    with np.errstate(invalid="ignore", divide="ignore"):
        return {
            name: _with_interval(float(way(mean.sum(axis=0), total.sum(axis=0))), way(draws @ mean, draws @ total))
            for name, way in ways.items()
        }


def _mean_draws(models: Sequence[Floats], positive: npt.NDArray[np.bool_], persons: npt.NDArray[np.str_]) -> Floats:
    each = [auc_draws(scores, positive, persons, draws=DRAWS) for scores in models]
    return np.asarray(np.mean(each, axis=0), dtype=np.float64)


def _with_interval(value: float, draws: Floats) -> Score:
    low, high = np.quantile(draws[np.isfinite(draws)], [0.025, 0.975])
    return {"mean": value, "low": float(low), "high": float(high)}
