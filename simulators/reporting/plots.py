"""The report's plots of a run."""

import math
from collections.abc import Callable, Iterable, Sequence
from itertools import pairwise
from typing import Literal

from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator, PercentFormatter, StrMethodFormatter

from simulators.reporting.drawing import COLOURS, FONT_POINTS, HEIGHT_INCHES, WIDE_INCHES, WIDTH_INCHES, svg
from simulators.reporting.metric_text import value_text
from simulators.reporting.results import DeviceResults, RunResults
from wire_contract.main_metric import MainMetric

ROW_INCHES = 0.42
LABEL_SHARE = 0.085
"""Height of a line of text as a share of the plot's height."""
_KB = 1_000


def plots(results: RunResults) -> dict[str, str]:
    """All plots as SVG, by the name of their placeholder in the template."""
    rows = len(results.devices)
    timeline_inches, bars_inches = 1.0 + ROW_INCHES * rows, 0.8 + 1.35 * ROW_INCHES * rows
    drawings: dict[str, tuple[Callable[[Axes, RunResults], None], float, float]] = {
        "metric_over_time": (metric_over_time, WIDTH_INCHES, HEIGHT_INCHES),
        "metric_over_version": (metric_over_version, WIDTH_INCHES, HEIGHT_INCHES),
        "metric_over_bytes": (metric_over_bytes, WIDTH_INCHES, HEIGHT_INCHES),
        "staleness": (staleness, WIDTH_INCHES, HEIGHT_INCHES),
        # Drawn twice, for a wide page and for a phone, so that letters have the same size on both.
        "timeline_wide": (timeline, WIDE_INCHES, timeline_inches),
        "timeline": (timeline, WIDTH_INCHES, timeline_inches),
        "contributions": (contributions, WIDTH_INCHES, bars_inches),
        "traffic": (traffic, WIDTH_INCHES, bars_inches),
    }
    return {
        name: svg(name, lambda axes, draw=draw: draw(axes, results), size)  # type: ignore[misc]
        for name, (draw, *size) in drawings.items()
    }


# --- main metric ----------------------------------------------------------------------------------------------------


def metric_over_time(axes: Axes, results: RunResults) -> None:
    """The main metric over seconds since the first device was started."""
    told = sorted(results.evaluations, key=lambda one: one.at)
    seconds = [max(0.0, one.at - results.started_at) for one in told]
    # Steps: a version is in use until the next one.
    _curve(axes, results, seconds, [results.value_of(one) for one in told], drawstyle="steps-post")
    axes.set_xlabel("seconds since the devices were started")


def metric_over_version(axes: Axes, results: RunResults) -> None:
    """The main metric over the version of the model."""
    told = sorted(results.evaluations, key=lambda one: one.version)
    _curve(axes, results, [one.version for one in told], [results.value_of(one) for one in told])
    axes.set_xlabel("model version")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))


def metric_over_bytes(axes: Axes, results: RunResults) -> None:
    """The main metric over the mean bytes that a device had sent and received."""
    told = sorted(results.evaluations, key=lambda one: one.at)
    kilobytes = [results.bytes_by(one.at) / _KB for one in told]
    _curve(axes, results, kilobytes, [results.value_of(one) for one in told])
    axes.set_xlabel("kB per device, up and down")


