"""Finds the breast on a film: threshold, largest region, without labels, markers and frames at the film's edge."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from device_client.data.dicom.film import FilmRefused
from device_client.data.dicom.geometry import Image, averaged

Mask = npt.NDArray[np.bool_]
COARSE_SIDE = 256
"""Pixels of the longer side of the image on which the breast is looked for."""
AREA_SHARE_MIN, AREA_SHARE_MAX = 0.03, 0.97
"""Of the film; outside of it there is no breast, or no background."""
_FRAME_SHARE_MAX = 0.06
"""Of the film's side."""
_WHITE, _WHITE_DROP = 0.93, 0.85
"""Of the brightest pixel: a frame, and at most this two pixels behind its end."""
_OPENING = 4
"""Bridges narrower than twice this are cut: to labels, and along fogged edges of the film."""
_MARGIN = 2


@dataclass(frozen=True, kw_only=True)
class Breast:
    """Where the breast is, in coarse pixels."""

    mask: Mask
    """(row, column), true on the breast and a narrow margin around it."""
    chest_left: bool
    """Whether more of it touches the left edge than the right one."""
    certainty: float
    """From 0 (both sides alike) to 1 (only one of them)."""


def find_breast(film: Image) -> Breast:
    """The breast.

    Raises:
        FilmRefused: there is none: no region stands out, or all of the film does.
    """
    height, width = film.shape
    scale = max(1.0, max(height, width) / COARSE_SIDE)
    coarse = averaged(film, max(1, round(height / scale)), max(1, round(width / scale)))
    if min(coarse.shape) < 8:  # noqa: PLR2004
        raise FilmRefused("not_a_breast", "the film is too small to show a breast; leave it out")
    frame = _frame(coarse)
    bright = (coarse > _threshold(np.where(frame, np.float32(0), coarse))) & ~frame
    region = _largest(_eroded(bright, _OPENING))
    mask = _grown(region, bright, _OPENING)
    share = float(mask.mean())
    if not AREA_SHARE_MIN <= share <= AREA_SHARE_MAX:
        raise FilmRefused("not_a_breast", "no breast stands out from a background; leave out calibration images")
    mask = _filled(mask)
    edge = max(2, mask.shape[1] // 20)
    left, right = float(mask[:, :edge].mean()), float(mask[:, -edge:].mean())
    certainty = abs(left - right) / max(left + right, 1e-9)
    return Breast(mask=_dilated(mask, _MARGIN) & ~frame, chest_left=left >= right, certainty=certainty)


def cropped(film: Image, mask: Mask) -> Image:
    """The film within the box around the mask, 0 outside of the mask."""
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    height, width = film.shape
    top, bottom = rows[0] * height // mask.shape[0], -(-(rows[-1] + 1) * height // mask.shape[0])
    left, right = columns[0] * width // mask.shape[1], -(-(columns[-1] + 1) * width // mask.shape[1])
    row_of = np.arange(top, bottom) * mask.shape[0] // height
    column_of = np.arange(left, right) * mask.shape[1] // width
    return np.where(mask[row_of][:, column_of], film[top:bottom, left:right], np.float32(0))


def _frame(image: Image) -> Mask:
    """White strips along the edges that end abruptly within the border: frames, and what was beside the film in the
    scanner. Bright tissue at an edge ends gradually, or further inside.
    """
    scaled = image / max(float(image.max()), 1e-9)
    frame = np.zeros(image.shape, dtype=bool)
    for turns in range(4):
        lines, found = np.rot90(scaled, turns), np.rot90(frame, turns)
        depth = max(2, int(len(lines) * _FRAME_SHARE_MAX))
        run = np.logical_and.accumulate(lines[:depth] > _WHITE, axis=0)
        behind = np.take_along_axis(lines, np.minimum(run.sum(axis=0) + 1, len(lines) - 1)[None], axis=0)[0]
        found[:depth] |= run & (behind < _WHITE_DROP)
    return _dilated(frame, 2)


def _threshold(image: Image) -> float:
    """Between the background and the breast: below Otsu's on square roots, which shows dim skin."""
    roots = np.sqrt(np.maximum(image, 0)).ravel()
    counts, edges = np.histogram(roots, bins=256, range=(0.0, max(float(roots.max()), 1e-6)))
    middles = (edges[1:] + edges[:-1]) / 2
    below = np.cumsum(counts)
    above = below[-1] - below
    sums = np.cumsum(counts * middles)
    between = np.zeros(256)
    fit = (below > 0) & (above > 0)
    means = sums[fit] / below[fit], (sums[-1] - sums[fit]) / above[fit]
    between[fit] = below[fit] * above[fit] * (means[0] - means[1]) ** 2
    otsu = float(middles[int(between.argmax())])
    background = float(np.median(roots[roots <= otsu]))
    return (background + 0.6 * (otsu - background)) ** 2


def _shifted(mask: Mask, *, fill: bool) -> Mask:
    """The mask, and its four neighbours, stacked."""
    padded = np.pad(mask, 1, constant_values=fill)
    return np.stack([mask, padded[:-2, 1:-1], padded[2:, 1:-1], padded[1:-1, :-2], padded[1:-1, 2:]])


def _eroded(mask: Mask, times: int) -> Mask:
    for _ in range(times):
        mask = np.logical_and.reduce(_shifted(mask, fill=True))
    return mask


def _dilated(mask: Mask, times: int) -> Mask:
    for _ in range(times):
        mask = np.logical_or.reduce(_shifted(mask, fill=False))
    return mask


def _grown(region: Mask, within: Mask, times: int) -> Mask:
    for _ in range(times):
        region = _dilated(region, 1) & within
    return region


def _largest(mask: Mask) -> Mask:
    """The largest region of neighbours (in rows and columns), by joining the runs of each row."""
    parent: list[int] = []
    sizes: list[int] = []
    runs: list[tuple[int, int, int]] = []
    above: list[tuple[int, int, int]] = []
    for row, line in enumerate(mask):
        steps = np.flatnonzero(np.diff(np.concatenate(([0], line.astype(np.int8), [0]))))
        here: list[tuple[int, int, int]] = []
        for start, stop in zip(steps[::2].tolist(), steps[1::2].tolist(), strict=True):
            name = len(parent)
            parent.append(name)
            sizes.append(stop - start)
            runs.append((row, start, stop))
            for other_start, other_stop, other in above:
                if other_start < stop and start < other_stop:
                    one, two = _root(parent, other), _root(parent, name)
                    if one != two:
                        parent[two] = one
                        sizes[one] += sizes[two]
            here.append((start, stop, name))
        above = here
    region = np.zeros_like(mask)
    if runs:
        best = max(range(len(runs)), key=lambda name: sizes[_root(parent, name)])
        best = _root(parent, best)
        for name, (row, start, stop) in enumerate(runs):
            if _root(parent, name) == best:
                region[row, start:stop] = True
    return region


def _root(parent: list[int], name: int) -> int:
    while parent[name] != name:
        parent[name] = parent[parent[name]]
        name = parent[name]
    return name


def _filled(mask: Mask) -> Mask:
    """Without holes: what lies between two parts of the breast in its row and in its column."""
    rows = np.maximum.accumulate(mask, axis=1) & np.maximum.accumulate(mask[:, ::-1], axis=1)[:, ::-1]
    columns = np.maximum.accumulate(mask, axis=0) & np.maximum.accumulate(mask[::-1], axis=0)[::-1]
    return mask | (rows & columns)
