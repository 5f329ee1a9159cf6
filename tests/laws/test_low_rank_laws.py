"""Low-rank factors: as near as their rank and encoding let them be, the same bits everywhere, and total decoding."""

from collections.abc import Callable
from contextlib import suppress

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.laws.test_codec_laws import UPDATE
from tests.laws.wire import DENSE
from wire_contract.codec import decode, encode
from wire_contract.compression.low_rank import balanced_factors, energy_at, low_rank_by_energy
from wire_contract.encoding import Float16, Float32, GapCoded, Int4, Int8, LowRank, decode_vector
from wire_contract.encoding.dense import DenseTensor, as_float16, as_float32, as_int4, as_int8
from wire_contract.encoding.low_rank import RANK_MAX
from wire_contract.errors import DecodeError, EncodeError
from wire_contract.layout import Layout, TensorSpec, Vector
from wire_contract.messages import Update

SEEDS = st.integers(0, 2**32 - 1)


def one(*shape: int) -> Layout:
    return Layout((TensorSpec("a", shape),))


def matrix(rows: int, columns: int, rank: int, seed: int) -> Vector:
    """Of this rank at most, float32."""
    chance = np.random.default_rng(seed)
    product = chance.normal(size=(rows, rank)) @ chance.normal(size=(rank, columns))
    return product.astype(np.float32).ravel()


@given(SEEDS, st.integers(1, 9), st.integers(1, 9), st.integers(1, 5))
def test_the_product_is_summed_term_by_term_in_float32(seed: int, rows: int, columns: int, rank: int) -> None:
    rank = min(rank, rows, columns)
    chance = np.random.default_rng(seed)
    left = chance.normal(size=(rows, rank)).astype(np.float32)
    right = chance.normal(size=(rank, columns)).astype(np.float32)
    entry = LowRank(rank, rows, as_float32(left.ravel()), as_float32(right.ravel()))
    decoded = decode_vector((entry,), one(rows, columns)).reshape(rows, columns)
    for row in range(rows):
        for column in range(columns):
            total = left[row, 0] * right[0, column]
            for term in range(1, rank):
                total = np.float32(total + np.float32(left[row, term] * right[term, column]))
            assert decoded[row, column] == total


def test_a_matrix_longer_than_one_stretch_is_whole() -> None:
    left, right = matrix(700, 2, 2, 0).reshape(700, 2), matrix(2, 90, 2, 1).reshape(2, 90)
    entry = LowRank(2, 700, as_float32(left.ravel()), as_float32(right.ravel()))
    expected = left[:, :1] * right[:1] + left[:, 1:] * right[1:]
    assert (decode_vector((entry,), one(700, 90)).reshape(700, 90) == expected).all()


@pytest.mark.parametrize(
    ("encoder", "step"), [(as_float32, 2.0**-22), (as_float16, 2.0**-10), (as_int8, 1 / 127), (as_int4, 1 / 7)]
)
@given(seed=SEEDS, rank=st.integers(1, 4))
def test_factors_are_as_near_as_their_encoding(
    encoder: Callable[[Vector], DenseTensor], step: float, seed: int, rank: int
) -> None:
    chance = np.random.default_rng(seed)
    left = chance.uniform(-1, 1, size=(6, rank)).astype(np.float32)
    right = chance.uniform(-1, 1, size=(rank, 8)).astype(np.float32)
    entry = LowRank(rank, 6, encoder(left.ravel()), encoder(right.ravel()))
    decoded = decode_vector((entry,), one(6, 8)).reshape(6, 8)
    # Each factor is off by half a step of at most 1: |ab - a'b'| ≤ |a|·|b - b'| + |b'|·|a - a'|.
    assert (np.abs(decoded - left.astype(np.float64) @ right) <= rank * (step + step**2 / 4) + 1e-6).all()


@given(st.integers(-3, 400), st.integers(-3, 40), DENSE, DENSE, st.integers(1, 40))
def test_any_factors_decode_or_are_refused(
    rank: int, rows: int, left: DenseTensor, right: DenseTensor, size: int
) -> None:
    with suppress(DecodeError):
        decode_vector((LowRank(rank, rows, left, right),), one(size))


@pytest.mark.parametrize("rows", [0, -1, 5, 13, 2**62])
def test_rows_that_do_not_divide_the_tensor_are_refused(rows: int) -> None:
    with pytest.raises(DecodeError, match="do not divide 12"):
        decode_vector((LowRank(1, rows, Float32(b""), Float32(b"")),), one(12))


@pytest.mark.parametrize("rank", [0, -1, 4, 2**62])
def test_a_rank_outside_its_bounds_is_refused(rank: int) -> None:
    with pytest.raises(DecodeError, match="of 3 x 4 is not within 1 and 3"):
        decode_vector((LowRank(rank, 3, Float32(b""), Float32(b"")),), one(12))


