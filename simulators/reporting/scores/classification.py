"""How well a model tells one side of a classification from the other: ROC and precision-recall curves, calibration,
and a table by site.

Pure functions of `ScoredExamples`: drawings for matplotlib, and all of them as a part of the report.
"""

from collections.abc import Sequence
from functools import partial
from html import escape

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from device_client.scores.calibration import Calibration, bin_of
from device_client.scores.intervals import SHARES, drawn_scores, interval, with_interval
from device_client.scores.ranking import (
    Tally,
    average_precision_of,
    precision_recall_points,
    roc_points,
    sensitivity_of,
    tally,
    threshold_at,
)
from simulators.reporting.drawing import COLOURS, FONT_POINTS, WIDTH_INCHES, svg
from simulators.reporting.html_tables import html_table
from simulators.reporting.scores.scored_examples import ScoredExamples, auc_with_interval, site_rows

Floats = npt.NDArray[np.float64]
HEIGHT_INCHES = 4.2
_BAND_DRAWS = 500
"""For the band around a curve: its ends need fewer draws than a number with three decimals."""
_GRID = np.linspace(0.0, 1.0, 101)
_EDGES = [index / 20 for index in range(21)]
_NOT_DEFINED = "-"


def roc_curve(axes: Axes, scored: ScoredExamples) -> None:
    """Sensitivity over 1 - specificity, with its band over persons and the point at the stated specificity."""
    false, true = roc_points(scored.counts)
    low, high = _band(scored)
    axes.fill_between(_GRID, low, high, color=COLOURS["federated"], alpha=0.14, linewidth=0)
    axes.plot([0, 1], [0, 1], color=COLOURS["muted"], linewidth=0.9, linestyle=(0, (4, 3)))
    axes.plot(false, true, color=COLOURS["federated"], linewidth=1.8)
    sensitivity = float(sensitivity_of(scored.counts, scored.specificity))
    if np.isfinite(sensitivity):
        reached = int(np.argmax(true >= sensitivity))  # the first point of the curve that has it
        axes.plot(false[reached], true[reached], "o", color=COLOURS["floor"], markersize=6)
    auc = auc_with_interval(scored)
    _say(
        axes,
        [
            ("federated", f"AUC {_with_interval_text(auc)}"),
            ("floor", f"sensitivity {sensitivity:.2f} at specificity {scored.specificity:g}"),
        ],
    )
    _unit_axes(axes)
    axes.set_xlabel("false positive rate, 1 - specificity")
    axes.set_ylabel("sensitivity")


def precision_recall_curve(axes: Axes, scored: ScoredExamples) -> None:
    """Precision over recall; dashed: the share of positive examples, which chance reaches."""
    recall, precision = precision_recall_points(scored.counts)
    chance = float(scored.positive.mean())
    axes.axhline(chance, color=COLOURS["muted"], linewidth=0.9, linestyle=(0, (4, 3)))
    # Steps to the left, as average precision sums them.
    steps = np.concatenate([[0.0], recall]), np.concatenate([precision[:1], precision])
    axes.plot(*steps, color=COLOURS["federated"], linewidth=1.8, drawstyle="steps-pre")
    draws = drawn_scores(
        lambda weights: average_precision_of(tally(scored.probabilities, scored.positive, weights)), scored.persons
    )
    found = with_interval(float(average_precision_of(scored.counts)), draws)
    _say(
        axes,
        [("federated", f"average precision {_with_interval_text(found)}"), ("muted", f"chance {chance:.2f}")],
    )
    _unit_axes(axes)
    axes.set_xlabel("recall, the same as sensitivity")
    axes.set_ylabel("precision")


