"""How a sender encodes running statistics: float16 where that is accurate enough, else float32.

They are few beside the weights, but their magnitudes may differ from those of weights by orders of magnitude. A planner
that minimises the squared error of both together would spend the whole budget on the largest of them; and a variance is
a small difference of two of them, so both are needed with many digits.

If they do not fit into their share of a byte budget, each message has those of some layers only, in turns. The others
are zeros, which mean "not measured" in an update, and "no change" in a delta.
"""

from itertools import groupby

import numpy as np

from wire_contract.compression.rate_search import encoded_bytes
from wire_contract.encoding import EncodedTensor, GapCoded
from wire_contract.encoding.dense import as_float16, as_float32
from wire_contract.encoding.statistics import variance_of
from wire_contract.layout import Layout, Vector

_ERROR_MAX = 0.01
"""Largest relative error of a variance in float16: far below how much variances of two batches differ. Chosen, not
measured."""
_EPSILON = 1e-5
"""What torch adds to a variance by default; smaller variances need not be exact."""
_FLOAT16_MAX = 65_504.0


def encode_statistics(
    vector: Vector, layout: Layout, *, bytes_max: int | None, exact: bool, as_values: bool, version: int
) -> tuple[EncodedTensor, ...]:
    """Encodes the running statistics in `vector` (layout.size,).

    Args:
        vector: finite.
        layout: of the vector; it has statistics.
        bytes_max: size of the entries, at most; None: no limit. Entries of zeros are written even if it is smaller.
        exact: always float32.
        as_values: whether they are values, whose variances have to be accurate, and not differences.
        version: of the base; decides whose turn it is.
    """
    count, first = len(layout.pairs), len(layout.of_weights.tensors)
    encoded: list[EncodedTensor | None] = [None] * (2 * count)
    left = bytes_max
    for turn in range(count):
        pair = (version + turn) % count
        mean, moment = (vector[slice(*layout.bounds[first + at])] for at in (pair, count + pair))
        entries = _encode_pair(mean, moment, exact=exact, as_values=as_values)
        size = encoded_bytes(entries)
        if left is not None and size > left:
            continue
        left = None if left is None else left - size
        encoded[pair], encoded[count + pair] = entries
    tensors: list[EncodedTensor] = []
    for is_zero, group in groupby(encoded, lambda entry: entry is None):
        entries_of_group = list(group)
        zeros = len(entries_of_group)
        found = [entry for entry in entries_of_group if entry is not None]
        tensors += [GapCoded(zeros, bytes((zeros + 7) // 8))] if is_zero else found
    return tuple(tensors)


def _encode_pair(mean: Vector, moment: Vector, *, exact: bool, as_values: bool) -> tuple[EncodedTensor, EncodedTensor]:
    if not exact and max(np.abs(mean).max(), np.abs(moment).max()) < _FLOAT16_MAX:
        if not as_values:
            return as_float16(mean), as_float16(moment)
        variance = variance_of(mean, moment)
        short_mean = mean.astype(np.float16).astype(np.float64)
        # For the mean as it arrives, so that its rounding does not change the variance.
        short_moment = (variance + short_mean**2).astype(np.float16).astype(np.float64)
        error = np.abs(short_moment - short_mean**2 - variance)
        if (error <= _ERROR_MAX * (variance + _EPSILON)).all():
            return as_float16(short_mean.astype(np.float32)), as_float16(short_moment.astype(np.float32))
    return as_float32(mean), as_float32(moment)
