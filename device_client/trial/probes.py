"""What a shortcut may be seen in: features of an image or of a row that say nothing about what is to be learned.

And the probe that reads them: a logistic regression, cross-validated by person.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from device_client.scores.ranking import auc

Array = npt.NDArray[np.float64]
CENTRE, RING = 0.2, (0.4, 0.6)
"""Radii of the centre filter in half sides of the image. Chosen on mini-MIAS crops, where a filter that was taken from
others has about the same AUC (difference of Gaussians, 0.1 and 0.3: 0.89)."""
AUC_MIN, LOW_MIN = 0.70, 0.60
"""A probe is called a shortcut from this AUC and this lower end of its interval on. Chosen: of 150 probes of random
labels by person on mini-MIAS crops, none reached an AUC of 0.60."""
_FOLDS = 5
_VALUES_MAX = 20
"""Values of an attribute, such as scanners, that are told apart; the rest is one value."""
_BINS = 8
_RIDGE, _STEPS = 1.0, 25


@dataclass(frozen=True, kw_only=True)
class Shortcut:
    """How well one probe predicts one class against all others."""

    probe: str
    target: str
    """The class that it predicts best, or what else the label is."""
    auc: float
    """Cross-validated by person."""
    low: float
    high: float
    """95 % interval over persons."""
    remedy: str

    @property
    def is_strong(self) -> bool:
        return self.auc >= AUC_MIN and self.low >= LOW_MIN

    @property
    def line(self) -> str:
        """The verdict."""
        return (
            f"{self.probe} alone: AUC {self.auc:.2f} ({self.low:.2f} to {self.high:.2f}) for {self.target}: "
            f"{self.remedy}"
        )


def image_features(images: npt.NDArray[Any]) -> dict[str, Array]:
    """The features (row, feature) of each probe.

    Args:
        images: (row, channel, height, width).
    """
    grey = images.astype(np.float64).mean(axis=1)
    return {
        "centre": centre_filter(grey)[:, None],
        "position": _position(grey),
        "border": _border(grey),
        "size": _size(grey),
        "brightness": np.stack([grey.mean((1, 2)), grey.std((1, 2)), grey.min((1, 2)), grey.max((1, 2))], axis=1),
    }


def centre_filter(grey: npt.NDArray[Any]) -> Array:
    """The mean of a disc in the middle less that of a ring around it (row,); nothing in it is trained.

    Args:
        grey: (row, height, width).
    """
    height, width = grey.shape[1:]
    down, right = np.mgrid[:height, :width]
    radius = np.hypot((down - (height - 1) / 2) / (height / 2), (right - (width - 1) / 2) / (width / 2))
    disc, ring = radius <= CENTRE, (radius > RING[0]) & (radius <= RING[1])
    return np.asarray(grey[:, disc].mean(axis=1) - grey[:, ring].mean(axis=1), dtype=np.float64)


def _position(grey: Array) -> Array:
    """Where the light is: its centre of mass, down and right from the middle, and the squared distance."""
    weights = grey - grey.min(axis=(1, 2), keepdims=True)
    total = weights.sum(axis=(1, 2)) + 1e-12
    height, width = (np.linspace(-1, 1, length) for length in grey.shape[1:])
    down = (weights.sum(axis=2) @ height) / total
    right = (weights.sum(axis=1) @ width) / total
    return np.stack([down, right, down**2 + right**2], axis=1)


def _border(grey: Array) -> Array:
    """Mean and spread of each side's outermost pixels, and how many of them are the darkest of the image."""
    width = max(1, min(grey.shape[1:]) // 32)
    sides = [grey[:, :width], grey[:, -width:], grey[:, :, :width], grey[:, :, -width:]]
    darkest = grey.min(axis=(1, 2))[:, None, None]
    dark = np.mean([(side == darkest).mean(axis=(1, 2)) for side in sides], axis=0)
    return np.stack([value for side in sides for value in (side.mean((1, 2)), side.std((1, 2)))] + [dark], axis=1)


def _size(grey: Array) -> Array:
    """Height and width of what is left without plain rows and columns at the edges: the size before padding."""
    found = []
    for axis in (2, 1):
        varied = np.ptp(grey, axis=axis) > 0
        length = varied.shape[1]
        first = np.where(varied.any(axis=1), varied.argmax(axis=1), length)
        last = np.where(varied.any(axis=1), varied[:, ::-1].argmax(axis=1), 0)
        found.append((length - first - last) / length)
    return np.stack(found, axis=1)


def padding(rows: npt.NDArray[Any]) -> Array:
    """How many values at the end of each row repeat its last one, and at its start its first one (row, 2).

    Args:
        rows: (row, …), such as windows (row, channel, sample) that were filled up to one length.
    """
    flat = rows.reshape(len(rows), -1, rows.shape[-1])
    found = []
    for ordered in (flat[..., ::-1], flat):
        same = (ordered == ordered[..., :1]).all(axis=1)
        found.append(np.where(same.all(axis=1), same.shape[1], (~same).argmax(axis=1)) / same.shape[1])
    return np.stack(found, axis=1).astype(np.float64)


def order_features(places: npt.NDArray[Any]) -> Array:
    """The place of each row in its data, 0 to 1, as a number and in bins."""
    bins = np.minimum((places * _BINS).astype(int), _BINS - 1)
    return np.concatenate([places[:, None], np.eye(_BINS)[bins]], axis=1).astype(np.float64)


def attribute_features(values: npt.NDArray[Any]) -> Array:
    """Numbers as their rank and its square; names, such as scanners, as one column each."""
    if values.dtype.kind in "iufb":
        _known, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
        rank = ((np.cumsum(counts) - (counts + 1) / 2) / max(1, len(values) - 1))[inverse] - 0.5
        return np.stack([rank, rank**2], axis=1).astype(np.float64)
    known, inverse, counts = np.unique(values.astype(np.str_), return_inverse=True, return_counts=True)
    frequent = np.argsort(-counts, kind="stable")[: min(_VALUES_MAX, len(known))]
    return np.asarray(inverse[:, None] == frequent[None], dtype=np.float64)


# The probe


def folds_by_person(positive: npt.NDArray[np.bool_], persons: npt.NDArray[Any]) -> npt.NDArray[np.int64]:
    """The fold of each row (row,): all rows of a person in one, positive persons spread over all."""
    names, person = np.unique(persons, return_inverse=True)
    share = np.bincount(person, weights=positive) / np.bincount(person)
    shuffled = np.random.default_rng(0).permutation(len(names))
    ordered = shuffled[np.argsort(share[shuffled], kind="stable")]
    fold = np.empty(len(names), dtype=np.int64)
    fold[ordered] = np.arange(len(names)) % _FOLDS
    return fold[person]


def cross_validated(features: Array, positive: npt.NDArray[np.bool_], persons: npt.NDArray[Any]) -> Array:
    """The score of each row (row,) by a probe that was fitted on other persons.

    A single feature is used as it is; only whether more of it speaks for the class or against it is learned.
    """
    fold = folds_by_person(positive, persons)
    scores = np.zeros(len(features))
    for number in range(_FOLDS):
        tested = fold == number
        if tested.any() and len(set(positive[~tested].tolist())) > 1:
            known, unseen = features[~tested], features[tested]
            if features.shape[1] == 1:
                scores[tested] = unseen[:, 0] * (1 if auc(known[:, 0], positive[~tested]) > 0.5 else -1)  # noqa: PLR2004
            else:
                scores[tested] = _fitted(known, positive[~tested], unseen)
    return scores


def _fitted(features: Array, positive: npt.NDArray[np.bool_], tested: Array) -> Array:
    """The log odds of the tested rows, by a logistic regression with a ridge in which both classes weigh alike."""
    mean, deviation = features.mean(axis=0), features.std(axis=0)
    deviation[deviation < 1e-12] = np.inf  # noqa: PLR2004 — a constant column says nothing
    with_one = np.column_stack([np.ones(len(features)), (features - mean) / deviation])
    target = positive.astype(np.float64)
    weights = np.where(positive, 0.5 / target.mean(), 0.5 / (1 - target.mean()))
    ridge = np.diag([0.0] + [_RIDGE] * features.shape[1])
    ridge[0, 0] = 1e-6
    beta = np.zeros(with_one.shape[1])
    for _step in range(_STEPS):
        odds = np.clip(with_one @ beta, -30, 30)
        share = 1 / (1 + np.exp(-odds))
        curvature = (with_one * (weights * share * (1 - share))[:, None]).T @ with_one + ridge
        step = np.linalg.solve(curvature, with_one.T @ (weights * (target - share)) - ridge @ beta)
        beta += step
        if np.abs(step).max() < 1e-8:  # noqa: PLR2004 — converged
            break
    found: Array = np.column_stack([np.ones(len(tested)), (tested - mean) / deviation]) @ beta
    return found


def constant_columns(rows: npt.NDArray[Any]) -> int:
    """How many numbers of an input (row, …) have one value in all rows."""
    return int((np.ptp(rows.reshape(len(rows), -1), axis=0) == 0).sum())
