"""Levels come back exactly, take hardly more bits than their entropy, and every entry has one form."""

import tracemalloc
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

from tests.laws.test_codec_laws import UPDATE, mutated
from wire_contract.codec import decode, encode
from wire_contract.encoding import Float32, GapCoded, Int8, decode_vector
from wire_contract.encoding.entropy import entropy_bits
from wire_contract.encoding.gap_coded import encode_levels
from wire_contract.encoding.heads import LEVELS_MAX, TensorHead, read_heads, write_heads
from wire_contract.encoding.scales import EXPONENT_MAX, EXPONENT_MIN, OCTAVE, nearest_exponent, scales_of
from wire_contract.encoding.subsets import Subsets, write_subsets
from wire_contract.errors import DecodeError
from wire_contract.layout import Layout, TensorSpec, Vector
from wire_contract.messages import Update

SIZES = st.lists(st.integers(1, 70), min_size=1, max_size=5)
EXPONENTS = st.integers(EXPONENT_MIN, EXPONENT_MAX)
STUDENT = [960, 24, 24, 3840, 32, 32, 7680, 48, 48, 128, 128, 6144, 48, 720, 5]
DENSITIES = [0.001, 0.003, 0.01, 0.03, 0.1, 0.2, 0.25, 0.3, 0.35, 0.382, 0.42, 0.5, 0.6]


def layout_of(sizes: Sequence[int]) -> Layout:
    return Layout(tuple(TensorSpec(str(at), (size,)) for at, size in enumerate(sizes)))


def read(entry: GapCoded, sizes: Sequence[int]) -> Vector:
    out = np.full(sum(sizes), np.nan, dtype=np.float32)
    entry.decode_into(out, sizes)
    return out


@st.composite
def levels(draw: st.DrawFn, sizes: Sequence[int]) -> np.ndarray:
    """Of every density, with tensors of zeros, and tensors that are full, among them."""
    parts = []
    for size in sizes:
        density = draw(st.sampled_from([0.0, 0.05, 0.3, 0.5, 0.8, 1.0]))
        highest = draw(st.sampled_from([1, 2, 15, LEVELS_MAX]))
        chance = np.random.default_rng(draw(st.integers(0, 2**32)))
        magnitudes = np.minimum(chance.geometric(min(1.0, 2.0 / highest), size), highest)
        parts.append(np.where(chance.random(size) < density, chance.choice([-1, 1], size) * magnitudes, 0))
    return np.concatenate(parts)


@st.composite
def entries(draw: st.DrawFn) -> tuple[GapCoded, list[int]]:
    sizes = draw(SIZES)
    exponents = draw(st.lists(EXPONENTS, min_size=len(sizes), max_size=len(sizes)))
    return encode_levels(draw(levels(sizes)), exponents, sizes), sizes


@given(SIZES, st.data())
def test_levels_come_back_exactly(sizes: list[int], data: st.DataObject) -> None:
    drawn = data.draw(levels(sizes))
    exponents = data.draw(st.lists(EXPONENTS, min_size=len(sizes), max_size=len(sizes)))
    expected = np.repeat(scales_of(exponents), sizes) * drawn.astype(np.float32)
    assert (read(encode_levels(drawn, exponents, sizes), sizes) == expected).all()


@given(st.sampled_from([st.binary(max_size=60), None]), st.data())
def test_any_bytes_are_refused_or_the_only_form_of_what_they_say(
    any_bytes: st.SearchStrategy[bytes] | None, data: st.DataObject
) -> None:
    sizes = data.draw(SIZES)
    if any_bytes is None:
        sound = encode_levels(data.draw(levels(sizes)), [0] * len(sizes), sizes).data
        any_bytes = mutated(st.just(sound))
    entry = GapCoded(len(sizes), data.draw(any_bytes))
    try:
        decoded = read(entry, sizes)
    except DecodeError:
        return
    assert np.isfinite(decoded).all()
    heads, _ = read_heads(entry.data, sizes)
    exponents = [head.exponent for head in heads]
    symbols = np.rint(decoded / np.repeat(scales_of(exponents), sizes)).astype(np.int64)
    assert encode_levels(symbols, exponents, sizes) == entry


@given(entries(), st.binary(min_size=1, max_size=9))
def test_bytes_missing_or_added_are_refused(drawn: tuple[GapCoded, list[int]], surplus: bytes) -> None:
    entry, sizes = drawn
    for kept in range(len(entry.data)):
        with pytest.raises(DecodeError, match="gap-coded"):
            read(GapCoded(entry.span, entry.data[:kept]), sizes)
    with pytest.raises(DecodeError, match="gap-coded"):
        read(GapCoded(entry.span, entry.data + surplus), sizes)