def _curve(
    axes: Axes,
    results: RunResults,
    places: Sequence[float],
    values: Sequence[float],
    *,
    drawstyle: Literal["default", "steps-post"] = "default",
) -> None:
    alone = [metrics[results.main.name] for metrics in results.baselines.local.values()]
    others = [value for value in (results.baselines.pooled(),) if value is not None]
    compared = [*alone, *others]
    axes.set_ylim(share_limits([*alone, values[-1]]) if results.is_share else limits(values, compared, results.main))
    labels: list[tuple[str, str, float]] = []
    if alone:
        axes.axhspan(min(alone), max(alone), color=COLOURS["floor"], alpha=0.12, linewidth=0)
    for name, what, height in (
        ("ceiling", "pooled", results.baselines.pooled()),
        ("floor", "alone", results.baselines.local_mean()),
    ):
        if height is not None:
            axes.axhline(height, color=COLOURS[name], linewidth=1.3, linestyle=(0, (4, 3)))
            labels.append((name, what, height))
    axes.plot(places, values, color=COLOURS["federated"], linewidth=1.8, drawstyle=drawstyle)
    axes.plot(places[-1:], values[-1:], "o", color=COLOURS["federated"], markersize=5)
    _name_lines(axes, [*labels, ("federated", "federated", values[-1])], as_share=results.is_share)
    axes.yaxis.set_major_formatter(PercentFormatter(1.0) if results.is_share else StrMethodFormatter("{x:,g}"))
    axes.margins(x=0.02)


def share_limits(compared: Sequence[float]) -> tuple[float, float]:
    """Of an axis for shares: shows the range of floor and ceiling; the start at chance level is cut off below."""
    return max(0.0, math.floor(10 * min(compared) - 2) / 10), 1.0


def limits(values: Sequence[float], compared: Sequence[float], main: MainMetric) -> tuple[float, float]:
    """Of an axis for any other numbers: shows the last value and what it is compared with. Values that are far worse,
    as those of the first versions, are cut off.
    """
    shown = [values[-1], main.best(values), *(compared or values)]
    low, high = min(shown), max(shown)
    span = high - low or abs(high) / 5 or 1.0
    if main.higher_is_better:
        return max(low - span, min([*shown, *values]) - span / 10), high + span / 10
    bottom = low - span / 10
    if low >= 0 and bottom < span:
        bottom = 0.0
    return bottom, min(high + span, max([*shown, *values]) + span / 10)


def _name_lines(axes: Axes, labels: Sequence[tuple[str, str, float]], *, as_share: bool) -> None:
    """Labels each line (colour, name, height) beside its right end. The y limits must be set before."""
    low, high = axes.get_ylim()
    heights = [(height - low) / (high - low) for _, _, height in labels]
    for (colour, what, height), at, place in zip(labels, heights, spread(heights, LABEL_SHARE), strict=True):
        axes.annotate(
            f"{what} {value_text(height, as_share=as_share)}",
            (1.0, at),
            xycoords="axes fraction",
            xytext=(1.05, place),
            textcoords="axes fraction",
            va="center",
            color=COLOURS[colour],
            weight="bold" if colour == "federated" else "normal",
            arrowprops={"arrowstyle": "-", "color": COLOURS[colour], "linewidth": 0.8, "shrinkA": 1, "shrinkB": 0},
        )


def spread(places: Sequence[float], gap: float) -> list[float]:
    """Moves label positions (0 to 1) apart, to at least `gap`, keeping their order and staying close to the given ones.

    If there is not enough room for all, they overlap at the bottom.
    """
    order = sorted(range(len(places)), key=lambda at: places[at])
    found = list(places)
    for below, above in pairwise(order):
        found[above] = max(found[above], found[below] + gap)
    top = 1.0
    for at in reversed(order):
        found[at] = min(found[at], top)
        top = found[at] - gap
    return found


# --- who did what ---------------------------------------------------------------------------------------------------


