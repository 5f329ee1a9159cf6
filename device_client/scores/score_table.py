"""Positive and negative examples by score, in bounded memory."""

import numpy as np
import numpy.typing as npt

from device_client.scores.ranking import Tally

SCORES_MAX = 2**15
"""Distinct scores in a table, 0.7 MB. Chosen: held-out data is mostly smaller, and then everything is exact."""


class ScoreTable:
    """A `Tally` that takes batches.

    Scores are kept as float32, whose bits, read as a whole number, have the order of the scores. Up to `SCORES_MAX`
    distinct scores are exact; with more, the lowest bits are dropped, one by one, and scores that become equal are
    ties. What results does not depend on how the examples were divided into batches.
    """

    def __init__(self) -> None:
        self._keys: npt.NDArray[np.int64] = np.zeros(0, dtype=np.int64)
        self._counts: npt.NDArray[np.int64] = np.zeros((2, 0), dtype=np.int64)  # (positive or negative, key)
        self._dropped_bits = 0
        self._waiting: list[tuple[npt.NDArray[np.int64], npt.NDArray[np.bool_]]] = []
        self._waiting_count = 0
        self._is_defined = True

    def update(self, scores: npt.NDArray[np.floating], positive: npt.NDArray[np.bool_]) -> None:
        """Takes scores (example,) and which of them are of positive examples."""
        with np.errstate(over="ignore"):
            narrow = scores.astype(np.float32) + np.float32(0)  # + 0: -0.0 and 0.0 are one score
        self._is_defined &= not np.isnan(narrow).any()
        bits = narrow.view(np.int32)
        keys = np.where(bits >= 0, bits, bits ^ np.int32(0x7FFFFFFF)).astype(np.int64)
        self._waiting.append((keys >> self._dropped_bits, positive))
        self._waiting_count += len(keys)
        if self._waiting_count > SCORES_MAX:
            self._merge()

    def tally(self) -> Tally | None:
        """The counts so far; None: a score was NaN."""
        self._merge()
        return Tally(*self._counts.astype(np.float64)) if self._is_defined else None

    def _merge(self) -> None:
        keys = np.concatenate([self._keys, *(each for each, _positive in self._waiting)])
        positive = np.concatenate([np.zeros(0, dtype=np.bool_), *(positive for _keys, positive in self._waiting)])
        counts = np.concatenate([self._counts, np.stack([positive, ~positive]).astype(np.int64)], axis=1)
        self._waiting, self._waiting_count = [], 0
        self._keys, self._counts = _joined(keys, counts)
        while len(self._keys) > SCORES_MAX:
            self._dropped_bits += 1
            self._keys, self._counts = _joined(self._keys >> 1, self._counts)


def _joined(
    keys: npt.NDArray[np.int64], counts: npt.NDArray[np.int64]
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Distinct keys, ascending, and the sums of their counts (…, key)."""
    order = np.argsort(keys, kind="stable")
    keys, counts = keys[order], counts[:, order]
    starts = np.flatnonzero(np.concatenate([[True], keys[1:] != keys[:-1]])) if len(keys) else order
    return keys[starts], np.add.reduceat(counts, starts, axis=1) if len(keys) else counts
