"""Tells copies of a film, whatever their tags, file and transfer syntax: a hash of its stored values."""

from typing import Any

import numpy as np
import numpy.typing as npt

from device_client.data.leakage import pixel_hash

_GRID_PIXELS_MIN = 1 << 20
"""From so many pixels on, only those of a grid are compared: 100,000 values of a film of this size, which no two films
have in common, in a tenth of the time."""
_GRID_STEP = 8


def film_hash(stored: npt.NDArray[Any], *, inverted: bool) -> bytes:
    """The same for the 8 rotations and mirrors of a film, for MONOCHROME1 and 2, and for any other scale of values.

    Args:
        stored: values (row, column) as they stand in the file.
        inverted: whether high values are dark.

    Returns:
        16 bytes; none for a film of one value.
    """
    values = stored
    if stored.size >= _GRID_PIXELS_MIN:
        values = stored[np.ix_(*(_places(count) for count in stored.shape))]
    return pixel_hash(np.invert(values) if inverted else values) or b""


def _places(count: int) -> npt.NDArray[np.int64]:
    """Every eighth place counted from both ends, so that turned and mirrored films have the same ones."""
    one = np.arange(0, count, _GRID_STEP)
    return np.unique(np.concatenate([one, count - 1 - one]))