def reliability(axes: Axes, scored: ScoredExamples) -> None:
    """The share of positive examples over the predicted probability, in bins; a larger dot has more examples."""
    axes.plot([0, 1], [0, 1], color=COLOURS["muted"], linewidth=0.9, linestyle=(0, (4, 3)))
    series = [("federated", "as trained", scored.probabilities)]
    if scored.calibrated is not None:
        series.append(("ceiling", "calibrated", scored.calibrated))
    said = []
    for colour, what, probabilities in series:
        found = Calibration()
        found.update(probabilities, scored.positive)
        predicted, share, count = found.points
        low, high = _share_intervals(probabilities, scored)
        axes.vlines(predicted, low, high, color=COLOURS[colour], linewidth=1.0, alpha=0.45)
        axes.plot(predicted, share, color=COLOURS[colour], linewidth=1.3)
        axes.scatter(predicted, share, s=12 + 130 * count / count.sum(), color=COLOURS[colour], linewidth=0, zorder=3)
        name = f"{what}: " if len(series) > 1 else ""
        said.append((colour, f"{name}calibration error {found.error:.3f}"))
    _say(axes, said)
    _unit_axes(axes)
    axes.set_xlabel(f"predicted probability of {scored.positive_name}")
    axes.set_ylabel(f"share that is {scored.positive_name}")


def distribution(axes: Axes, scored: ScoredExamples) -> None:
    """How many positive and negative examples have a predicted probability, in bins, and the threshold of the table."""
    name = scored.positive_name
    sides = (("muted", f"not {name}", ~scored.positive), ("federated", name, scored.positive))
    for colour, _what, which in sides:
        axes.hist(scored.probabilities[which], bins=_EDGES, color=COLOURS[colour], alpha=0.3, linewidth=0)
        axes.hist(scored.probabilities[which], bins=_EDGES, color=COLOURS[colour], histtype="step", linewidth=1.4)
    threshold = threshold_at(scored.probabilities, scored.positive, scored.specificity)
    said = [(colour, f"{int(which.sum()):,} {what}") for colour, what, which in reversed(sides)]
    if 0 <= threshold <= 1:
        axes.axvline(threshold, color=COLOURS["floor"], linewidth=1.3)
        said.append(("floor", f"threshold {threshold:.2f}"))
    _say(axes, said)
    axes.set_xlim(-0.02, 1.02)
    axes.set_xlabel(f"predicted probability of {name}")
    axes.set_ylabel("examples")
    axes.yaxis.set_major_locator(MaxNLocator(integer=True))


def _band(scored: ScoredExamples) -> tuple[Floats, Floats]:
    """The 95 % interval of the sensitivity at each false positive rate of `_GRID`."""
    curves: list[Floats] = []

    def keep(weights: Floats) -> Floats:
        for positives, negatives in zip(*tally(scored.probabilities, scored.positive, weights), strict=True):
            if positives.any() and negatives.any():
                curves.append(np.interp(_GRID, *roc_points(Tally(positives, negatives))))
        return weights[:, 0]

    drawn_scores(keep, scored.persons, draws=_BAND_DRAWS)
    if not curves:
        return np.full_like(_GRID, np.nan), np.full_like(_GRID, np.nan)
    low, high = np.quantile(curves, SHARES, axis=0)
    return low, high


def _share_intervals(probabilities: Floats, scored: ScoredExamples) -> tuple[list[float], list[float]]:
    """The 95 % interval of the share of positive examples in each bin that has examples."""
    found = bin_of(probabilities)
    ends = []
    for index in np.unique(found):
        inside = found == index

        def share(weights: Floats, inside: npt.NDArray[np.bool_] = inside) -> Floats:
            with np.errstate(invalid="ignore", divide="ignore"):
                return np.asarray((weights * (inside & scored.positive)).sum(axis=1) / (weights * inside).sum(axis=1))

        ends.append(interval(drawn_scores(share, scored.persons, draws=_BAND_DRAWS)))
    return [low for low, _high in ends], [high for _low, high in ends]


def _unit_axes(axes: Axes) -> None:
    axes.set_xlim(-0.02, 1.02)
    axes.set_ylim(-0.02, 1.02)
    axes.set_aspect("equal")
    axes.grid(visible=True, axis="both")


