"""The bootstrap by person: by persons instead of rows, in pairs, and the same figures as the benchmarks had before."""

import numpy as np
import pytest

from benchmarks.ecg import with_intervals
from benchmarks.mammography.scores import class_scores, ranking_score
from device_client.scores import intervals
from device_client.scores.intervals import drawn_counts, drawn_scores, interval, person_draws
from device_client.scores.ranking import Floats, auc, auc_of, tally


def auc_draws(scores: Floats, positive: np.ndarray, persons: np.ndarray) -> Floats:
    return drawn_scores(lambda weights: auc_of(tally(scores, positive, weights)), persons)


def test_an_interval_by_person_is_wider_than_by_row_where_rows_repeat_a_person() -> None:
    generator = np.random.default_rng(0)
    positive = generator.random(30) < 0.5
    scores = positive + generator.standard_normal(30)
    rows = np.repeat(np.arange(30), 20)
    by_person = interval(auc_draws(scores[rows], positive[rows], rows))
    by_row = interval(auc_draws(scores[rows], positive[rows], np.arange(600)))
    assert by_person[0] < auc(scores, positive) < by_person[1]
    assert by_person[1] - by_person[0] > 3 * (by_row[1] - by_row[0])
    undefined = auc_draws(np.array([1.0, 2.0]), np.array([True, True]), np.array(["a", "b"]))
    assert np.isnan(interval(undefined)).all()


def test_a_draw_has_as_many_persons_with_all_their_examples(monkeypatch: pytest.MonkeyPatch) -> None:
    assert (person_draws(7).sum(axis=1) == 7).all()
    persons = np.array(["b", "a", "b", "c"])
    monkeypatch.setattr(intervals, "_WEIGHTS_MAX", 12)  # three draws at a time
    seen = []
    drawn_scores(lambda weights: np.asarray(seen.append(weights) or weights.sum(axis=1)), persons, draws=8)
    assert [len(each) for each in seen] == [3, 3, 2]
    weights = np.concatenate(seen)
    assert (weights[:, 0] == weights[:, 2]).all()
    np.testing.assert_array_equal(weights[:, [1, 0, 3]], person_draws(3, draws=8))


def test_counts_and_weights_draw_the_same_persons() -> None:
    random = np.random.default_rng(2)
    right, persons = random.random(60) < 0.7, np.repeat(np.arange(12), 5)
    counts = np.stack([np.bincount(persons, right), np.bincount(persons)], axis=1)  # (person, right and all)
    from_counts = drawn_counts(counts)
    from_weights = drawn_scores(lambda weights: weights @ right / weights.sum(axis=1), persons)
    np.testing.assert_allclose(from_counts[:, 0] / from_counts[:, 1], from_weights)


def test_a_paired_difference_is_narrower_than_the_scores() -> None:
    random = np.random.default_rng(5)
    persons = np.repeat(np.arange(40), 3)
    positive = np.repeat(random.random(40) < 0.5, 3)
    one = positive + np.repeat(random.standard_normal(40), 3)
    other = one + 0.1 * random.standard_normal(120)
    draws = [auc_draws(scores, positive, persons) for scores in (one, other)]
    low, high = interval(draws[0] - draws[1])
    assert high - low < 0.3 * np.subtract(*interval(draws[0])[::-1])


def test_the_benchmarks_give_the_figures_that_they_gave_with_bootstraps_of_their_own() -> None:
    random = np.random.default_rng(3)
    counts = random.integers(0, 6, (2, 7, 5, 5))
    counts[:, :, 3] = 0
    beats = with_intervals(counts, ("N", "S", "V", "F", "Q"))
    assert beats["accuracy"] == pytest.approx(
        {"mean": 0.22403974415979752, "low": 0.19845349601289938, "high": 0.25193798449612403}, rel=1e-12
    )
    assert beats["f1_Q"] == pytest.approx(
        {"mean": 0.20963560772805087, "low": 0.11714347112852425, "high": 0.2839845664463941}, rel=1e-12
    )
    labels, persons = random.integers(0, 3, 60), np.repeat(np.arange(15).astype(str), 4)
    predicted = [np.where(random.random(60) < 0.6, labels, random.integers(0, 3, 60)) for _model in range(2)]
    found = class_scores(predicted, labels, persons)
    assert found["accuracy"] == pytest.approx({"mean": 0.675, "low": 0.6, "high": 0.7416666666666667}, rel=1e-12)
    assert found["balanced_accuracy"] == pytest.approx(
        {"mean": 0.6862547892720307, "low": 0.6061986920649202, "high": 0.7724011691997374}, rel=1e-12
    )
    # Of the area under the ROC curve the draws were others, so its interval is the same but for their chance.
    models = [labels + random.standard_normal(60) for _model in range(3)]
    ranked = ranking_score(models, labels > 0, persons)
    assert ranked["mean"] == pytest.approx(0.8290719696969697, rel=1e-12)
    assert ranked == pytest.approx({"mean": 0.829, "low": 0.771, "high": 0.883}, abs=0.01)
