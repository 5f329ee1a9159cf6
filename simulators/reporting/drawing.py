"""Plots as inline SVG in the page's style: colours are CSS variables, and text uses the page's font.

matplotlib draws with placeholder colours, which are then replaced by `var(--…)`, so that one drawing serves light and
dark mode. Figures are narrow, so that a phone shows them at full size.
"""

import io
import re
from collections.abc import Callable, Sequence
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure

COLOURS = {
    "ink": "#010203",
    "muted": "#010204",
    "grid": "#010205",
    "federated": "#010206",
    "ceiling": "#010207",
    "floor": "#010208",
    "offline": "#010209",
    "killed": "#01020a",
    "held": "#01020b",
    "training": "#01020c",
    "up": "#01020d",
    "down": "#01020e",
    "paper": "#01020f",
}
"""Placeholder for each CSS variable of report.html."""
WIDTH_INCHES, HEIGHT_INCHES = 5.2, 3.0
WIDE_INCHES = 2 * WIDTH_INCHES + 0.3
"""Width of a figure that spans both columns of a wide page."""
FONT_POINTS = 9.0

_STYLE: dict[str, Any] = {
    "svg.fonttype": "none",  # keeps text as text: it has the page's font and colour, and can be searched
    "font.family": "sans-serif",
    "font.size": FONT_POINTS,
    "axes.edgecolor": COLOURS["grid"],
    "axes.labelcolor": COLOURS["muted"],
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.spines.left": False,
    "axes.grid": True,
    "axes.grid.axis": "y",
    "axes.axisbelow": True,
    "grid.color": COLOURS["grid"],
    "grid.linewidth": 0.7,
    "text.color": COLOURS["ink"],
    "xtick.color": COLOURS["grid"],
    "ytick.color": COLOURS["grid"],
    "xtick.labelcolor": COLOURS["muted"],
    "ytick.labelcolor": COLOURS["muted"],
    "ytick.major.size": 0,
    "legend.frameon": False,
}


def svg(name: str, draw: Callable[[Axes], None], size: Sequence[float]) -> str:
    """A plot of one pair of axes for embedding; its name makes ids unique, `size` is width and height in inches."""
    style: Any = _STYLE | {"svg.hashsalt": name}  # matplotlib types this as the literal list of all its settings
    with mpl.rc_context(style):
        figure = Figure(figsize=(size[0], size[1]), layout="constrained")
        figure.patch.set_alpha(0)
        axes = figure.add_subplot()
        axes.patch.set_alpha(0)
        draw(axes)
        out = io.StringIO()
        figure.savefig(out, format="svg", metadata={"Date": None, "Creator": None})
    return themed(out.getvalue(), name)


def themed(svg: str, name: str) -> str:
    """The SVG for embedding: without prologue, with CSS colours, the page's font, and unique ids."""
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    for variable, colour in COLOURS.items():
        svg = svg.replace(colour, f"var(--{variable})")
    svg = re.sub(r"font: ([\d.]+px) [^;\"]*", r"font-size: \1", svg)
    svg = re.sub(r'\bid="', f'id="{name}-', svg)
    svg = re.sub(r'(href="|url\()#', rf"\1#{name}-", svg)
    return re.sub(r'(<svg[^>]*?) (width|height)="[^"]*"([^>]*?) (width|height)="[^"]*"', r"\1\3", svg, count=1)
