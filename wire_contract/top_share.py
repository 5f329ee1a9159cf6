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
    kept = np.zeros(vector.size, dtype=np.bool_)
    order = np.argsort(-np.abs(vector), kind="stable")
    kept[order[: round(share * vector.size)]] = True
    levels = np.zeros(vector.size, dtype=np.int64)
    exponents = []
    for start, stop in layout.bounds:
        values = vector[start:stop].astype(np.float64)
        peak = float(np.abs(values).max())
        exponents.append(nearest_exponent(peak / LEVELS) if peak else 0)
        scale = float(scales_of(exponents[-1:])[0])
        symbols = np.sign(values) * np.clip(np.rint(np.abs(values) / scale), 1, LEVELS)
        levels[start:stop] = np.where(kept[start:stop], symbols, 0)
    return (code_levels(levels, exponents, [spec.size for spec in layout.tensors]),)
