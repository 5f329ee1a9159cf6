"""Scores with 95 % intervals by patient: patients are drawn with replacement, all their crops together."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial

import numpy as np
import numpy.typing as npt

from device_client.scores.intervals import drawn_counts, drawn_scores, with_interval
from device_client.scores.ranking import Tally, auc_of, average_precision_of, sensitivity_of, tally

SPECIFICITY = 0.9
"""At which the sensitivity is given."""
Score = dict[str, float]
Floats = npt.NDArray[np.float64]
Labels = npt.NDArray[np.bool_]
Persons = npt.NDArray[np.str_]
RANKINGS: Mapping[str, Callable[[Tally], Floats]] = {
    "auc": auc_of,
    "average_precision": average_precision_of,
    "sensitivity_at_specificity_90": partial(sensitivity_of, specificity=SPECIFICITY),
}


def ranking_score(models: Sequence[Floats], positive: Labels, persons: Persons, *, ranking: str = "auc") -> Score:
    """The mean of one of `RANKINGS` over models, each with its scores (example,)."""
    return with_interval(_mean(models, positive, ranking), _mean_draws(models, positive, persons, ranking))


def ranking_difference(
    models: Sequence[Floats], others: Sequence[Floats], positive: Labels, persons: Persons, *, ranking: str = "auc"
) -> Score:
    """The mean of some models minus that of others, in pairs: on the same patients in each draw."""
    value = _mean(models, positive, ranking) - _mean(others, positive, ranking)
    ours, theirs = (_mean_draws(each, positive, persons, ranking) for each in (models, others))
    return with_interval(value, ours - theirs)


def class_scores(
    predicted: Sequence[npt.NDArray[np.int64]], labels: npt.NDArray[np.int64], persons: Persons
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
    ways: dict[str, Callable[[Floats, Floats], Floats]] = {
        "accuracy": lambda hits, all_: np.asarray(hits.sum(-1) / all_.sum(-1)),
        "balanced_accuracy": lambda hits, all_: np.asarray((hits / all_).mean(-1)),
    }
    mean = right.mean(axis=0)
    drawn_right, drawn_total = (np.asarray(drawn_counts(each), dtype=np.float64) for each in (mean, total))
    with np.errstate(invalid="ignore", divide="ignore"):
        return {
            name: with_interval(float(way(mean.sum(axis=0), total.sum(axis=0))), way(drawn_right, drawn_total))
            for name, way in ways.items()
        }


def _mean(models: Sequence[Floats], positive: Labels, ranking: str) -> float:
    return float(np.mean([RANKINGS[ranking](tally(scores, positive)) for scores in models]))


def _mean_draws(models: Sequence[Floats], positive: Labels, persons: Persons, ranking: str) -> Floats:
    def drawn(scores: Floats) -> Floats:
        return drawn_scores(lambda weights: RANKINGS[ranking](tally(scores, positive, weights)), persons)

    return np.asarray(np.mean([drawn(scores) for scores in models], axis=0), dtype=np.float64)
