"""The metrics of a classification that are about ranking and calibration, batch by batch, in bounded memory."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from device_client.scores.calibration import Calibration, log_softmax
from device_client.scores.ranking import Tally, auc_of, average_precision_of, sensitivity_of
from device_client.scores.score_table import ScoreTable

AUC, AVERAGE_PRECISION, BALANCED_ACCURACY, ECE = "auc", "average_precision", "balanced_accuracy", "ece"
MAIN_SCORES = (AUC, AVERAGE_PRECISION, BALANCED_ACCURACY)
"""Those that may be a task's main metric: of all three, higher is better."""
_NAN = float("nan")


@dataclass(frozen=True, kw_only=True)
class Ranking:
    """What the scores of a classification are about."""

    positive: tuple[str, ...] = ()
    """Classes that together are the positive side, such as ("malignant",), against the rest. Empty: of two classes the
    second; of more, each against the rest, and the mean over the classes that occur."""
    specificity: float = 0.9
    """At which the sensitivity is given."""

    @property
    def sensitivity_name(self) -> str:
        """The metric's name: sensitivity_at_specificity_90."""
        return f"sensitivity_at_specificity_{100 * self.specificity:g}"

    def as_json(self) -> dict[str, Any]:
        """For the metadata of an exported model."""
        return {"positive": list(self.positive), "specificity": self.specificity}

    @classmethod
    def from_json(cls, given: Mapping[str, Any]) -> "Ranking":
        """Raises KeyError, TypeError or ValueError for anything else than `as_json` gives."""
        ranking = cls(positive=tuple(given["positive"]), specificity=float(given["specificity"]))
        if not 0 <= ranking.specificity <= 1:
            raise ValueError(f"specificity {ranking.specificity}")
        return ranking


class ClassScores:
    """auc, average_precision, balanced_accuracy, sensitivity_at_specificity_<percent> and ece of logits.

    balanced_accuracy is the mean recall of the classes that occur. ece is the expected calibration error of the
    positive side's probability where there is one, otherwise that of the likeliest class. NaN where a metric is not
    defined, such as an AUC of one class.
    """

    def __init__(self, labels: Sequence[str], ranking: Ranking) -> None:
        """Raises ValueError if a positive class is unknown, or no class would be negative."""
        self._ranking, self._classes = ranking, len(labels)
        chosen = [labels.index(name) for name in ranking.positive]
        if len(set(chosen)) == self._classes:
            raise ValueError("all classes are positive")
        binary = self._classes == 2 and not chosen  # noqa: PLR2004 — two classes
        self._sides = [chosen or [1]] if chosen or binary else [[index] for index in range(self._classes)]
        self.reset()

    def reset(self) -> None:
        """Starts anew."""
        self._tables = [ScoreTable() for _side in self._sides]
        self._right, self._total = np.zeros(self._classes), np.zeros(self._classes)
        self._calibration = Calibration()

    def update(self, logits: npt.NDArray[np.floating], labels: npt.NDArray[np.int64], /) -> None:
        """Takes one batch: logits (batch, class), labels (batch,)."""
        if not len(labels):
            return
        wide = logits.astype(np.float64)
        likeliest = wide.argmax(axis=1)
        self._right += np.bincount(labels[likeliest == labels], minlength=self._classes)
        self._total += np.bincount(labels, minlength=self._classes)
        probabilities = np.exp(log_softmax(wide))
        with np.errstate(invalid="ignore"):
            for side, table in zip(self._sides, self._tables, strict=True):
                table.update(log_odds(wide, side), np.isin(labels, side))
        if not np.isfinite(probabilities).all():
            return  # the tables know it
        if len(self._sides) == 1:
            positive = np.minimum(probabilities[:, self._sides[0]].sum(axis=1), 1.0)
            self._calibration.update(positive, np.isin(labels, self._sides[0]))
        else:
            self._calibration.update(probabilities.max(axis=1), likeliest == labels)

    def compute(self) -> dict[str, float]:
        """By name."""
        counts = [table.tally() for table in self._tables]
        occur = self._total > 0
        return {
            AUC: _mean([_of(auc_of, each) for each in counts]),
            AVERAGE_PRECISION: _mean([_of(average_precision_of, each) for each in counts]),
            BALANCED_ACCURACY: float((self._right[occur] / self._total[occur]).mean()) if occur.any() else _NAN,
            self._ranking.sensitivity_name: _mean(
                [_of(lambda one: sensitivity_of(one, self._ranking.specificity), each) for each in counts]
            ),
            ECE: self._calibration.error,
        }


def log_odds(logits: npt.NDArray[np.float64], side: Sequence[int]) -> npt.NDArray[np.float64]:
    """log(p / (1 - p)) (example,), where p is the probability of the classes `side`, of logits (example, class).

    Ranks examples as p does, but does not saturate at 1.
    """
    chosen = np.isin(np.arange(logits.shape[1]), side)
    inside, outside = (np.logaddexp.reduce(logits[:, which], axis=1) for which in (chosen, ~chosen))
    return np.asarray(inside - outside, dtype=np.float64)


def _of(score: Callable[[Tally], Any], counts: Tally | None) -> float:
    return _NAN if counts is None else float(score(counts))


def _mean(values: Sequence[float]) -> float:
    """Over those that are defined; NaN if none is."""
    known = [value for value in values if not math.isnan(value)]
    return sum(known) / len(known) if known else _NAN
