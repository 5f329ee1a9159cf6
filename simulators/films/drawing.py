"""Draws a breast: outline, tissue, and a finding whose place is known. Deterministic for a given random source."""

from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

Image = npt.NDArray[np.float32]
View = Literal["CC", "MLO"]
Finding = Literal["normal", "mass", "calcification"]
FINDINGS: tuple[Finding, ...] = ("normal", "mass", "calcification")
_GRAIN = 0.01
_DENSITY = (0.6, 1.3)
"""Brightness of glandular tissue; drawn for each film, so that a bright film is not one with a finding."""
_ISLANDS = (2, 6)
"""Soft, elongated patches of dense tissue in each film, which are no finding."""
_TEXTURE_CELLS = (6, 14, 40)
"""Cells of value noise along the longer side; the finer, the fainter."""
_MASS_BRIGHTNESS, _CALCIFICATION_BRIGHTNESS = (0.1, 0.3), (0.2, 0.6)
"""Added to what is around it. Chosen: the faintest are hard to see, so that networks make errors."""
_BAND = 256


@dataclass(frozen=True, kw_only=True)
class Drawing:
    """A film before it is written."""

    pixels: Image
    """(row, column), 0 to 1, bright where dense, chest wall at the left."""
    row: int
    """Centre of the finding, pixels; -1: there is none."""
    column: int
    radius: int


def draw(rows: int, columns: int, view: View, finding: Finding, random: np.random.Generator) -> Drawing:
    """A breast on a black background.

    Args:
        rows: of the film.
        columns: of the film.
        view: MLO has the pectoral muscle in the upper corner.
        finding: normal, a round mass, or a cluster of calcifications.
        random: source of everything that differs between films.
    """
    middle = (0.5 if view == "CC" else 0.56) + random.uniform(-0.02, 0.02)
    height, depth = random.uniform(0.34, 0.42), random.uniform(0.55, 0.72)
    y = ((np.arange(rows, dtype=np.float32) / rows) - middle)[:, None] / np.float32(height)
    x = (np.arange(columns, dtype=np.float32) / columns)[None] / np.float32(depth)
    distance = np.sqrt(y * y + x * x)
    pixels = np.clip((1 - distance) * 12, 0, 1)  # skin: dark within a twelfth of the depth
    tissue = sum(
        (np.float32(0.5 ** (at + 1)) * _noise(rows, columns, cells, random) for at, cells in enumerate(_TEXTURE_CELLS)),
        start=np.zeros((1, 1), dtype=np.float32),
    )
    gland = np.clip(1.1 - 1.2 * distance, 0, 1) * np.float32(random.uniform(*_DENSITY))
    inside = pixels
    pixels = inside * (0.3 + 0.35 * gland * tissue + 0.1 * tissue)
    for _ in range(int(random.integers(*_ISLANDS))):
        _add_island(pixels, inside, (rows * middle, rows * height, columns * depth), random)
    if view == "MLO":
        muscle = np.clip((0.34 - x * np.float32(depth) - 0.55 * (y * np.float32(height) + middle)) * 15, 0, 1)
        pixels += muscle * np.float32(0.15) * (distance < 1.2)  # noqa: PLR2004 — reaches a little above the breast
    row = column = radius = -1
    if finding != "normal":
        angle, share = random.uniform(-0.9, 0.9), random.uniform(0.3, 0.6)
        row = round(rows * (middle + height * share * np.sin(angle)))
        column = round(columns * depth * share * np.cos(angle))
        radius = max(3, round(rows * random.uniform(0.025, 0.045)))
        _add(pixels, finding, (row, column), radius, random)
    pixels += random.standard_normal((rows, columns), dtype=np.float32) * _GRAIN * (pixels > 0)
    return Drawing(pixels=np.clip(pixels, 0, 1).astype(np.float32, copy=False), row=row, column=column, radius=radius)


def _noise(rows: int, columns: int, cells: int, random: np.random.Generator) -> Image:
    """Smooth noise from 0 to 1: random values on a grid, interpolated linearly."""
    side = max(rows, columns)
    grid = random.random((cells + 2, cells + 2), dtype=np.float32)
    down, across = (np.arange(count, dtype=np.float32) * (cells / side) for count in (rows, columns))
    right = across.astype(np.int64)
    part = (across - right)[None]
    wide = grid[:, right] * (1 - part) + grid[:, right + 1] * part
    noise = np.empty((rows, columns), dtype=np.float32)
    for at in range(0, rows, _BAND):
        here = down[at : at + _BAND]
        top = here.astype(np.int64)
        share = (here - top)[:, None]
        noise[at : at + _BAND] = wide[top] * (1 - share) + wide[top + 1] * share
    return noise


def _add(pixels: Image, finding: Finding, centre: tuple[int, int], radius: int, random: np.random.Generator) -> None:
    if finding == "mass":
        _blob(pixels, centre, radius, random.uniform(*_MASS_BRIGHTNESS))
        return
    brightness = random.uniform(*_CALCIFICATION_BRIGHTNESS)
    for _ in range(int(random.integers(12, 24))):
        angle, far = random.uniform(0, 2 * np.pi), radius * np.sqrt(random.uniform(0, 1))
        place = round(centre[0] + far * np.sin(angle)), round(centre[1] + far * np.cos(angle))
        _blob(pixels, place, max(1, round(radius * random.uniform(0.06, 0.12))), brightness)


def _add_island(pixels: Image, inside: Image, breast: tuple[float, float, float], random: np.random.Generator) -> None:
    """A soft patch within the breast; `breast`: its middle row, half its height, its depth."""
    middle, height, depth = breast
    angle, share = random.uniform(-1.2, 1.2), random.uniform(0.2, 0.6)
    row, column = middle + height * share * np.sin(angle), depth * share * np.cos(angle)
    turn, length = random.uniform(0, np.pi), height * random.uniform(0.12, 0.3)
    width = length * random.uniform(0.25, 0.5)
    reach = round(2.5 * length)
    top, left = max(0, round(row) - reach), max(0, round(column) - reach)
    part = pixels[top : round(row) + reach, left : round(column) + reach]
    down, across = np.ogrid[top : top + part.shape[0], left : left + part.shape[1]]
    down, across = (down - row).astype(np.float32), (across - column).astype(np.float32)
    along = (down * np.float32(np.sin(turn)) + across * np.float32(np.cos(turn))) / np.float32(length)
    beside = (across * np.float32(np.sin(turn)) - down * np.float32(np.cos(turn))) / np.float32(width)
    shape = np.exp(-2 * (along * along + beside * beside))
    part += (
        np.float32(random.uniform(0.08, 0.22)) * shape * inside[top : top + part.shape[0], left : left + part.shape[1]]
    )


def _blob(pixels: Image, centre: tuple[int, int], radius: int, brightness: float) -> None:
    """A bright spot that falls off smoothly to 0 at 1.5 radii."""
    reach = radius + radius // 2 + 1
    top, left = max(0, centre[0] - reach), max(0, centre[1] - reach)
    part = pixels[top : centre[0] + reach + 1, left : centre[1] + reach + 1]
    down, across = np.ogrid[top : top + part.shape[0], left : left + part.shape[1]]
    far = np.hypot(down - centre[0], across - centre[1]) / radius
    part += (brightness * np.clip((1.5 - far) * 2, 0, 1)).astype(np.float32)
