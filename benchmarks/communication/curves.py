"""The plot of the communication benchmark: accuracy against bytes."""

from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.figure import Figure

COLOURS = ("#555555", "#9a9a9a", "#b5651d", "#0b6e99", "#5aa9c9", "#2f8f5b", "#8bc34a", "#a64ca6", "#d9534f")


def plot(figures: dict[str, Any], path: Path) -> None:
    """Writes a PNG: one line per method, bytes up and down on a logarithmic axis."""
    with mpl.rc_context({"font.size": 10, "axes.spines.top": False, "axes.spines.right": False}):
        figure = Figure(figsize=(9.5, 5.6), dpi=130, layout="constrained")
        axes = figure.subplots()
        for row, colour in zip(figures["rows"], COLOURS, strict=False):
            bytes_both, accuracy = zip(*row["curve"][1:], strict=True)
            # Single versions scatter; a rolling mean of five shows the trend.
            smooth = [
                sum(accuracy[max(0, at - 4) : at + 1]) / len(accuracy[max(0, at - 4) : at + 1])
                for at in range(len(accuracy))
            ]
            axes.plot(
                bytes_both,
                smooth,
                color=colour,
                lw=2.4 if row["letter"] == "d" else 1.4,
                label=f"({row['letter']}) {row['says']}",
            )
        axes.axhline(figures["centralised"], color="black", lw=1, ls=":", label="centralised")
        axes.set_xscale("log")
        axes.set_xlabel("bytes per device, up and down")
        axes.set_ylabel("accuracy on unseen persons (mean of 5 versions)")
        axes.set_ylim(bottom=max(0.0, figures["centralised"] - 0.35))
        axes.grid(visible=True, which="both", alpha=0.2)
        axes.set_title(f"{figures['task']}: accuracy against bytes, {len(figures['seeds'])} seeds", loc="left")
        axes.legend(fontsize=8, loc="lower right", frameon=False)
        path.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(path)
