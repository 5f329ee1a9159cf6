"""Matrices as low-rank factors: FedKD's dynamic compression as published, and the factors a byte plan may choose.

Wu et al. 2022, "Communication-efficient federated learning via knowledge distillation", doi 10.1038/s41467-022-29763-x:
a gradient matrix (P, Q) is sent as its K largest singular values and their vectors, K the smallest with
Σ_{1..K} σ² ≥ T·Σσ², where PK + K + KQ < PQ; T rises linearly over the training. Here each left vector travels times its
singular value, so K numbers fewer are sent under the same condition.
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
    """The share of energy to keep at `progress` 0 … 1 of the training: T of the paper, linear."""
    return start + (end - start) * min(max(progress, 0.0), 1.0)


def low_rank_by_energy(
    vector: Vector, layout: Layout, energy: float, factors: FactorName = "float32"
) -> tuple[EncodedTensor, ...]:
    """Each matrix as the fewest factors that keep the share `energy` of Σσ², where that is smaller; else as float32.

    What is no matrix is float32 too, and a tensor of zeros is one gap-coded entry: it has no rank to send.

    Args:
        vector: (layout.size,)
        layout: a tensor of more than two dimensions is the matrix (shape[0], all others).
        energy: 0 < T ≤ 1
        factors: the encoding of the factors.

    Raises:
        EncodeError: a value is not finite.
        ValueError: `energy` is not within its bounds.
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
        # The smallest K, though rounding may keep the sum of all below the last share asked for.
        rank = min(int(np.searchsorted(kept, energy * kept[-1])) + 1, sigma.size)
        if rank * (rows + 1 + columns) < rows * columns and rank <= RANK_MAX:
            return _factored(left[:, :rank] * sigma[:rank], right[:rank], _ENCODERS[factors])
    return as_float32(values)


def matrix_shape(spec: TensorSpec) -> tuple[int, int]:
    """(rows, columns) of a tensor as a matrix; one row where it is none."""
    if len(spec.shape) < 2:  # noqa: PLR2004 — dimensions of a matrix
        return 1, spec.size
    return spec.shape[0], spec.size // spec.shape[0]


def decompose(matrix: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Left vectors (rows, K), singular values (K,) falling, right vectors (K, columns), in float64."""
    left, sigma, right = np.linalg.svd(matrix.astype(np.float64), full_matrices=False)
    return left, sigma, right


def balanced_factors(matrix: np.ndarray, tried: Sequence[int]) -> Iterator[LowRank]:
    """`matrix` (rows, columns) in the ranks `tried`, in int4 and in int8; both take the root of each singular value."""
    if not tried:
        return
    # The eigenvectors of AAᵀ are the left vectors of A, in a third of the time. What is lost, a singular value below
    # 10⁻⁷ of the first, is far less than the steps of the factors.
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
    """Those worth a try, about a factor √2 apart."""
    return [rank for rank in (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128, 192, 256) if rank <= rank_max]


def _factored(left: np.ndarray, right: np.ndarray, encoder: Callable[[Vector], DenseTensor]) -> LowRank:
    parts: list[DenseTensor] = [encoder(np.ascontiguousarray(part, dtype=np.float32).ravel()) for part in (left, right)]
    return LowRank(right.shape[0], left.shape[0], *parts)
