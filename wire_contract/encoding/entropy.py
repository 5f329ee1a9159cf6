"""How close the gap-coded entries of a message are to the entropy of their symbols."""

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
    """Figures of all gap-coded entries of one message."""

    elements: int
    """Elements of the tensors that the entries cover."""
    entropy: float
    """Zeroth-order entropy of the symbols (levels and signs), with their frequencies in each tensor."""
    symbols: int
    """Bits of the symbols: layers, signs and the padding of the last byte."""
    heads: int
    """Bits of the heads, which the entropy does not include."""


def entropy_bits(
    tensors: Sequence[Float32 | Float16 | Int8 | Int4 | LowRank | GapCoded], layout: Layout
) -> EntropyBits:
    """The size of the gap-coded entries of `tensors`, and the lower bound of any code for single symbols.

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
    """Entropy of one tensor: n·h(k1/n) + k1 + Σ k_j·h(k_{j+1}/k_j)."""
    counts = np.array([size, *layers, 0], dtype=np.float64)
    levels = -np.diff(counts)  # how many zeros, ones, twos, …
    present = levels[levels > 0]
    return float((present * np.log2(size / present)).sum()) + (layers[0] if layers else 0)
