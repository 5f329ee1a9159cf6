"""How near the gap-coded entries of a message are to the entropy of what they say."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from wire_contract.encoding.dense import Float16, Float32, Int4, Int8
from wire_contract.encoding.gap_coded import GapCoded
from wire_contract.encoding.heads import read_heads
from wire_contract.encoding.low_rank import LowRank
from wire_contract.layout import Layout


@dataclass(frozen=True)
class EntropyBits:
    """Of all gap-coded entries of one message."""

    elements: int
    """Of the tensors that they cover."""
    entropy: float
    """Zeroth-order entropy of the symbols with the frequencies they have in each tensor: layers and signs."""
    symbols: int
    """Bits that the symbols take: layers, signs and the filling of the last byte."""
    heads: int
    """Bits of the heads; the entropy knows nothing of them."""


def entropy_bits(
    tensors: Sequence[Float32 | Float16 | Int8 | Int4 | LowRank | GapCoded], layout: Layout
) -> EntropyBits:
    """What the gap-coded entries of `tensors` take, and what no code of single symbols could go below.

    Raises:
        DecodeError: an entry's heads are broken.
    """
    elements = symbols = heads_bits = 0
    entropy = 0.0
    first = 0
    for tensor in tensors:
        after = first + (tensor.span if isinstance(tensor, GapCoded) else 1)
        if isinstance(tensor, GapCoded):
            sizes = [spec.size for spec in layout.tensors[first:after]]
            heads, bits = read_heads(tensor.data, sizes)
            elements += sum(sizes)
            heads_bits += bits
            symbols += 8 * len(tensor.data) - bits
            entropy += sum(_entropy(size, head.layers) for size, head in zip(sizes, heads, strict=True))
        first = after
    return EntropyBits(elements, entropy, symbols, heads_bits)


def _entropy(size: int, layers: tuple[int, ...]) -> float:
    """Of one tensor: n·h(k1/n) + k1 + Σ k_j·h(k_{j+1}/k_j)."""
    counts = np.array([size, *layers, 0], dtype=np.float64)
    levels = -np.diff(counts)  # how many zeros, ones, twos, …
    present = levels[levels > 0]
    return float((present * np.log2(size / present)).sum()) + (layers[0] if layers else 0)
