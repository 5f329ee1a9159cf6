"""The report and the summary of a results, and what they may not claim."""

import math
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest

from simulators.demo.command import conclude
from simulators.reporting.baselines import BaselineResults
from simulators.reporting.drawing import COLOURS
from simulators.reporting.plots import limits, plots, spread
from simulators.reporting.report import headline, page, write_report
from simulators.reporting.results import summary
from tests.simulators.reporting.sample_results import by_another_metric, sample_results
from wire_contract.main_metric import MainMetric

MAE = MainMetric("mae", higher_is_better=False)
PROMISED = (
    *("task", "devices", "versions", "updates_sent", "updates_merged", "duplicates", "refused", "accuracy"),
    *("accuracy_centralised", "accuracy_local_mean", "bytes_up", "bytes_down", "seconds"),
)


class _Tags(HTMLParser):
    """Which tags are open, and what a page refers to."""

    void = frozenset({"meta", "br", "link", "img", "use", "path"})

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.references: list[str] = []
        self.ids: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.references += [value for name, value in attrs if name in {"src", "href", "xlink:href"} and value]
        self.ids += [value for name, value in attrs if name == "id" and value]
        if tag not in self.void:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if tag not in self.void:
            self.open.pop()

    def handle_endtag(self, tag: str) -> None:
        if tag not in self.void:
            assert self.open.pop() == tag


def test_summary_has_what_is_promised() -> None:
    facts = summary(sample_results())
    assert set(PROMISED) <= set(facts)
    assert (facts["updates_sent"], facts["updates_merged"], facts["refused"]) == (5, 4, 1)
    assert facts["accuracy"] == 0.85
    assert facts["accuracy_local_mean"] == 0.6
    assert facts["bytes_up"] == 84_000
    assert facts["staleness_mean"] == 1.5
    assert facts["teacher_on_the_wire"] is False


def test_page_is_whole_and_needs_nothing_else() -> None:
    html = page(sample_results())
    tags = _Tags()
    tags.feed(html)
    tags.close()
    assert tags.open == []
    assert all(reference.startswith("#") for reference in tags.references)
    assert {reference.removeprefix("#") for reference in tags.references} <= set(tags.ids)
    assert len(tags.ids) == len(set(tags.ids))
    assert "@import" not in html
    assert not re.search(r"url\((?!#)", html)
    assert "$" not in html


def test_names_are_escaped() -> None:
    html = page(sample_results())
    assert "person-<4>" not in html
    assert "person-&lt;4&gt;" in html
    assert "offline &amp; back" in html


def test_plots_follow_the_page() -> None:
    template = page(sample_results())
    for name, svg in plots(sample_results()).items():
        assert svg.startswith("<svg"), name
        assert not any(colour in svg for colour in COLOURS.values()), name
        used = set(re.findall(r"var\(--([a-z]+)\)", svg))
        assert used
        assert used <= set(COLOURS)
        assert "<text" in svg, name
    for variable in COLOURS:
        assert template.count(f"--{variable}:") == 2, f"{variable} needs a light and a dark value"


def test_headline_says_above_and_below() -> None:
    assert "2.5 points below training" in headline(sample_results())
    assert "25.0 points above training on one" in headline(sample_results())


def test_a_report_by_an_error() -> None:
    results = by_another_metric(MAE, lambda accuracy: 1.063 - accuracy)
    assert headline(results) == (
        "Two devices trained one model whose MAE on unseen persons is 0.213 (lower is better): 0.0250 worse than "
        "training on pooled data, 0.250 better than training on one person's data."
    )
    html = page(results)
    for text in ("<title>asyncfedkd demo: 0.213 on physiotherapy", ">MAE over time<", "MAE of version 2", "MAE alone"):
        assert text in html
    assert "federated 0.213" in html
    assert "0.188" in html
    for text in ("ccuracy", "Macro F1", "percentage point"):
        assert text not in html
    facts = summary(results)
    assert (facts["metric"], facts["higher_is_better"]) == ("mae", False)
    assert facts["mae"] == pytest.approx(0.213)
    assert facts["mae_local_mean"] == pytest.approx(0.463)
    assert facts["bytes_per_point"] is None
    assert "accuracy" not in facts
    assert "macro_f1" not in facts


