"""A matrix as the product of two thin ones.

    ["lr", rank, rows, left, right]     value[i, j] = Σ left[i, r] · right[r, j]

`rows` divides the tensor's element count n; columns = n / rows. `left` is (rows, rank) and `right` is (rank, columns),
both in C order, each a dense encoding of its own ("f4", "f2", "i1" or "i4"). 1 ≤ rank ≤ min(rows, columns), and at
most 256.

Every product and every sum is rounded to float32, in the order of rising r, beginning with the product of r = 0, never
fused. So the result has the same bits on every machine, unlike the matrix product of a linear algebra library.

Refused: rows that do not divide n, a rank out of range, and what the encodings of the factors refuse.
"""

import msgspec
import numpy as np

from wire_contract.encoding.dense import DenseTensor
from wire_contract.errors import DecodeError
from wire_contract.layout import Vector

RANK_MAX = 256
"""Decoding time grows with the rank, and a large rank of zeros would take only a few bytes after LZ4."""

_BLOCK_ELEMENTS = 16_384
"""The matrix is computed in blocks of rows of this size, which stay in the cache."""


class LowRank(msgspec.Struct, frozen=True, array_like=True, tag="lr", forbid_unknown_fields=True):
    """A matrix as rank · (rows + columns) numbers instead of rows · columns."""

    rank: int
    rows: int
    left: DenseTensor
    right: DenseTensor

    def decode_into(self, out: Vector) -> None:
        if self.rows < 1 or out.size % self.rows:
            raise DecodeError(f"low rank: {self.rows} rows do not divide {out.size} elements")
        columns = out.size // self.rows
        if not 1 <= self.rank <= min(self.rows, columns, RANK_MAX):
            raise DecodeError(
                f"low rank: rank {self.rank} of {self.rows} x {columns} is not within 1 and "
                f"{min(self.rows, columns, RANK_MAX)}"
            )
        left, right = self._factor("left", self.rows), self._factor("right", columns)
        _product_into(left.reshape(self.rows, self.rank), right.reshape(self.rank, columns), out)

    def _factor(self, name: str, length: int) -> Vector:
        factor: Vector = np.empty(length * self.rank, dtype=np.float32)
        try:
            (self.left if name == "left" else self.right).decode_into(factor)
        except DecodeError as error:
            raise DecodeError(f"low rank, {name} factor: {error}") from None
        return factor


def _product_into(left: np.ndarray, right: np.ndarray, out: Vector) -> None:
    """Multiplies `left` (rows, rank) by `right` (rank, columns), term by term, into `out`."""
    rows, rank = left.shape
    matrix = out.reshape(rows, -1)
    block = max(1, _BLOCK_ELEMENTS // matrix.shape[1])
    with np.errstate(all="ignore"):  # admission refuses values that are not finite
        for start in range(0, rows, block):
            stretch = slice(start, start + block)
            np.multiply(left[stretch, 0, None], right[0], out=matrix[stretch])
            for term in range(1, rank):
                matrix[stretch] += left[stretch, term, None] * right[term]
