"""Whether probabilities mean what they say, and the temperature that makes them so."""

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
BINS = 15
"""Of equal width from 0 to 1, as in Guo et al. 2017."""
TEMPERATURES = (0.05, 20.0)
"""Between these a temperature is sought. Beyond them the logits say nothing, or all decisions are right."""
_HALVINGS = 60


class Calibration:
    """Predicted probabilities and what happened, summed in `BINS` bins of equal width."""

    def __init__(self) -> None:
        self.count: Floats = np.zeros(BINS)
        """Predictions in each bin."""
        self._predicted, self._happened = np.zeros(BINS), np.zeros(BINS)

    def update(self, probabilities: Floats, happened: npt.NDArray[np.bool_]) -> None:
        """Takes some predictions: probabilities (example,) from 0 to 1, and whether the predicted thing was true."""
        which = bin_of(probabilities)
        self.count += np.bincount(which, minlength=BINS)
        self._predicted += np.bincount(which, probabilities, minlength=BINS)
        self._happened += np.bincount(which, happened, minlength=BINS)

    @property
    def error(self) -> float:
        """The expected calibration error: the mean over predictions of |share that was true - mean probability| in
        their bin; 0 to 1, NaN without predictions.

        Naeini, Cooper and Hauskrecht 2015; Guo et al. 2017, "On Calibration of Modern Neural Networks",
        arXiv:1706.04599, equation 3.
        """
        total = float(self.count.sum())
        return float(np.abs(self._happened - self._predicted).sum()) / total if total else float("nan")

    @property
    def points(self) -> tuple[Floats, Floats, Floats]:
        """Mean probability, share that was true, and predictions, all (bin,), of the bins that have some."""
        some = self.count > 0
        count = self.count[some]
        return self._predicted[some] / count, self._happened[some] / count, count


def bin_of(probabilities: Floats) -> npt.NDArray[np.int64]:
    """The bin of each probability, 0 to `BINS` - 1."""
    return np.minimum((probabilities * BINS).astype(np.int64), BINS - 1)


def log_softmax(logits: Floats) -> Floats:
    """Log-probabilities of logits (example, class), without overflow."""
    shifted = logits - logits.max(axis=1, keepdims=True)
    return np.asarray(shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True)), dtype=np.float64)


def negative_log_likelihood(logits: npt.ArrayLike, labels: npt.ArrayLike, *, temperature: float = 1.0) -> float:
    """Mean over examples, in nats, of logits (example, class) divided by the temperature; labels int (example,)."""
    values, chosen = np.asarray(logits, dtype=np.float64), np.asarray(labels, dtype=np.int64)
    return -float(log_softmax(values / temperature)[np.arange(len(chosen)), chosen].mean())


def fitted_temperature(logits: npt.ArrayLike, labels: npt.ArrayLike) -> float:
    """The temperature T > 0 at which softmax(logits / T) has the least negative log-likelihood.

    One number for all classes: it changes probabilities, but no decision and no ranking of two classes. Guo et al.
    2017, arXiv:1706.04599, section 4.2. The loss is convex in 1/T, so bisection on its derivative finds the minimum:
    d/d(1/T) = mean over examples of (expected logit under softmax(logits / T) - logit of the label).

    Args:
        logits: (example, class), of persons who are neither trained nor tested on.
        labels: int (example,).

    Returns:
        A number within `TEMPERATURES`; one of its ends where the minimum lies beyond, such as when all decisions are
        right.

    Raises:
        ValueError: there are no examples, or a logit is not finite.
    """
    values, chosen = np.asarray(logits, dtype=np.float64), np.asarray(labels, dtype=np.int64)
    if not len(chosen) or not np.isfinite(values).all():
        raise ValueError("a temperature needs at least one example, and finite logits")
    of_label = values[np.arange(len(chosen)), chosen]
    low, high = (float(np.log(end)) for end in TEMPERATURES)
    for _halving in range(_HALVINGS):
        middle = (low + high) / 2
        expected = (np.exp(log_softmax(values / np.exp(middle))) * values).sum(axis=1)
        # Positive: the label's logit is above what is expected even at a smaller T, so the minimum is below.
        if float((of_label - expected).mean()) > 0:
            high = middle
        else:
            low = middle
    return float(np.exp((low + high) / 2))