def test_a_rank_over_the_largest_is_refused() -> None:
    side = RANK_MAX + 1
    zeros = Int4(0.0, bytes((side * side + 1) // 2))
    with pytest.raises(DecodeError, match=f"rank {side} .* 1 and {RANK_MAX}"):
        decode_vector((LowRank(side, side, zeros, zeros),), one(side * side))


def test_factors_that_are_no_dense_encoding_are_refused() -> None:
    inner = LowRank(1, 2, Int8(1.0, b"\1\1"), Int8(1.0, b"\1\1"))
    for factor in (inner, GapCoded(1, b"\0")):
        broken = Update(**{**_fields(UPDATE), "tensors": (LowRank(1, 2, factor, Int8(1.0, b"\1\1")),)})  # type: ignore[arg-type]
        with pytest.raises(DecodeError, match="not known here"):
            decode(encode(broken), Update)


@given(SEEDS, st.sampled_from(["float32", "float16", "int8", "int4"]))
def test_an_update_of_factors_comes_back(seed: int, factors: str) -> None:
    layout = Layout((TensorSpec("a", (8, 9)), TensorSpec("b", (4,))))
    vector = np.concatenate((matrix(8, 9, 2, seed), matrix(4, 1, 1, seed)))
    tensors = low_rank_by_energy(vector, layout, 0.99, factors)  # type: ignore[arg-type]
    assert isinstance(tensors[0], LowRank)
    update = decode(encode(Update(**{**_fields(UPDATE), "tensors": tensors})), Update)
    assert update.tensors == tensors
    assert decode_vector(update.tensors, layout).tobytes() == decode_vector(tensors, layout).tobytes()


def _fields(update: Update) -> dict[str, object]:
    return {name: getattr(update, name) for name in update.__struct_fields__}


class TestByEnergy:
    """FedKD's dynamic low-rank compression."""

    @given(SEEDS, st.floats(0.5, 0.999), st.integers(2, 30), st.integers(2, 30))
    def test_it_keeps_the_energy_asked_for_in_the_fewest_factors(
        self, seed: int, energy: float, rows: int, columns: int
    ) -> None:
        values = matrix(rows, columns, min(rows, columns), seed)
        sigma = np.linalg.svd(values.reshape(rows, columns).astype(np.float64), compute_uv=False)
        shares = np.cumsum(sigma**2) / np.sum(sigma**2)
        rank = int(np.flatnonzero(shares >= energy - 1e-12)[0]) + 1
        (entry,) = low_rank_by_energy(values, one(rows, columns), energy)
        if rows * rank + rank + rank * columns < rows * columns:
            assert isinstance(entry, LowRank)
            assert entry.rank == rank
        else:
            assert isinstance(entry, Float32)
        lost = decode_vector((entry,), one(rows, columns)) - values
        assert float((lost.astype(np.float64) ** 2).sum()) <= (1 - energy + 1e-5) * float((sigma**2).sum())

    def test_what_has_more_dimensions_is_a_matrix_of_its_first_one(self) -> None:
        values = matrix(10, 24, 1, 0)
        (entry,) = low_rank_by_energy(values, one(10, 4, 3, 2), 0.95)
        assert isinstance(entry, LowRank)
        assert (entry.rank, entry.rows) == (1, 10)

    @pytest.mark.parametrize("side", [8, 20])
    def test_a_flat_spectrum_is_sent_whole(self, side: int) -> None:
        # The public FedKD code sends nothing at all here.
        values = np.eye(side, dtype=np.float32).ravel()
        (entry,) = low_rank_by_energy(values, one(side, side), 0.98)
        assert isinstance(entry, Float32)
        assert (decode_vector((entry,), one(side, side)) == values).all()

    @pytest.mark.parametrize("shape", [(40, 6), (6, 40), (2, 50), (50, 2), (5, 4, 3), (12,), (1, 30), (30, 1), ()])
    def test_tall_wide_and_small_tensors_all_come_back_in_shape(self, shape: tuple[int, ...]) -> None:
        # The public FedKD code raises a shape error where rows and columns differ the wrong way round.
        layout = one(*shape)
        values = np.linspace(1, 2, layout.size, dtype=np.float32)
        decoded = decode_vector(low_rank_by_energy(values, layout, 0.999), layout)
        assert np.linalg.norm(decoded - values) <= np.sqrt(0.0011) * np.linalg.norm(values)

    def test_zeros_are_sent_as_nothing(self) -> None:
        (entry,) = low_rank_by_energy(np.zeros(60, dtype=np.float32), one(6, 10), 0.95)
        assert entry == GapCoded(1, b"\0")

    @pytest.mark.parametrize("energy", [0.0, -1.0, 1.1, float("nan")])
    def test_an_energy_that_is_no_share_is_refused(self, energy: float) -> None:
        with pytest.raises(ValueError, match="energy"):
            low_rank_by_energy(np.ones(4, dtype=np.float32), one(2, 2), energy)

    def test_what_is_not_finite_is_not_encoded(self) -> None:
        with pytest.raises(EncodeError, match="not finite"):
            low_rank_by_energy(np.array([1, np.inf, 0, 0], dtype=np.float32), one(2, 2), 0.95)

    def test_the_share_rises_linearly(self) -> None:
        assert [energy_at(progress) for progress in (-1, 0, 0.5, 1, 2)] == pytest.approx(
            [0.95, 0.95, 0.965, 0.98, 0.98]
        )
        assert energy_at(0.5, start=0.5, end=0.7) == pytest.approx(0.6)


def test_balanced_factors_have_peaks_of_like_size() -> None:
    values = matrix(20, 30, 3, 0).reshape(20, 30).astype(np.float64)
    entries = list(balanced_factors(values, [1, 3]))
    assert [(entry.rank, type(entry.left)) for entry in entries] == [(1, Int4), (1, Int8), (3, Int4), (3, Int8)]
    decoded = decode_vector((entries[-1],), one(20, 30)).reshape(20, 30)
    assert np.linalg.norm(decoded - values) < 0.02 * np.linalg.norm(values)
    assert not isinstance(entries[0].left, Float16)
