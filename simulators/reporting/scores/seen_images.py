"""Some held-out images as the model sees them, and where it looks: a part of the report."""

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

import numpy as np
import numpy.typing as npt
from matplotlib.figure import Figure

Image = npt.NDArray[np.float32]
_COLUMNS_MAX = 6
_WIDTH_INCHES, _DOTS_PER_INCH = 1.5, 110


@dataclass(frozen=True, kw_only=True, eq=False)
class SeenImage:
    """One image."""

    pixels: Image
    """(row, column), 0 to 1, as the network takes it in."""
    matters: Image
    """(row, column) of the same shape, 0 to 1: how much the answer depends on what is there."""
    label: str
    answer: float
    """The probability of `asked`, 0 to 1."""
    asked: str
    """The class that is asked about, such as lesion."""
    what: str
    """Why it is shown, such as "found"."""


def seen_section(images: Sequence[SeenImage]) -> str:
    """The images in a row, each above itself with what matters, as HTML for report.html."""
    shown = images[:_COLUMNS_MAX]
    cells = "\n".join(
        f'<div><p class="note" style="min-height:4.4em"><b>{escape(image.what)}</b><br>{escape(image.label)}; '
        f"{escape(image.asked)} {image.answer:.0%}</p>{_picture(image, matters=False)}"
        f"{_picture(image, matters=True)}</div>"
        for image in shown
    )
    grid = "display:grid;gap:.6rem;margin-top:.6rem;grid-template-columns:repeat(auto-fit,minmax(8.5rem,1fr))"
    return (
        '\n<section class="card"><h2>What the model sees</h2>\n'
        '<p class="note">Held-out images at the size that the network takes in, and the same with what its answer '
        "depends on: where a covered part changes the answer, the image is yellow. Synthetic: drawn by a program, they "
        f'show nobody.</p>\n<div style="{grid}">\n{cells}\n</div></section>'
    )


def _picture(image: SeenImage, *, matters: bool) -> str:
    rows, columns = image.pixels.shape
    figure = Figure(figsize=(_WIDTH_INCHES, _WIDTH_INCHES * rows / columns), dpi=_DOTS_PER_INCH)
    axes = figure.add_axes((0.0, 0.0, 1.0, 1.0))
    axes.imshow(image.pixels, cmap="gray", vmin=0.0, vmax=max(float(image.pixels.max()), 1e-6), aspect="auto")
    if matters:
        axes.imshow(
            np.ones_like(image.pixels), cmap="autumn", vmin=0.0, vmax=1.0, alpha=0.7 * image.matters, aspect="auto"
        )
    axes.set_axis_off()
    out = io.BytesIO()
    figure.savefig(out, format="png", metadata={"Software": None})
    said = f"{image.label}, {image.what}" + (", with what matters" if matters else "")
    data = base64.b64encode(out.getvalue()).decode("ascii")
    return (
        f'<img alt="{escape(said)}" src="data:image/png;base64,{data}" '
        'style="display:block;width:100%;border-radius:4px;margin-top:.4rem">'
    )
