"""Rankings agree with their definitions, computed pair by pair and threshold by threshold."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from device_client.scores.ranking import (
    auc,
    auc_of,
    average_precision_of,
    precision_recall_points,
    roc_points,
    sensitivity_of,
    tally,
    threshold_at,
)

Rows = list[tuple[int, bool]]
ROWS = st.lists(st.tuples(st.integers(0, 6), st.booleans()), min_size=2, max_size=40)
"""Few distinct scores, so that there are ties."""


def columns(rows: Rows) -> tuple[list[int], list[bool]]:
    return [score for score, _positive in rows], [positive for _score, positive in rows]


def at_thresholds(rows: Rows) -> list[tuple[float, float, float]]:
    """Recall, precision and false positive rate from the highest threshold to the lowest."""
    positives = sum(positive for _score, positive in rows)
    found = []
    for threshold in sorted({score for score, _positive in rows}, reverse=True):
        chosen = [positive for score, positive in rows if score >= threshold]
        recall = sum(chosen) / positives if positives else math.nan
        others = len(rows) - positives
        found.append((recall, sum(chosen) / len(chosen), (len(chosen) - sum(chosen)) / others if others else math.nan))
    return found


@settings(max_examples=50)
@given(rows=ROWS)
def test_auc_is_the_share_of_pairs_in_the_right_order(rows: Rows) -> None:
    pairs = [
        1.0 if one > other else 0.5 if one == other else 0.0
        for one, positive in rows
        for other, negative in rows
        if positive and not negative
    ]
    found = auc(*columns(rows))
    assert math.isnan(found) if not pairs else math.isclose(found, np.mean(pairs), abs_tol=1e-12)


@settings(max_examples=50)
@given(rows=ROWS)
def test_average_precision_is_the_sum_of_its_steps(rows: Rows) -> None:
    expected, before = 0.0, 0.0
    for recall, precision, _false in at_thresholds(rows):
        expected += (recall - before) * precision
        before = recall
    found = float(average_precision_of(tally(*columns(rows))))
    assert found == pytest.approx(expected, nan_ok=True)


@settings(max_examples=50)
@given(rows=ROWS, specificity=st.sampled_from([0.0, 0.5, 0.8, 0.9, 1.0]))
def test_sensitivity_is_the_best_of_the_allowed_thresholds(rows: Rows, specificity: float) -> None:
    points = at_thresholds(rows)
    allowed = [recall for recall, _precision, false in points if 1 - false >= specificity - 1e-9]
    is_defined = not math.isnan(points[0][0] + points[0][2])
    expected = max([0.0, *allowed]) if is_defined else math.nan
    assert float(sensitivity_of(tally(*columns(rows)), specificity)) == pytest.approx(expected, nan_ok=True)


def test_one_false_positive_of_ten_is_a_specificity_of_90_percent() -> None:
    scores = [*range(10), 8.5, 9.5]
    positive = [False] * 10 + [True] * 2
    assert float(sensitivity_of(tally(scores, positive), 0.9)) == 1.0
    assert float(sensitivity_of(tally(scores, positive), 0.95)) == 0.5
    assert threshold_at(scores, positive, 0.9) == 8.5
    assert threshold_at(scores, positive, 0.95) == 9.5
    assert math.isinf(threshold_at([1, 2], [True, False], 1.0))
    with pytest.raises(ValueError, match="from 0 to 1, not 90"):
        sensitivity_of(tally(scores, positive), 90)


@settings(max_examples=50)
@given(rows=ROWS)
def test_curves_pass_through_all_thresholds(rows: Rows) -> None:
    points = at_thresholds(rows)
    false, true = roc_points(tally(*columns(rows)))
    recall, precision = precision_recall_points(tally(*columns(rows)))
    np.testing.assert_allclose(true[1:], [each[0] for each in points])
    np.testing.assert_allclose(false[1:], [each[2] for each in points])
    np.testing.assert_allclose(recall, [each[0] for each in points])
    np.testing.assert_allclose(precision, [each[1] for each in points])
    if not math.isnan(points[0][0] + points[0][2]):
        assert (false[0], true[0], false[-1], true[-1]) == (0, 0, 1, 1)
        assert float(np.trapezoid(true, false)) == pytest.approx(auc(*columns(rows)))


def test_weights_count_examples_several_times() -> None:
    random = np.random.default_rng(1)
    scores, positive, times = random.integers(0, 9, 40), random.random(40) < 0.4, random.integers(0, 4, (3, 40))
    weighted = tally(scores, positive, times.astype(np.float64))
    for draw, row in enumerate(times):
        repeated = tally(np.repeat(scores, row), np.repeat(positive, row))
        assert auc_of(weighted)[draw] == pytest.approx(float(auc_of(repeated)))
        assert average_precision_of(weighted)[draw] == pytest.approx(float(average_precision_of(repeated)))
        assert sensitivity_of(weighted, 0.8)[draw] == pytest.approx(float(sensitivity_of(repeated, 0.8)))


def test_no_examples_have_no_rank() -> None:
    nothing = tally([], [])
    assert all(math.isnan(float(each)) for each in (auc_of(nothing), sensitivity_of(nothing, 0.9)))