def _say(axes: Axes, lines: Sequence[tuple[str, str]]) -> None:
    """Lines of text (colour, text) above the axes, where no curve can be."""
    for number, (colour, text) in enumerate(reversed(lines)):
        axes.annotate(
            text,
            (0.0, 1.0),
            xycoords="axes fraction",
            xytext=(0, 6 + 1.45 * FONT_POINTS * number),
            textcoords="offset points",
            color=COLOURS[colour],
            fontsize=FONT_POINTS,
            weight="normal" if colour == "muted" else "bold",
        )


# --- part of the report ---------------------------------------------------------------------------------------------


def section(scored: ScoredExamples) -> str:
    """The drawings and the table, as HTML for report.html."""
    size = (WIDTH_INCHES, HEIGHT_INCHES)
    name, share = escape(scored.positive_name), f"{scored.specificity:.0%}"
    examples, persons = f"{len(scored.positive):,}", len(set(scored.persons.tolist()))
    nouns = scored.nouns
    tested = f"{examples} held-out {nouns.example}s of {nouns.count(persons, nouns.person)}"
    between = f"Shaded: 95 % interval over {nouns.person}s"
    figures = (
        (
            "roc",
            roc_curve,
            f"ROC curve: {name} or not",
            f"On {tested}, with the weights before they were compressed for publishing. {between}; dashed: chance.",
        ),
        (
            "precision_recall",
            precision_recall_curve,
            "Precision and recall",
            f"Precision: the share of {name} among what is called so. Recall: the share of {name} that is found.",
        ),
        (
            "reliability",
            reliability,
            "Calibration",
            f"Share of {name} by predicted probability; on the dashed line both agree. Lines: 95 % intervals.",
        ),
        (
            "distribution",
            distribution,
            "Predicted probabilities",
            f"Of the held-out examples, in steps of 0.05. The threshold has a specificity of at least {share}.",
        ),
    )
    drawn = "\n".join(
        f"<figure><figcaption><h2>{heading}</h2><p>{caption}</p></figcaption>"
        f"{svg(key, partial(draw, scored=scored), size)}</figure>"
        for key, draw, heading, caption in figures
    )
    caption = (
        "Sensitivity and specificity at one threshold for all, chosen on all examples together for a specificity of at "
        f"least {share}. Balanced accuracy: their mean at probability 0.5. In parentheses: 95 % intervals over "
        f"{nouns.person}s."
    )
    label = f"Results by {escape(scored.site_name)}"
    return (
        f'\n<section class="plots" aria-label="Ranking and calibration" style="margin-top:.9rem">\n{drawn}\n</section>'
        f'\n<section class="card"><h2>{label}</h2>\n<p class="note">{caption}</p>\n'
        f'<div class="scroll" tabindex="0" role="region" aria-label="{label}">{site_table(scored)}</div>\n'
        '<p class="note hint">Scroll sideways for more columns.</p></section>'
    )


def site_table(scored: ScoredExamples) -> str:
    """`site_rows` as an HTML table."""
    heads = (
        *(scored.site_name, f"{scored.nouns.example}s", scored.positive_name, f"{scored.nouns.person}s", "AUC"),
        *("sensitivity", "specificity", "balanced accuracy"),
    )
    rows = [
        (
            row.site,
            f"{row.examples:,}",
            f"{row.positive:,}",
            f"{row.persons:,}",
            _with_interval_text({"mean": row.auc, "low": row.auc_low, "high": row.auc_high}),
            *(_text(value) for value in (row.sensitivity, row.specificity, row.balanced_accuracy)),
        )
        for row in site_rows(scored)
    ]
    return html_table(heads, rows, text=0)


def _with_interval_text(score: dict[str, float]) -> str:
    if not np.isfinite(score["mean"]):
        return _NOT_DEFINED
    return f"{score['mean']:.2f} ({score['low']:.2f} to {score['high']:.2f})"


def _text(value: float) -> str:
    return f"{value:.2f}" if np.isfinite(value) else _NOT_DEFINED
