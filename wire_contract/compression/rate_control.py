"""Rate control: the smallest error within a byte budget, or the smallest message within an error bound.

Every tensor is encoded so that D + λ·R, its squared error plus λ times its bits, is minimal, among: zeros, levels
(gap-coded), int4, int8, float16, float32 and low-rank factors (`rate_search.py`). λ is searched for the target size or
error; then the message is encoded and measured, and the search is repeated with the difference corrected.
"""

from dataclasses import dataclass

import numpy as np

from wire_contract.compression.low_rank import energy_at, low_rank_by_energy
from wire_contract.compression.rate_search import RateSearch, encoded_bytes
from wire_contract.compression.top_k import top_k
from wire_contract.encoding import EncodedTensor, GapCoded, check_encodable, decode_vector
from wire_contract.encoding.dense import as_float32
from wire_contract.encoding.entropy import EntropyBits, entropy_bits
from wire_contract.errors import EncodeError
from wire_contract.layout import Layout, Vector

__all__ = [
    "CompressionTarget",
    "EntropyBits",
    "encode_to_target",
    "encoded_bytes",
    "energy_at",
    "entropy_bits",
    "low_rank_by_energy",
    "relative_error",
    "top_k",
]

Entries = tuple[EncodedTensor, ...]

_AIM = 0.994
_FILL, _FILL_LATER = 0.98, 0.95
"""The share of the allowed size (or error) that an attempt aims at, and the share that is close enough: in the first
attempts, and later. Chosen, not measured: the expected size is an estimate, so a higher aim overshoots and wastes an
attempt, a lower one wastes bytes."""

_AIM_HIGH_RATE = 0.985
"""The aim of the first attempt at a high rate, where only other scales change the size: the encoded size may be up to
1.5 % above the expected one."""

_ATTEMPTS, _ATTEMPTS_FILL = 8, 2
"""Attempts in all, and those in which `_FILL` counts. Chosen, not measured: each one encodes the message again."""


@dataclass(frozen=True, kw_only=True)
class CompressionTarget:
    """A byte budget or an error bound for one message; exactly one of the two is set.

    Raises:
        ValueError: both or none are set, or one is outside its bounds.
    """

    bytes_max: int | None = None
    """Size of all tensors of a message together, as msgpack."""
    error_max: float | None = None
    """‖x - decoded‖ / ‖x‖, 0 < error_max < 1."""
    low_rank: bool = False
    """Whether to try low-rank factors. Off by default: for students' updates they take 10 to 100 ms each, and gave no
    better accuracy than levels of the same size."""

    def __post_init__(self) -> None:
        if (self.bytes_max is None) == (self.error_max is None):
            raise ValueError(
                f"plan: exactly one of bytes_max ({self.bytes_max}) and error_max ({self.error_max}) is to be set"
            )
        if self.bytes_max is not None and self.bytes_max < 1:
            raise ValueError(f"plan: bytes_max {self.bytes_max} is below 1")
        if self.error_max is not None and not 0 < self.error_max < 1:
            raise ValueError(f"plan: error_max {self.error_max} is not between 0 and 1")


def encode_to_target(vector: Vector, layout: Layout, target: CompressionTarget) -> tuple[EncodedTensor, ...]:
    """Encodes `vector` (layout.size,) within the target; deterministic.

    Raises:
        EncodeError: a value is not finite, or even a message of zeros is larger than `bytes_max`.
        LayoutError: the vector does not fit the layout.
    """
    check_encodable(vector, layout)
    if not layout.tensors:
        return ()
    zeros: Entries = (GapCoded(len(layout.tensors), bytes((len(layout.tensors) + 7) // 8)),)
    if target.bytes_max is not None and encoded_bytes(zeros) > target.bytes_max:
        raise EncodeError(
            f"plan: {target.bytes_max} bytes are too few; a message of zeros takes {encoded_bytes(zeros)}"
        )
    if not vector.any():
        return zeros
    search = RateSearch(vector, layout)
    if target.bytes_max is not None:
        return _within_bytes(search, target.bytes_max, zeros, low_rank=target.low_rank)
    assert target.error_max is not None
    return _within_error(search, target.error_max, low_rank=target.low_rank)


def relative_error(vector: Vector, decoded: Vector) -> float:
    """‖x - decoded‖ / ‖x‖; 0 for a vector of zeros that is decoded as zeros."""
    exact = vector.astype(np.float64)
    difference, norm = float(np.linalg.norm(decoded - exact)), float(np.linalg.norm(exact))
    return difference / norm if norm else float(difference > 0)


def _within_bytes(search: RateSearch, bytes_max: int, best: tuple[EncodedTensor, ...], *, low_rank: bool) -> Entries:
    """The largest message found up to `bytes_max`; `best`, a message of zeros, if no other fits."""
    size_best = size = 0
    target = _bits_left(bytes_max, search)
    target *= _AIM_HIGH_RATE if search.is_high_rate(target) else _AIM
    price: float | None = None
    point = None
    for attempt in range(_ATTEMPTS):
        if point is None:
            point = search.with_bits(target, price)
            if low_rank and search.add_factors(point):
                point = search.with_bits(target, point.price)
            low_rank = False
        else:
            point = search.moved_to_bits(point, target)
        tensors = search.encode(point)
        size_before, size = size, encoded_bytes(tensors)
        if size_best < size <= bytes_max:
            best, size_best = tensors, size
        filled = size_best >= (_FILL if attempt < _ATTEMPTS_FILL - 1 else _FILL_LATER) * bytes_max
        if filled or (size <= bytes_max and (size == size_before or point.distortion == 0)):
            break
        bits, price = point.bits, point.chosen_at
        if not 0.97 * target < bits < 1.01 * target or search.is_high_rate(bits):
            point = None  # thresholds alone do not reach the target
        target = max(bits + 8 * (_AIM * bytes_max - size), target / 4, 1.0)
    return best


def _bits_left(bytes_max: int, search: RateSearch) -> float:
    """Bits that remain for the tensors in a message of one gap-coded entry."""
    opening = encoded_bytes((GapCoded(len(search.layout.tensors), bytes(min(bytes_max, 65_536))),)) - min(
        bytes_max, 65_536
    )
    return max(8.0 * (bytes_max - opening) - 4, 1.0)


def _within_error(search: RateSearch, error_max: float, *, low_rank: bool) -> Entries:
    """The smallest message found up to `error_max`."""
    best: Entries = tuple(as_float32(search.vector[start:stop]) for start, stop in search.layout.bounds)
    size_best = encoded_bytes(best)
    error = 0.0
    wanted = (error_max * _AIM) ** 2 * search.energy
    point = None
    for _ in range(_ATTEMPTS):
        if point is None:
            point = search.with_distortion(wanted)
            if low_rank and search.add_factors(point):
                point = search.with_distortion(wanted, point.price)
            low_rank = False
        else:
            point = search.moved_to_distortion(point, wanted)
        tensors = search.encode(point)
        error_before, error = error, relative_error(search.vector, decode_vector(tensors, search.layout))
        size = encoded_bytes(tensors)
        if error <= error_max and size < size_best:
            best, size_best = tensors, size
        if error <= error_max and (error >= _FILL * error_max or error == error_before or point.distortion == 0):
            break
        if not 0.9 * wanted < point.distortion < 1.01 * wanted:
            point = None  # thresholds alone do not reach the target
        wanted *= min(max((error_max * _AIM / max(error, 1e-12)) ** 2, 0.25), 4.0)
    return best
