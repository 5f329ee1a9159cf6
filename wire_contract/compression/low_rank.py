"""Matrices as low-rank factors: FedKD's dynamic compression as published, and factors for `rate_search.py`.

Wu et al. 2022, "Communication-efficient federated learning via knowledge distillation", doi 10.1038/s41467-022-29763-x:
a gradient matrix (P, Q) is sent as its K largest singular values and their vectors, K the smallest with
Σ_{1..K} σ² ≥ T·Σσ², where PK + K + KQ < PQ; T rises linearly over the training. Here each left vector is
sent multiplied by its singular value, which saves K numbers under the same condition.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Literal

import numpy as np

from wire_contract.encoding import EncodedTensor, LowRank, check_encodable
from wire_contract.encoding.dense import DenseTensor, as_float16, as_float32, as_int4, as_int8
from wire_contract.encoding.gap_coded import encode_levels
from wire_contract.encoding.low_rank import RANK_MAX
from wire_contract.layout import Layout, TensorSpec, Vector

FactorName = Literal["float32", "float16", "int8", "int4"]

_ENCODERS: Mapping[FactorName, Callable[[Vector], DenseTensor]] = {
    "float32": as_float32,
    "float16": as_float16,
    "int8": as_int8,
    "int4": as_int4,
}


def energy_at(progress: float, *, start: float = 0.95, end: float = 0.98) -> float:
    """The share of energy to keep at `progress` (0 to 1) of the training: T of the paper, linear."""
    return start + (end - start) * min(max(progress, 0.0), 1.0)


def low_rank_by_energy(
    vector: Vector, layout: Layout, energy: float, factors: FactorName = "float32"
) -> tuple[EncodedTensor, ...]:
    """Encodes each matrix with the smallest rank that keeps the share `energy` of Σσ², if that is smaller than float32.

    All other tensors are float32; a tensor of zeros, which has rank 0, is a gap-coded entry.

    Args:
        vector: (layout.size,)
        layout: a tensor with more than two dimensions is treated as a matrix (shape[0], product of the others).
        energy: 0 < T ≤ 1
        factors: the encoding of the factors.

    Raises:
        EncodeError: a value is not finite.
        ValueError: `energy` is out of range.
    """
    if not 0 < energy <= 1:
        raise ValueError(f"energy: {energy} is not within 0 and 1")
    check_encodable(vector, layout)
    return tuple(
        _by_energy(vector[start:stop], spec, energy, factors)
        for spec, (start, stop) in zip(layout.tensors, layout.bounds, strict=True)
    )


def _by_energy(values: Vector, spec: TensorSpec, energy: float, factors: FactorName) -> EncodedTensor:
    if not values.any():
        return encode_levels(np.zeros(spec.size, dtype=np.int64), [0], [spec.size])
    rows, columns = matrix_shape(spec)
    if min(rows, columns) > 1:
        left, sigma, right = decompose(values.reshape(rows, columns))
        kept = np.cumsum(sigma**2)
        # At most all of them: by rounding, even the sum of all may stay below the requested share.
        rank = min(int(np.searchsorted(kept, energy * kept[-1])) + 1, sigma.size)
        if rank * (rows + 1 + columns) < rows * columns and rank <= RANK_MAX:
            return _factored(left[:, :rank] * sigma[:rank], right[:rank], _ENCODERS[factors])
    return as_float32(values)


def matrix_shape(spec: TensorSpec) -> tuple[int, int]:
    """(rows, columns) of a tensor as a matrix; one row if it is none."""
    if len(spec.shape) < 2:  # noqa: PLR2004 — dimensions of a matrix
        return 1, spec.size
    return spec.shape[0], spec.size // spec.shape[0]


def decompose(matrix: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """SVD in float64: left vectors (rows, K), falling singular values (K,), right vectors (K, columns)."""
    left, sigma, right = np.linalg.svd(matrix.astype(np.float64), full_matrices=False)
    return left, sigma, right


def balanced_factors(matrix: np.ndarray, tried: Sequence[int]) -> Iterator[LowRank]:
    """Yields `matrix` (rows, columns) as factors of each rank in `tried`, in int4 and in int8.

    Both factors are scaled by the square root of each singular value.
    """
    if not tried:
        return
    # The eigenvectors of AAᵀ are the left singular vectors of A, in a third of the time. The loss of accuracy, in
    # singular values below 10⁻⁷ of the first, is far below the quantisation steps of the factors.
    flat = matrix if matrix.shape[0] <= matrix.shape[1] else matrix.T
    energies, vectors = np.linalg.eigh(flat @ flat.T)
    vectors = vectors[:, ::-1][:, : max(tried)]
    root = np.maximum(energies[::-1][: max(tried)], energies[-1] * 1e-14) ** 0.25
    left, right = vectors * root, vectors.T @ flat / root[:, None]
    if flat is not matrix:
        left, right = right.T, left.T
    for rank in tried:
        for name in ("int4", "int8"):
            yield _factored(left[:, :rank], right[:rank], _ENCODERS[name])


def ranks(rank_max: int) -> list[int]:
    """Ranks worth trying, about a factor of √2 apart."""
    return [rank for rank in (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128, 192, 256) if rank <= rank_max]


def _factored(left: np.ndarray, right: np.ndarray, encoder: Callable[[Vector], DenseTensor]) -> LowRank:
    parts: list[DenseTensor] = [encoder(np.ascontiguousarray(part, dtype=np.float32).ravel()) for part in (left, right)]
    return LowRank(right.shape[0], left.shape[0], *parts)
