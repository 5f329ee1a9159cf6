"""The largest elements only: the plain baseline that other compressions are held against."""

import numpy as np

from wire_contract.encoding import EncodedTensor, check_encodable
from wire_contract.encoding.gap_coded import code_levels
from wire_contract.encoding.scales import nearest_exponent, scales_of
from wire_contract.layout import Layout, Vector

LEVELS = 15


def top_share(vector: Vector, layout: Layout, share: float) -> tuple[EncodedTensor, ...]:
    """The `share` of all elements with the largest magnitudes, in up to 15 levels of each tensor's peak.

    Of equal magnitudes at the border the first ones are kept.

    Raises:
        EncodeError: a value is not finite.
        LayoutError: the vector does not fit the layout.
        ValueError: `share` is not within 0 and 1.
    """
    if not 0 <= share <= 1:
        raise ValueError(f"share: {share} is not within 0 and 1")
    check_encodable(vector, layout)
    if not layout.tensors:
        return ()
    magnitudes = np.abs(vector)
    kept = _largest(magnitudes, round(share * vector.size))
    levels = np.zeros(vector.size, dtype=np.int64)
    stops = kept.searchsorted([stop for _, stop in layout.bounds])
    exponents = []
    for first, after in zip([0, *stops[:-1]], stops, strict=True):
        places = kept[first:after]
        values = vector[places].astype(np.float64)
        # The largest of a tensor is kept before any other of it.
        peak = float(magnitudes[places].max(initial=0.0))
        exponents.append(nearest_exponent(peak / LEVELS) if peak else 0)
        scale = float(scales_of(exponents[-1:])[0])
        levels[places] = np.sign(values) * np.clip(np.rint(np.abs(values) / scale), 1, LEVELS)
    return (code_levels(levels, exponents, layout.sizes),)


def _largest(magnitudes: Vector, count: int) -> np.ndarray:
    """(count,) places of the largest, rising; the first ones of equals."""
    if not count:
        return np.zeros(0, dtype=np.int64)
    border = np.partition(magnitudes, magnitudes.size - count)[magnitudes.size - count]
    above = (magnitudes > border).nonzero()[0]
    equal = (magnitudes == border).nonzero()[0][: count - above.size]
    return np.sort(np.concatenate((above, equal)))
