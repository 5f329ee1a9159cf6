"""Cuts recordings into windows: pieces without a gap, resampling to a rate, the label of a window. Pure arithmetic."""

from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

LabelRule = Literal["majority", "constant"]
Floats = npt.NDArray[np.float64]
Samples = npt.NDArray[np.float32]
Codes = npt.NDArray[np.int32]
NO_LABEL = -1
"""The code of a sample that belongs to no class."""


@dataclass(frozen=True, kw_only=True)
class Cut:
    """How windows are cut out of a piece, in samples."""

    samples: int
    step: int
    rule: LabelRule = "majority"


@dataclass(frozen=True, kw_only=True)
class Piece:
    """Samples in a row, without a gap."""

    values: Samples
    """(sample, channel)."""
    labels: Codes | None
    """(sample,), `NO_LABEL` where a sample has none."""


def pieces_between(breaks: npt.NDArray[np.bool_]) -> list[tuple[int, int]]:
    """Start and end of each stretch; `breaks` (row - 1,) says where one row and the next do not belong together."""
    edges = np.flatnonzero(breaks) + 1
    return list(zip([0, *edges.tolist()], [*edges.tolist(), len(breaks) + 1], strict=True))


def rate_of(time: Floats) -> float | None:
    """Samples per second between gaps; None if there are none in a row.

    The mean over the steps, because stamps that are rounded to milliseconds make the median wrong. A gap is
    more than 1.5 times the median.
    """
    steps = np.diff(time)
    if len(steps) == 0:
        return None
    within = steps[steps <= 1.5 * float(np.median(steps))]
    return float(1.0 / within.mean())


def filled(time: Floats, values: Samples, seconds_max: float) -> Samples:
    """Values with missing numbers (NaN) interpolated where the valid ones around them are at most so far apart."""
    result = values.copy()
    for channel in range(values.shape[1]):
        valid = ~np.isnan(values[:, channel])
        if valid.all() or not valid.any():
            continue
        index = np.arange(len(time))
        known = np.flatnonzero(valid)
        after = np.searchsorted(known, index)
        inside = ~valid & (after > 0) & (after < len(known))
        before, later = known[np.maximum(after - 1, 0)], known[np.minimum(after, len(known) - 1)]
        near = inside & (time[later] - time[before] <= seconds_max + 1e-6)
        result[near, channel] = np.interp(time[near], time[known], values[known, channel])
    return result


def resampled(time: Floats, values: Samples, rate_hz: float) -> tuple[Samples, npt.NDArray[np.intp]]:
    """A piece at another rate, and the index of the nearest original sample of each new one.

    To a higher rate, samples are interpolated linearly. To a lower rate, each new sample is the mean of the
    interpolated signal over its interval, so that faster motion does not appear as a slow one (aliasing).
    """
    duration = float(time[-1] - time[0])
    moments = time[0] + np.arange(int(duration * rate_hz + 1e-6) + 1) / rate_hz
    if (len(time) - 1) > 1.01 * duration * rate_hz:  # to a lower rate
        half = 0.5 / rate_hz
        low, high = np.maximum(moments - half, time[0]), np.minimum(moments + half, time[-1])
        columns = [(_integral(time, column, high) - _integral(time, column, low)) / (high - low) for column in values.T]
    else:
        columns = [np.interp(moments, time, column) for column in values.T]
    after = np.clip(np.searchsorted(time, moments), 1, len(time) - 1)
    nearest = np.where(moments - time[after - 1] <= time[after] - moments, after - 1, after)
    return np.stack(columns, axis=1).astype(np.float32), nearest


def _integral(time: Floats, values: Samples, moments: Floats) -> Floats:
    """The integral of the linearly interpolated signal from its start to each moment."""
    steps = np.diff(time)
    sums = np.concatenate([[0.0], np.cumsum(steps * (values[1:].astype(np.float64) + values[:-1]) / 2)])
    at = np.clip(np.searchsorted(time, moments, side="right") - 1, 0, len(time) - 2)
    into = moments - time[at]
    slope = (values[at + 1].astype(np.float64) - values[at]) / steps[at]
    result: Floats = sums[at] + values[at] * into + slope * into**2 / 2
    return result


def windows_in(piece: Piece, cut: Cut) -> tuple[npt.NDArray[np.int64], Codes | None]:
    """First sample and label of each window of a piece; `NO_LABEL` where the rule gives none."""
    starts = np.arange(0, len(piece.values) - cut.samples + 1, cut.step, dtype=np.int64)
    if piece.labels is None or len(starts) == 0:
        return starts, None if piece.labels is None else np.empty(0, dtype=np.int32)
    present = np.unique(piece.labels)
    counts = np.stack([_count_within(piece.labels == code, starts, cut.samples) for code in present], axis=1)
    most = counts.argmax(axis=1)
    needed = cut.samples if cut.rule == "constant" else cut.samples // 2 + 1
    enough = counts[np.arange(len(starts)), most] >= needed
    return starts, np.where(enough, present[most], NO_LABEL).astype(np.int32)


def _count_within(here: npt.NDArray[np.bool_], starts: npt.NDArray[np.int64], samples: int) -> npt.NDArray[np.int64]:
    """How many of the samples of each window are marked."""
    sums = np.concatenate([[0], np.cumsum(here, dtype=np.int64)])
    counted: npt.NDArray[np.int64] = sums[starts + samples] - sums[starts]
    return counted
