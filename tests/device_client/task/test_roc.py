"""The area under the ROC curve agrees with its definition, and its interval is by person."""

import math

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from device_client.task.roc import auc, auc_interval


@settings(max_examples=50)
@given(rows=st.lists(st.tuples(st.integers(0, 6), st.booleans()), min_size=2, max_size=40))
def test_it_is_the_share_of_pairs_in_the_right_order(rows: list[tuple[int, bool]]) -> None:
    pairs = [
        1.0 if one > other else 0.5 if one == other else 0.0
        for one, positive in rows
        for other, negative in rows
        if positive and not negative
    ]
    found = auc([score for score, _positive in rows], [positive for _score, positive in rows])
    assert math.isnan(found) if not pairs else math.isclose(found, np.mean(pairs), abs_tol=1e-12)


def test_an_interval_by_person_is_wider_than_by_row_where_rows_repeat_a_person() -> None:
    generator = np.random.default_rng(0)
    positive = generator.random(30) < 0.5
    scores = positive + generator.standard_normal(30)
    rows = np.repeat(np.arange(30), 20)
    by_person = auc_interval(scores[rows], positive[rows], rows)
    by_row = auc_interval(scores[rows], positive[rows], np.arange(600))
    assert by_person[0] < auc(scores, positive) < by_person[1]
    assert by_person[1] - by_person[0] > 3 * (by_row[1] - by_row[0])
    assert np.isnan(auc_interval([1, 2], [True, True], ["a", "b"])).all()