def timeline(axes: Axes, results: RunResults) -> None:
    """Training, outages and merges of each device."""
    for row, device in enumerate(results.devices):
        placed = [
            (span.kind, span.start - results.started_at, (span.stop or results.stopped_at) - span.start)
            for span in device.timeline.spans
        ]
        training = [(start, seconds) for kind, start, seconds in placed if kind == "training"]
        axes.broken_barh(training, (row - 0.16, 0.32), color=COLOURS["training"], linewidth=0)
        for kind, start, seconds in placed:
            if kind != "training":
                axes.broken_barh([(start, seconds)], (row - 0.4, 0.8), color=COLOURS[kind], alpha=0.32, linewidth=0)
                axes.annotate(
                    kind, (start + seconds / 2, row - 0.28), ha="center", va="center", fontsize=FONT_POINTS - 2
                )
        merges = [at - results.started_at for at in device.timeline.merges]
        axes.plot(merges, [row + 0.3] * len(merges), "|", color=COLOURS["federated"], markersize=4.5)
    stopped = results.stopped_at - results.started_at
    axes.axvline(stopped, color=COLOURS["muted"], linewidth=0.8, linestyle=(0, (2, 2)))
    axes.annotate(
        "training stops",
        (stopped, -0.5),
        xytext=(-3, 2),
        textcoords="offset points",
        ha="right",
        va="bottom",
        fontsize=FONT_POINTS - 1.5,
        color=COLOURS["muted"],
    )
    _device_rows(axes, results.devices)
    axes.set_xlim(left=0)
    axes.set_xlabel("seconds since the devices were started")


def staleness(axes: Axes, results: RunResults) -> None:
    """Histogram of the staleness of merged updates."""
    values = results.staleness
    counts = [values.count(value) for value in range(max(values, default=0) + 1)]
    axes.bar(range(len(counts)), counts, color=COLOURS["federated"], width=0.8)
    axes.set_xlabel("staleness: versions published since the update's base")
    axes.set_ylabel("updates merged")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.yaxis.set_major_locator(MaxNLocator(integer=True))


def contributions(axes: Axes, results: RunResults) -> None:
    """Merged updates and merging weight of each device."""
    merged, shares = results.merged_by_device(), results.weight_shares()
    rows = range(len(results.devices))
    counts = [merged[device.name] for device in results.devices]
    axes.barh(rows, counts, color=COLOURS["federated"], height=0.42)
    for row, device in enumerate(results.devices):
        axes.annotate(
            f"{counts[row]} update{'' if counts[row] == 1 else 's'}, {shares[device.name]:.0%} of all weight",
            (counts[row], row),
            xytext=(4, 0),
            textcoords="offset points",
            va="center",
        )
    _device_rows(axes, results.devices, titles=True)
    axes.set_xlim(0, max([*counts, 1]) * 1.75)
    _only_rows(axes)


def traffic(axes: Axes, results: RunResults) -> None:
    """Bytes through each device's proxy."""
    thickness = 0.2
    for offset, colour, values in (
        (-thickness / 2 - 0.02, "up", [device.bytes_up / _KB for device in results.devices]),
        (thickness / 2 + 0.02, "down", [device.bytes_down / _KB for device in results.devices]),
    ):
        places = [row + offset for row in range(len(results.devices))]
        axes.barh(places, values, color=COLOURS[colour], height=thickness)
        for place, value in zip(places, values, strict=True):
            axes.annotate(
                f"{value:,.0f} kB {colour}",
                (value, place),
                xytext=(4, 0),
                textcoords="offset points",
                va="center",
                fontsize=FONT_POINTS - 1,
            )
    _device_rows(axes, results.devices, titles=True)
    axes.set_xlim(0, max([1.0, *(device.bytes_down / _KB for device in results.devices)]) * 1.3)
    _only_rows(axes)


def _device_rows(axes: Axes, devices: Iterable[DeviceResults], *, titles: bool = False) -> None:
    """One row per device, the first at the top; with `titles`, its profile in small type above its bar."""
    names = [device.name for device in devices]
    axes.set_yticks(range(len(names)), names)
    axes.set_ylim(len(names) - 0.5, -0.75 if titles else -0.6)
    axes.grid(visible=False)
    if titles:
        for row, device in enumerate(devices):
            axes.annotate(device.title, (0, row - 0.3), va="bottom", fontsize=FONT_POINTS - 1.5, color=COLOURS["muted"])
    else:
        axes.grid(visible=True, axis="x")


def _only_rows(axes: Axes) -> None:
    axes.set_xticks([])
    axes.spines["bottom"].set_visible(False)