def test_a_report_by_a_large_number(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    results = by_another_metric(MainMetric("perplexity", higher_is_better=False), lambda accuracy: 1555.5 / accuracy)
    assert "whose perplexity on unseen persons is 1,830 (lower is better): 52.3 worse than" in headline(results)
    assert "federated 1,830" in page(results)
    conclude(results, tmp_path)
    said = capsys.readouterr().out
    assert "perplexity 1,830 on unseen persons (pooled data 1,778, one person alone 2,667)" in said


def test_a_report_by_another_share() -> None:
    results = by_another_metric(MainMetric("macro_f1", higher_is_better=True), lambda accuracy: accuracy)
    assert "macro F1 on unseen persons is 85.0% (higher is better): 2.5 points below" in headline(results)
    assert summary(results)["macro_f1"] == 0.85
    assert summary(results)["bytes_per_point"] == summary(sample_results())["bytes_per_point"]


@pytest.mark.parametrize("main", [MAE, MainMetric("r2", higher_is_better=True)])
@pytest.mark.parametrize(
    ("values", "compared"),
    [
        ([9.0, 0.5, 0.21], [0.2, 0.4]),
        ([-9.0, 0.5, 0.8], [0.7, 0.9]),
        ([0.2], []),
        ([0.0, 0.0], [0.0]),
        ([1e100, -1e100], []),
        ([1e-9, 1e-9], []),
        ([2000.0, 1830.0], [1800.0, 1900.0]),
    ],
)
def test_the_axis_holds_what_is_compared(main: MainMetric, values: list[float], compared: list[float]) -> None:
    low, high = limits(values, compared, main)
    assert math.isfinite(low)
    assert math.isfinite(high)
    assert low < high
    assert all(low <= value <= high for value in (values[-1], *compared))
    if values[0] in {9.0, -9.0} and main.best(values) != values[0]:
        assert not low <= values[0] <= high, "a start that is far worse is cut off"


def test_one_version_and_no_updates_is_still_a_page() -> None:
    results = sample_results()
    alone = replace(results, contributions=[], versions={0: 1.0}, evaluations=results.evaluations[:1])
    assert "No update was merged." in page(alone)


@pytest.mark.parametrize(
    ("pooled", "alone"), [(False, False), (False, True), (True, False)], ids=["neither", "no pooled", "no alone"]
)
def test_baselines_that_are_missing_are_named_and_the_rest_is_shown(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], *, pooled: bool, alone: bool
) -> None:
    """A machine may be too slow for them; the run has its report all the same."""
    results = sample_results()
    results.baselines = BaselineResults(
        epochs=40,
        centralised=results.baselines.centralised if pooled else {},
        local={"person-03": results.baselines.local["person-03"]} if alone else {},
        given_up="not done 120 s after the federation",
    )
    write_report(results, tmp_path / "report.html")
    assert conclude(results, tmp_path) == 0
    said, html = capsys.readouterr().out, (tmp_path / "report.html").read_text()
    assert "85.0%" in headline(results)
    for text in (said, html):
        assert "85.0%" in text
        assert ("87.5%" in text) is pooled
        assert ("50.0%" in text) is alone
        assert bool(re.search("issing(?: here)?: pooled data", text)) is not pooled
        assert "person-&lt;4&gt; alone" in text or "person-<4> alone" in text
        assert "not done 120 s after the federation" in text
    facts = summary(results)
    assert (facts["accuracy_centralised"] is None) is not pooled
    assert (facts["accuracy_local_mean"] is None) is not alone
    assert facts["missing"][-1] == "person-<4> alone"


def test_labels_beside_lines_keep_apart_and_in_order() -> None:
    assert spread([0.2, 0.8], 0.1) == [0.2, 0.8]
    close = spread([0.5, 0.52, 0.51], 0.1)
    assert close[0] < close[2] < close[1]
    assert spread([1.0, 0.99, 0.98], 0.1) == pytest.approx([1.0, 0.9, 0.8])


def test_balanced_run_ends_well(tmp_path: Path) -> None:
    write_report(sample_results(), tmp_path / "report.html")
    assert conclude(sample_results(), tmp_path) == 0
    assert (tmp_path / "summary.json").is_file()


def test_a_lost_update_is_said_and_fails(tmp_path: Path) -> None:
    results = sample_results(lost=1)
    assert conclude(results, tmp_path) == 1
    assert "DIFFER" in page(results)
    assert summary(results)["balanced"] is False


def test_a_payload_of_the_teachers_size_fails(tmp_path: Path) -> None:
    results = sample_results(largest_bytes=300_000)
    assert conclude(results, tmp_path) == 1
    assert summary(results)["teacher_on_the_wire"] is True
    assert "suspect" in page(results)
