"""A plan's limit always holds, is used well, and what is sent is the same each time."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.laws.wire import LAYOUTS, vectors
from wire_contract.compression.quantiser import SortedMagnitudes
from wire_contract.compression.rate_control import CompressionTarget, encode_to_target, relative_error
from wire_contract.compression.rate_search import encoded_bytes
from wire_contract.compression.top_k import top_k
from wire_contract.encoding import (
    Float16,
    Float32,
    GapCoded,
    Int8,
    LowRank,
    decode_vector,
    encode_vector,
)
from wire_contract.encoding.entropy import entropy_bits
from wire_contract.errors import EncodeError, LayoutError
from wire_contract.layout import Layout, TensorSpec, Vector

SHAPES = [(24, 8, 5), (24,), (24,), (32, 24, 5), (32,), (32,), (48, 32, 5), (48,), (48,), (128,), (128,)]
STUDENT = Layout(
    tuple(TensorSpec(str(at), shape) for at, shape in enumerate([*SHAPES, (48, 128), (48,), (5, 144), (5,)]))
)


def difference(kind: str, seed: int, *, spread: float = 1.0) -> Vector:
    """Something like an update: tensors of unlike strength, elements of unlike rarity."""
    chance = np.random.default_rng(seed)
    size = STUDENT.size
    values = {
        "laplace": lambda: chance.laplace(size=size),
        "gauss": lambda: chance.normal(size=size),
        "heavy": lambda: chance.standard_t(3, size=size),
    }[kind]()
    strengths = 10 ** chance.uniform(-3.5, -3.5 + spread, size=len(STUDENT.tensors))
    return (values * np.repeat(strengths, [spec.size for spec in STUDENT.tensors])).astype(np.float32)


KINDS = pytest.mark.parametrize("kind", ["laplace", "gauss", "heavy"])


@KINDS
@pytest.mark.parametrize("bytes_max", [100, 200, 500, 1_000, 1_500, 2_000, 4_000, 6_000])
@pytest.mark.parametrize("spread", [0.0, 1.5])
def test_a_budget_is_kept_and_used(kind: str, bytes_max: int, spread: float) -> None:
    vector = difference(kind, bytes_max, spread=spread)
    tensors = encode_to_target(vector, STUDENT, CompressionTarget(bytes_max=bytes_max))
    assert 0.95 * bytes_max <= encoded_bytes(tensors) <= bytes_max
    assert relative_error(vector, decode_vector(tensors, STUDENT)) < 1


@KINDS
@pytest.mark.parametrize("error_max", [0.95, 0.7, 0.5, 0.3, 0.1, 0.05])
def test_an_error_is_kept_and_nearly_reached(kind: str, error_max: float) -> None:
    vector = difference(kind, 0)
    tensors = encode_to_target(vector, STUDENT, CompressionTarget(error_max=error_max))
    assert 0.93 * error_max < relative_error(vector, decode_vector(tensors, STUDENT)) <= error_max


@settings(max_examples=60)
@given(LAYOUTS, st.integers(1, 200), st.booleans(), st.data())
def test_a_budget_holds_for_any_vector(layout: Layout, bytes_max: int, low_rank: bool, data: st.DataObject) -> None:
    vector = data.draw(vectors(layout.size, largest=data.draw(st.sampled_from([1.0, 1e-38, 1e30, 3e38]))))
    plan = CompressionTarget(bytes_max=bytes_max, low_rank=low_rank)
    if bytes_max < 8:  # in an entry of one byte of data
        with pytest.raises(EncodeError, match="a message of zeros takes 8"):
            encode_to_target(vector, layout, plan)
        return
    tensors = encode_to_target(vector, layout, plan)
    assert encoded_bytes(tensors) <= bytes_max
    decoded = decode_vector(tensors, layout)
    assert np.isfinite(decoded).all()
    assert tensors == encode_to_target(vector, layout, plan)


@settings(max_examples=60)
@given(LAYOUTS, st.floats(1e-7, 0.999), st.booleans(), st.data())
def test_an_error_holds_for_any_vector(layout: Layout, error_max: float, low_rank: bool, data: st.DataObject) -> None:
    vector = data.draw(vectors(layout.size, largest=data.draw(st.sampled_from([1.0, 1e-38, 1e30, 3e38]))))
    tensors = encode_to_target(vector, layout, CompressionTarget(error_max=error_max, low_rank=low_rank))
    assert relative_error(vector, decode_vector(tensors, layout)) <= error_max


def test_a_large_number_that_is_met_exactly_needs_no_logarithm_of_nothing() -> None:
    layout = Layout((TensorSpec("", ()),))
    vector = np.array([3.277225e14], dtype=np.float32)
    tensors = encode_to_target(vector, layout, CompressionTarget(error_max=2.0**-9))
    assert relative_error(vector, decode_vector(tensors, layout)) <= 2.0**-9


def test_more_bytes_mean_less_error() -> None:
    vector = difference("laplace", 1)
    errors = [
        relative_error(
            vector, decode_vector(encode_to_target(vector, STUDENT, CompressionTarget(bytes_max=bytes_max)), STUDENT)
        )
        for bytes_max in (200, 400, 800, 1_600, 3_200, 6_400)
    ]
    assert errors == sorted(errors, reverse=True)


@KINDS
def test_it_is_better_than_the_same_encoding_for_all(kind: str) -> None:
    vector = difference(kind, 2)
    int4 = encode_vector(vector, STUDENT, "int4")
    planned = encode_to_target(vector, STUDENT, CompressionTarget(bytes_max=encoded_bytes(int4)))
    error = relative_error(vector, decode_vector(planned, STUDENT))
    assert error < 0.4 * relative_error(vector, decode_vector(int4, STUDENT))


@KINDS
def test_it_is_better_than_the_largest_elements_alone(kind: str) -> None:
    vector = difference(kind, 3)
    largest = top_k(vector, STUDENT, 0.05)
    planned = encode_to_target(vector, STUDENT, CompressionTarget(bytes_max=encoded_bytes(largest)))
    error = relative_error(vector, decode_vector(planned, STUDENT))
    assert error < 0.98 * relative_error(vector, decode_vector(largest, STUDENT))


@KINDS
def test_magnitudes_are_counted_from_any_floor(kind: str) -> None:
    vector = difference(kind, 10)
    magnitudes = SortedMagnitudes(vector, STUDENT)
    for threshold in (2e-3, 1.9e-3, 3e-4, 1e-3, 0.0):
        magnitudes.lower_to(threshold)
        counts, sums = magnitudes.reaching(np.full((1, 1, 1), threshold))
        kept = [np.abs(vector[start:stop]).astype(np.float64) for start, stop in STUDENT.bounds]
        kept = [each[each >= threshold] for each in kept]
        assert counts.ravel().tolist() == [each.size for each in kept]
        assert np.allclose(sums.ravel(), [each.sum() for each in kept])
        places, of_places, stops = magnitudes.from_thresholds(np.full(len(kept), threshold))
        assert np.abs(vector[places]).tolist() == of_places.tolist() == np.concatenate(kept).tolist()
        assert stops.tolist() == np.cumsum([each.size for each in kept]).tolist()


def test_a_matrix_of_low_rank_is_sent_as_factors() -> None:
    chance = np.random.default_rng(0)
    vector = difference("gauss", 4, spread=0.0)
    start, stop = STUDENT.bounds[11]
    vector[start:stop] = (chance.normal(size=(48, 2)) @ chance.normal(size=(2, 128))).ravel()
    with_factors = encode_to_target(vector, STUDENT, CompressionTarget(bytes_max=800, low_rank=True))
    without = encode_to_target(vector, STUDENT, CompressionTarget(bytes_max=800))
    assert [type(entry) for entry in with_factors] == [GapCoded, LowRank, GapCoded]
    assert not any(isinstance(entry, LowRank) for entry in without)
    errors = [relative_error(vector, decode_vector(tensors, STUDENT)) for tensors in (with_factors, without)]
    assert errors[0] < 0.3 * errors[1]


def test_noise_of_full_rank_is_never_factored() -> None:
    tensors = encode_to_target(difference("gauss", 5), STUDENT, CompressionTarget(bytes_max=1_000, low_rank=True))
    assert [type(entry) for entry in tensors] == [GapCoded]


def test_levels_take_hardly_more_than_their_entropy() -> None:
    tensors = encode_to_target(difference("laplace", 6), STUDENT, CompressionTarget(bytes_max=1_000))
    figures = entropy_bits(tensors, STUDENT)
    assert figures.symbols <= 1.03 * figures.entropy
    assert figures.heads < 0.05 * 8 * 1_000


def test_zeros_take_next_to_nothing() -> None:
    for plan in (CompressionTarget(bytes_max=1_000), CompressionTarget(error_max=0.5)):
        tensors = encode_to_target(np.zeros(STUDENT.size, dtype=np.float32), STUDENT, plan)
        assert encoded_bytes(tensors) == 9
    assert encode_to_target(np.zeros(0, dtype=np.float32), Layout(()), CompressionTarget(bytes_max=1)) == ()


def test_a_budget_without_end_is_exact() -> None:
    vector = difference("heavy", 7)
    tensors = encode_to_target(vector, STUDENT, CompressionTarget(bytes_max=10**6))
    assert (decode_vector(tensors, STUDENT) == vector).all()


def test_what_a_plan_cannot_be() -> None:
    for bytes_max, error_max in ((None, None), (100, 0.5)):
        with pytest.raises(ValueError, match="exactly one"):
            CompressionTarget(bytes_max=bytes_max, error_max=error_max)
    for error_max in (0.0, 1.0, -1.0, float("nan")):
        with pytest.raises(ValueError, match="error_max"):
            CompressionTarget(error_max=error_max)
    with pytest.raises(ValueError, match="bytes_max"):
        CompressionTarget(bytes_max=0)


def test_what_cannot_be_planned() -> None:
    with pytest.raises(EncodeError, match="8 bytes are too few; a message of zeros takes 9"):
        encode_to_target(difference("gauss", 0), STUDENT, CompressionTarget(bytes_max=8))
    with pytest.raises(LayoutError):
        encode_to_target(np.zeros(3, dtype=np.float32), STUDENT, CompressionTarget(bytes_max=100))
    for value in (np.nan, np.inf):
        vector = difference("gauss", 0)
        vector[7] = value
        with pytest.raises(EncodeError, match="not finite"):
            encode_to_target(vector, STUDENT, CompressionTarget(bytes_max=100))


class TestTopShare:
    @given(LAYOUTS, st.floats(0, 1), st.data())
    def test_it_keeps_that_many_of_the_largest(self, layout: Layout, share: float, data: st.DataObject) -> None:
        vector = data.draw(vectors(layout.size, largest=1e6))
        vector[np.abs(vector) < 1e-30] = 0
        decoded = decode_vector(top_k(vector, layout, share), layout)
        kept, number = np.flatnonzero(decoded), round(share * layout.size)
        assert len(kept) == min(number, np.count_nonzero(vector))
        left_out = np.abs(np.delete(vector, kept))
        assert not left_out.size or not kept.size or np.abs(vector[kept]).min() >= left_out.max()
        assert (np.sign(decoded[kept]) == np.sign(vector[kept])).all()

    def test_magnitudes_are_within_a_step(self) -> None:
        vector = difference("laplace", 8)
        decoded = decode_vector(top_k(vector, STUDENT, 1.0), STUDENT)
        for start, stop in STUDENT.bounds:
            step = np.abs(vector[start:stop]).max() / 15 * 1.05
            assert np.abs(decoded[start:stop] - vector[start:stop]).max() <= step

    @pytest.mark.parametrize("kind", ["laplace", "gauss"])
    def test_it_takes_hardly_more_than_the_entropy_of_what_it_says(self, kind: str) -> None:
        vectors_of_kind = [difference(kind, seed) for seed in range(6)]
        figures = [entropy_bits(top_k(vector, STUDENT, 0.03), STUDENT) for vector in vectors_of_kind]
        assert sum(one.symbols + one.heads for one in figures) <= 1.05 * sum(one.entropy for one in figures)

    def test_what_it_refuses(self) -> None:
        for share in (-0.1, 1.1, float("nan")):
            with pytest.raises(ValueError, match="share"):
                top_k(difference("gauss", 0), STUDENT, share)


def test_every_encoding_has_its_place() -> None:
    """From a few bytes to exact, no option is dead weight."""
    vector = difference("heavy", 9, spread=2.0)
    used: set[type] = set()
    for bytes_max in (1_000, 12_000, 16_000, 20_000, 30_000, 45_000, 90_000):
        used |= {
            type(entry)
            for entry in encode_to_target(vector, STUDENT, CompressionTarget(bytes_max=bytes_max, low_rank=True))
        }
    assert used >= {GapCoded, Int8, Float16, Float32}