@given(SIZES, st.data())
def test_heads_come_back(sizes: list[int], data: st.DataObject) -> None:
    heads = []
    for size in sizes:
        inner = data.draw(st.lists(st.integers(1, size), max_size=LEVELS_MAX))
        heads.append(TensorHead(data.draw(EXPONENTS) if inner else 0, tuple(sorted(inner, reverse=True))))
    bits, count = write_heads(heads, sizes)
    expected = [head if head.layers else TensorHead() for head in heads]
    written = (bits << (-count % 8)).to_bytes((count + 7) // 8)
    assert read_heads(written, sizes) == (expected, count)


def test_the_scales_are_the_float32_nearest_to_eighths_of_an_octave() -> None:
    assert OCTAVE.tolist() == [float(np.float32(2.0 ** (step / 8))) for step in range(8)]
    scales = scales_of(range(EXPONENT_MIN, EXPONENT_MAX + 1))
    assert scales.dtype == np.float32
    assert scales[0] == np.finfo(np.float32).tiny
    assert np.isfinite(scales * np.float32(LEVELS_MAX)).all()
    assert (np.abs(scales[1:].astype(np.float64) / scales[:-1] - 2**0.125) < 1e-6).all()
    assert [nearest_exponent(float(scale)) for scale in scales] == list(range(EXPONENT_MIN, EXPONENT_MAX + 1))
    assert nearest_exponent(1e-45) == EXPONENT_MIN


@pytest.mark.parametrize("exponent", [EXPONENT_MIN - 1, EXPONENT_MAX + 1])
def test_a_scale_outside_the_table_is_refused(exponent: int) -> None:
    for heads in ([TensorHead(exponent, (1,))], [TensorHead(EXPONENT_MIN, (1,)), TensorHead(exponent, (1,))]):
        if exponent < EXPONENT_MIN and len(heads) == 1:
            continue  # eleven bits do not say it
        bits, count = write_heads(heads, [1] * len(heads))
        with pytest.raises(DecodeError, match="scale"):
            read_heads((bits << 64 + (-count % 8)).to_bytes((count + 7) // 8 + 8), [1] * len(heads))


def test_a_layer_larger_than_the_one_before_it_is_refused() -> None:
    for sizes, layers in (([5], (6,)), ([9], (5, 6))):
        bits, count = write_heads([TensorHead(0, layers)], sizes)
        with pytest.raises(DecodeError, match="a layer of 6 out of 5"):
            read_heads((bits << (-count % 8)).to_bytes((count + 7) // 8), sizes)


def test_an_entry_of_zeros_is_one_bit_a_tensor() -> None:
    entry = encode_levels(np.zeros(sum(STUDENT), dtype=np.int64), [0] * len(STUDENT), STUDENT)
    assert entry.data == bytes(2)
    assert not read(entry, STUDENT).any()


def bernoulli(density: float, size: int) -> np.ndarray:
    chance = np.random.default_rng(size)
    return np.where(chance.random(size) < density, chance.choice([-1, 1], size), 0)


def laplace(density: float, size: int) -> np.ndarray:
    """A Laplacian in steps as long as its mean magnitude, the dead zone as wide as the density asks for."""
    values = np.random.default_rng(size).laplace(size=size)
    beyond = np.abs(values) + np.log(density)
    return np.where(beyond > 0, np.sign(values) * np.minimum(1 + np.floor(beyond), 15), 0).astype(np.int64)


@pytest.mark.parametrize("draw", [bernoulli, laplace])
@pytest.mark.parametrize("density", DENSITIES)
def test_the_symbols_take_at_most_five_percent_over_their_entropy(draw, density: float) -> None:  # type: ignore[no-untyped-def]  # noqa: ANN001
    size = 50_000
    entry = encode_levels(draw(density, size), [0], [size])
    figures = entropy_bits((entry,), layout_of([size]))
    assert figures.elements == size
    assert figures.heads + figures.symbols == 8 * len(entry.data)
    assert figures.symbols - 8 <= 1.05 * figures.entropy
    assert figures.symbols >= 0.98 * figures.entropy  # or the entropy is not one


def test_the_entropy_is_that_of_the_symbols() -> None:
    symbols = np.array([0] * 10 + [1] * 4 + [-1] * 2 + [3] * 4 + [2] * 0)
    entry = encode_levels(symbols, [0], [20])
    counts = np.array([10, 6, 4])
    expected = float((counts * np.log2(20 / counts)).sum()) + 10
    assert entropy_bits((Int8(0.0, b"\0"), entry), layout_of([1, 20])).entropy == pytest.approx(expected)


class TestSpans:
    SIZES = (3, 5, 2, 4)

    def entry(self, first: int, after: int) -> GapCoded:
        sizes = self.SIZES[first:after]
        return encode_levels(np.arange(first, first + sum(sizes)) % 3 - 1, [8 * first] * len(sizes), sizes)

    def test_entries_of_any_span_are_one_vector(self) -> None:
        dense = Float32(np.arange(5, dtype="<f4").tobytes())
        decoded = decode_vector((self.entry(0, 1), dense, self.entry(2, 4)), layout_of(self.SIZES))
        assert decoded[:3].tolist() == [-1, 0, 1]
        assert decoded[3:8].tolist() == [0, 1, 2, 3, 4]
        assert decoded[8:].tolist() == [4, -4, 0, 4, -4, 0]

    @pytest.mark.parametrize("spans", [(1,), (3,), (5,), (2, 3), (4, 1), (1024,)])
    def test_spans_that_do_not_add_up_are_refused(self, spans: tuple[int, ...]) -> None:
        with pytest.raises(DecodeError, match=f"{sum(spans)} are here, the layout has 4"):
            decode_vector([GapCoded(span, b"\0") for span in spans], layout_of(self.SIZES))

    @pytest.mark.parametrize("span", [0, -1])
    def test_a_span_below_one_is_refused(self, span: int) -> None:
        with pytest.raises(DecodeError, match="covers"):
            decode_vector((GapCoded(span, b""), self.entry(0, 4)), layout_of(self.SIZES))

    def test_what_is_broken_is_named(self) -> None:
        with pytest.raises(DecodeError, match="tensor '1' to '2': gap-coded"):
            decode_vector((self.entry(0, 1), GapCoded(2, b""), self.entry(3, 4)), layout_of(self.SIZES))


@given(entries())
def test_an_update_of_levels_comes_back(drawn: tuple[GapCoded, list[int]]) -> None:
    entry, sizes = drawn
    (decoded,) = decode(encode(Update(**{**_fields(UPDATE), "tensors": (entry,)})), Update).tensors
    assert decoded == entry
    assert read(entry, sizes).tobytes() == decode_vector((decoded,), layout_of(sizes)).tobytes()


def _fields(update: Update) -> dict[str, object]:
    return {name: getattr(update, name) for name in update.__struct_fields__}


@pytest.mark.parametrize("fill", [b"\0", b"\xff", b"\x80", b"\xaa"])
@pytest.mark.parametrize("opening", [b"", b"\xc0\x00", b"\xbf\x00\x40", b"\xa0\x3f\xff\xff"])
def test_nothing_large_is_made_of_many_bytes(opening: bytes, fill: bytes) -> None:
    data = opening + fill * 4_000_000
    out = np.empty(1_000, dtype=np.float32)
    tracemalloc.start()
    try:
        with pytest.raises(DecodeError, match="gap-coded"):
            GapCoded(2, data).decode_into(out, [300, 700])
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 300_000


@given(npst.arrays(np.int8, 400, elements=st.integers(-127, 127)))
def test_decoding_takes_a_small_multiple_of_the_vector(symbols: np.ndarray) -> None:
    sizes = [100, 300]
    entry = encode_levels(np.tile(symbols, 20).astype(np.int64), [0, 0], [20 * size for size in sizes])
    out = np.empty(8_000, dtype=np.float32)
    tracemalloc.start()
    try:
        entry.decode_into(out, [20 * size for size in sizes])
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 30 * out.nbytes


def test_the_highest_level_of_the_largest_scale_is_finite() -> None:
    entry = encode_levels(np.array([LEVELS_MAX, -LEVELS_MAX]), [EXPONENT_MAX], [2])
    assert read(entry, [2]).tolist() == [LEVELS_MAX * 2.0**121, -LEVELS_MAX * 2.0**121]


@pytest.mark.parametrize(("gap", "sound"), [(9, True), (10, False), (13, False)])
def test_a_place_outside_its_set_is_refused(gap: int, sound: bool) -> None:
    """…and never reaches into the tensor that follows."""
    sizes = [10, 10]
    heads, count = write_heads([TensorHead(0, (1,)), TensorHead()], sizes)
    symbols = write_subsets(Subsets.of([10], [1]), np.array([gap]))
    bits = [int(bit) for bit in f"{heads:0{count}b}"] + [0] + symbols.tolist()
    entry = GapCoded(2, np.packbits(np.array(bits, dtype=np.uint8)).tobytes())
    if sound:
        assert np.flatnonzero(read(entry, sizes)).tolist() == [gap]
        return
    with pytest.raises(DecodeError, match="outside its set"):
        read(entry, sizes)
