"""Streaming scores are those of all examples at once, in bounded memory."""

import numpy as np
import pytest
import torch

from device_client.learning.evaluation import evaluate
from device_client.scores import score_table
from device_client.scores.class_scores import ClassScores, Ranking
from device_client.scores.ranking import auc, auc_of, average_precision_of, sensitivity_of, tally
from device_client.scores.score_table import ScoreTable
from device_client.task import Examples, TaskError, classification

RANDOM = np.random.default_rng(0)
LABELS = RANDOM.integers(0, 3, 300)
LOGITS = (np.eye(3)[LABELS] + RANDOM.standard_normal((300, 3))).astype(np.float32)
PROBABILITIES = np.exp(LOGITS.astype(np.float64)) / np.exp(LOGITS.astype(np.float64)).sum(axis=1, keepdims=True)


def scores_of(ranking: Ranking, names: tuple[str, ...] = ("n", "b", "m"), batch: int = 17) -> dict[str, float]:
    metric = ClassScores(names, ranking)
    for start in range(0, 300, batch):
        chosen = slice(start, start + batch)
        metric.update(LOGITS[chosen, : len(names)], np.minimum(LABELS[chosen], len(names) - 1))
    return metric.compute()


def test_a_positive_set_is_ranked_by_its_probability() -> None:
    found = scores_of(Ranking(positive=("b", "m"), specificity=0.8))
    positive, probability = LABELS > 0, PROBABILITIES[:, 1:].sum(axis=1)
    counts = tally(probability, positive)
    assert found["auc"] == pytest.approx(float(auc_of(counts)))
    assert found["average_precision"] == pytest.approx(float(average_precision_of(counts)))
    assert found["sensitivity_at_specificity_80"] == pytest.approx(float(sensitivity_of(counts, 0.8)))
    recalls = [(LOGITS.argmax(axis=1)[which] == at).mean() for at in range(3) if (which := at == LABELS).any()]
    assert found["balanced_accuracy"] == pytest.approx(np.mean(recalls))
    assert found == pytest.approx(scores_of(Ranking(positive=("b", "m"), specificity=0.8), batch=300))


def test_without_one_each_class_is_ranked_against_the_rest() -> None:
    found = scores_of(Ranking())
    each = [auc(PROBABILITIES[:, at], at == LABELS) for at in range(3)]
    assert found["auc"] == pytest.approx(np.mean(each))
    confident, right = PROBABILITIES.max(axis=1), LOGITS.argmax(axis=1) == LABELS
    bins = np.minimum((confident * 15).astype(int), 14)
    gaps = [abs(right[bins == at].sum() - confident[bins == at].sum()) for at in range(15)]
    assert found["ece"] == pytest.approx(sum(gaps) / 300)


def test_of_two_classes_the_second_is_positive() -> None:
    found = scores_of(Ranking(), names=("normal", "lesion"))
    assert found == scores_of(Ranking(positive=("lesion",)), names=("normal", "lesion"))
    assert found["auc"] == pytest.approx(scores_of(Ranking(positive=("normal",)), names=("normal", "lesion"))["auc"])


def test_classes_that_do_not_occur_are_left_out_and_nothing_is_defined_of_one_class() -> None:
    metric = ClassScores(("a", "b", "c"), Ranking())
    both = LABELS < 2
    metric.update(LOGITS[both], LABELS[both])
    assert metric.compute()["auc"] == pytest.approx(
        np.mean([auc(PROBABILITIES[both, at], LABELS[both] == at) for at in range(2)])
    )
    metric.reset()
    metric.update(LOGITS[:9], np.zeros(9, dtype=np.int64))
    assert np.isnan(metric.compute()["auc"])
    metric.update(np.full((1, 3), np.nan), np.ones(1, dtype=np.int64))
    assert np.isnan(metric.compute()["average_precision"])


def test_scores_are_exact_up_to_a_limit_and_close_beyond_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(score_table, "SCORES_MAX", 500)
    positive = RANDOM.random(20_000) < 0.3
    scores = positive + 3 * RANDOM.standard_normal(20_000)
    exact, tables = auc(scores, positive), []
    for batch in (64, 6_000):
        table = ScoreTable()
        for start in range(0, 20_000, batch):
            table.update(scores[start : start + batch], positive[start : start + batch])
        counts = table.tally()
        assert counts is not None
        assert counts.positives.size <= 500
        assert float(counts.positives.sum()) == positive.sum()
        tables.append(counts)
    np.testing.assert_array_equal(tables[0].positives, tables[1].positives)
    assert float(auc_of(tables[0])) == pytest.approx(exact, abs=2e-3)
    few = ScoreTable()
    few.update(scores[:400], positive[:400])
    counts = few.tally()
    assert counts is not None
    assert float(auc_of(counts)) == pytest.approx(auc(scores[:400].astype(np.float32), positive[:400]))


def test_a_task_declares_them() -> None:
    objective = classification(("n", "b", "m"), main="auc", positive=("m",))
    data = Examples.of(LOGITS, LABELS)
    found = evaluate(torch.nn.Identity(), data, objective)
    assert next(iter(found)) == "auc"
    assert found["auc"] == pytest.approx(auc(PROBABILITIES[:, 2], LABELS == 2))
    assert {"accuracy", "macro_f1", "recall_m", "ece", "sensitivity_at_specificity_90"} <= set(found)
    assert "auc" not in evaluate(torch.nn.Identity(), data, classification(("n", "b", "m")))
    with pytest.raises(TaskError, match="the main metric auc is nan"):
        evaluate(torch.nn.Identity(), Examples.of(LOGITS[:4], [0, 0, 0, 0]), objective)


def test_what_cannot_be_declared_is_refused() -> None:
    with pytest.raises(TaskError, match="main='auroc' does not exist; did you mean 'auc'"):
        classification(("n", "m"), main="auroc")
    with pytest.raises(TaskError, match="some of the classes n, m, but not all"):
        classification(("n", "m"), positive=("malignant",))
    with pytest.raises(TaskError, match="some of the classes n, m, but not all"):
        classification(("n", "m"), positive=("n", "m"))
    with pytest.raises(TaskError, match="specificity=90 must be a number, at least 0 and at most 1"):
        classification(("n", "m"), main="auc", specificity=90)
