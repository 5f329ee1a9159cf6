"""The report's curves, calibration and table by site, of scores that were made up."""

import re
from dataclasses import replace

import numpy as np
import pytest
from matplotlib.figure import Figure

from device_client.scores.ranking import auc
from simulators.reporting.drawing import COLOURS
from simulators.reporting.report import page
from simulators.reporting.scores.classification import (
    distribution,
    precision_recall_curve,
    reliability,
    roc_curve,
    section,
    site_table,
)
from simulators.reporting.scores.scored_examples import ScoredExamples, site_rows
from tests.simulators.reporting.sample_results import sample_results

PERSONS = 40
RANDOM = np.random.default_rng(4)


def scored(**changes: object) -> ScoredExamples:
    positive = np.repeat(RANDOM.random(PERSONS) < 0.4, 5)
    logits = 2 * positive - 1 + np.repeat(RANDOM.standard_normal(PERSONS), 5)
    made = ScoredExamples(
        probabilities=1 / (1 + np.exp(-3 * logits)),
        positive=positive,
        persons=np.repeat(np.arange(PERSONS).astype(np.str_), 5),
        sites=np.repeat(np.where(np.arange(PERSONS) < 25, "hospital-1", "hospital-<2>"), 5),
        positive_name="lesion",
        site_name="hospital",
        calibrated=1 / (1 + np.exp(-logits)),
    )
    return replace(made, **changes)


def drawn(draw: object, examples: ScoredExamples) -> tuple[object, str]:
    axes = Figure().add_subplot()
    assert callable(draw)
    draw(axes, examples)
    return axes, " ".join(text.get_text() for text in axes.texts)


def test_rows_are_of_each_site_and_of_all_at_one_threshold() -> None:
    examples = scored()
    rows = site_rows(examples)
    assert [row.site for row in rows] == ["all", "hospital-1", "hospital-<2>"]
    assert [row.persons for row in rows] == [40, 25, 15]
    assert rows[0].examples == rows[1].examples + rows[2].examples == 200
    assert rows[0].auc == pytest.approx(auc(examples.probabilities, examples.positive))
    assert all(row.auc_low < row.auc < row.auc_high for row in rows)
    assert rows[0].specificity >= 0.9
    negatives = [row.examples - row.positive for row in rows]
    assert rows[0].specificity * negatives[0] == pytest.approx(
        rows[1].specificity * negatives[1] + rows[2].specificity * negatives[2]
    )
    called = examples.probabilities >= 0.5
    recalls = [(called == examples.positive)[examples.positive == side].mean() for side in (True, False)]
    assert rows[0].balanced_accuracy == pytest.approx(np.mean(recalls))


def test_one_site_has_one_row_and_what_is_not_defined_is_a_dash() -> None:
    examples = scored(positive=np.zeros(5 * PERSONS, dtype=np.bool_), sites=np.full(5 * PERSONS, "a"))
    (row,) = site_rows(examples)
    assert np.isnan([row.auc, row.sensitivity, row.balanced_accuracy]).all()
    assert "<td>-</td>" in site_table(examples)
    assert "ROC curve" in section(examples)  # with nothing to draw, it is drawn all the same
    assert "ROC curve" in section(replace(examples, positive=~examples.positive))


def test_curves_show_the_figures() -> None:
    examples = scored()
    rows = site_rows(examples)
    axes, said = drawn(roc_curve, examples)
    assert f"AUC {rows[0].auc:.2f} ({rows[0].auc_low:.2f} to {rows[0].auc_high:.2f})" in said
    assert f"sensitivity {rows[0].sensitivity:.2f} at specificity 0.9" in said
    _chance, curve, point = axes.lines  # type: ignore[attr-defined]
    assert float(np.trapezoid(curve.get_ydata(), curve.get_xdata())) == pytest.approx(rows[0].auc)
    assert (point.get_xdata()[0], point.get_ydata()[0]) == pytest.approx((1 - rows[0].specificity, rows[0].sensitivity))
    assert "average precision 0." in drawn(precision_recall_curve, examples)[1]
    assert "as trained: calibration error 0." in drawn(reliability, examples)[1]
    assert drawn(reliability, replace(examples, calibrated=None))[1].startswith("calibration error")
    assert "threshold 0." in drawn(distribution, examples)[1]


def test_the_section_is_escaped_and_follows_the_page() -> None:
    examples = scored(positive_name="<b>lesion</b>")
    html = section(examples)
    assert "<b>lesion" not in html
    assert "hospital-&lt;2&gt;" in html
    assert html.count("<svg") == 4
    assert not any(colour in html for colour in COLOURS.values())
    ids = re.findall(r'\bid="([^"]+)"', html)
    assert len(ids) == len(set(ids))
    assert section(examples) == html


def test_only_reports_with_scores_have_it() -> None:
    results = sample_results()
    without = page(results)
    assert "Calibration" not in without
    results.scored = scored()
    assert page(results).replace(section(results.scored), "") == without


def test_wrong_scores_are_refused() -> None:
    with pytest.raises(ValueError, match="persons must be"):
        scored(persons=np.array(["a"]))
    with pytest.raises(ValueError, match="from 0 to 1"):
        scored(probabilities=np.full(5 * PERSONS, np.nan))
