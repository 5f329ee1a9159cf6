"""Pieces, rates, resampling, filling and labels of windows."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from device_client.data.windowing import (
    NO_LABEL,
    Cut,
    Piece,
    filled,
    pieces_between,
    rate_of,
    resampled,
    windows_in,
)


def piece(labels: list[int] | None, rows: int = 0) -> Piece:
    count = rows if labels is None else len(labels)
    values = np.arange(count, dtype=np.float32)[:, None]
    return Piece(values=values, labels=None if labels is None else np.array(labels, dtype=np.int32))


@given(breaks=st.lists(st.booleans(), min_size=0, max_size=30))
def test_pieces_cover_every_row_once_and_contain_no_break(breaks: list[bool]) -> None:
    pieces = pieces_between(np.array(breaks, dtype=bool))
    rows = [row for begin, end in pieces for row in range(begin, end)]
    assert rows == list(range(len(breaks) + 1))
    assert not any(breaks[row] for begin, end in pieces for row in range(begin, end - 1))


@given(
    rows=st.integers(0, 60),
    samples=st.integers(1, 20),
    step=st.integers(1, 20),
)
def test_windows_lie_inside_their_piece(rows: int, samples: int, step: int) -> None:
    starts, labels = windows_in(piece(None, rows), Cut(samples=samples, step=step))
    assert labels is None
    assert starts.tolist() == [at for at in range(0, rows, step) if at + samples <= rows]


def test_a_majority_is_more_than_half() -> None:
    cut = Cut(samples=4, step=4)
    _starts, labels = windows_in(piece([0, 0, 0, 1] + [1, 1, 0, 0] + [NO_LABEL, 2, 2, 2] + [NO_LABEL] * 4), cut)
    assert labels is not None
    assert labels.tolist() == [0, NO_LABEL, 2, NO_LABEL]


def test_a_constant_label_is_that_of_every_sample() -> None:
    cut = Cut(samples=3, step=1, rule="constant")
    _starts, labels = windows_in(piece([1, 1, 1, 0]), cut)
    assert labels is not None
    assert labels.tolist() == [1, NO_LABEL]


def test_the_rate_is_the_mean_of_rounded_stamps_without_gaps() -> None:
    stamps = np.round(np.arange(600) / 60, 3)  # 60 Hz in whole milliseconds: steps of 16 and 17 ms
    late = np.concatenate([stamps, stamps + 100.0])
    assert rate_of(late) == pytest.approx(60.0, rel=1e-3)
    assert rate_of(np.array([1.0])) is None


def test_a_slow_signal_survives_another_rate() -> None:
    time = np.sort(np.random.default_rng(0).uniform(0, 10, 1000))
    values = np.stack([np.sin(time), np.cos(time)], axis=1).astype(np.float32)
    slower, _nearest = resampled(time, values, 20.0)
    moments = time[0] + np.arange(len(slower)) / 20.0
    assert len(slower) == int((time[-1] - time[0]) * 20.0) + 1
    np.testing.assert_allclose(slower[1:-1, 0], np.sin(moments[1:-1]), atol=5e-3)
    faster, nearest = resampled(time, values, 250.0)
    assert len(faster) == len(nearest) == int((time[-1] - time[0]) * 250.0) + 1
    np.testing.assert_allclose(faster[:, 1], np.cos(time[0] + np.arange(len(faster)) / 250.0), atol=5e-3)


def test_what_is_faster_than_the_new_rate_is_averaged_out() -> None:
    time = np.arange(1000) / 100
    fast = np.sin(2 * np.pi * 9.9 * time).astype(np.float32)[:, None]
    slower, _nearest = resampled(time, fast, 10.0)  # without the mean it would appear as 0.1 Hz, amplitude 1
    assert float(np.abs(slower[1:-1]).max()) < 0.05


def test_a_nearest_sample_keeps_its_label() -> None:
    _values, nearest = resampled(np.array([0.0, 1.0, 2.0]), np.zeros((3, 1), dtype=np.float32), 2.0)
    assert nearest.tolist() == [0, 0, 1, 1, 2]


def test_short_holes_are_filled_and_long_ones_are_not() -> None:
    nan = float("nan")
    values = np.array([[nan], [1.0], [nan], [3.0], [nan], [nan], [nan], [7.0], [nan]], dtype=np.float32)
    got = filled(np.arange(9.0), values, 2.0)[:, 0]
    assert got[2] == 2.0
    assert np.isnan(got[[0, 4, 5, 6, 8]]).all()
    assert np.isnan(values[2]).all(), "the caller's array stays as it is"
