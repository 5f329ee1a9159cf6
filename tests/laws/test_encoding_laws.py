"""Encodings are as exact as they say; layouts cut and join vectors without changing them."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

from tests.laws.wire import ENCODINGS, LAYOUTS, vectors
from wire_contract.encoding import (
    ENCODERS,
    EncodedTensor,
    EncodingName,
    Float16,
    Float32,
    Int4,
    Int8,
    decode_vector,
    encode_vector,
)
from wire_contract.errors import DecodeError, EncodeError, LayoutError
from wire_contract.layout import Layout, TensorSpec, Vector, digest

FLOAT16_MAX = 65_504.0
ONE = Layout((TensorSpec("a", (4,)),))


def there_and_back(vector: Vector, encoding: EncodingName) -> tuple[EncodedTensor, Vector]:
    layout = Layout((TensorSpec("a", vector.shape),))
    (tensor,) = encode_vector(vector, layout, encoding)
    return tensor, decode_vector((tensor,), layout)


@given(vectors(4))
def test_float32_is_exact(vector: Vector) -> None:
    _, decoded = there_and_back(vector, "float32")
    assert decoded.tobytes() == vector.tobytes()


@given(vectors(4, largest=FLOAT16_MAX))
def test_float16_is_as_near_as_it_says(vector: Vector) -> None:
    _, decoded = there_and_back(vector, "float16")
    # Half a unit in the last place: relative above the smallest normal number, absolute below it.
    allowed = np.maximum(np.abs(vector) * 2.0**-11, 2.0**-25)
    assert (np.abs(decoded.astype(np.float64) - vector) <= allowed).all()


def nibbles(tensor: Int4, size: int) -> list[int]:
    """The symbols, read the slow way."""
    pairs = [(byte >> 4, byte & 15) for byte in tensor.data]
    return [nibble - 16 * (nibble > 7) for pair in pairs for nibble in pair][:size]


@pytest.mark.parametrize("encoding", ["int8", "int4"])
@given(vectors(5))
def test_integers_are_off_by_half_a_step_at_most(encoding: EncodingName, vector: Vector) -> None:
    tensor, decoded = there_and_back(vector, encoding)
    assert isinstance(tensor, Int8 | Int4)
    assert np.isfinite(decoded).all()
    symbols = np.frombuffer(tensor.data, dtype=np.int8) if isinstance(tensor, Int8) else nibbles(tensor, 5)
    assert min(symbols) >= (-127 if isinstance(tensor, Int8) else -7)
    assert (decoded == np.float32(tensor.scale) * np.array(symbols, dtype=np.float32)).all()
    # The quotient and the product are rounded to float32 once each.
    allowed = 0.5 * tensor.scale * (1 + 2.0**-15)
    assert (np.abs(decoded.astype(np.float64) - vector) <= allowed).all()


@pytest.mark.parametrize("encoding", ["int8", "int4"])
@given(st.lists(st.integers(-(2**12), 2**12), min_size=4, max_size=4))
def test_integers_of_the_smallest_numbers_there_are(encoding: EncodingName, steps: list[int]) -> None:
    vector = (np.array(steps, dtype=np.float64) * 2.0**-149).astype(np.float32)
    tensor, decoded = there_and_back(vector, encoding)
    assert isinstance(tensor, Int8 | Int4)
    assert (np.abs(decoded.astype(np.float64) - vector) <= 0.5 * tensor.scale).all()


@pytest.mark.parametrize("encoding", list(ENCODERS))
@pytest.mark.parametrize("value", [0.0, -0.0])
def test_zeros_stay_zeros(encoding: EncodingName, value: float) -> None:
    _, decoded = there_and_back(np.full(4, value, dtype=np.float32), encoding)
    assert not decoded.any()


@given(ENCODINGS, vectors(4, largest=60_000.0))
def test_what_was_decoded_encodes_to_itself(encoding: EncodingName, vector: Vector) -> None:
    _, once = there_and_back(vector, encoding)
    _, twice = there_and_back(once, encoding)
    assert np.allclose(once, twice, rtol=1e-6, atol=1e-44)
    if not encoding.startswith("int"):
        assert once.tobytes() == twice.tobytes()


@pytest.mark.parametrize("encoding", list(ENCODERS))
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_what_is_not_finite_is_not_encoded(encoding: EncodingName, value: float) -> None:
    vector = np.array([0, 1, value, 2], dtype=np.float32)
    with pytest.raises(EncodeError, match="not finite"):
        encode_vector(vector, ONE, encoding)


def test_float16_says_what_is_too_large_for_it() -> None:
    with pytest.raises(EncodeError, match="65536 is over"):
        encode_vector(np.array([0, 0, 0, -65_536], dtype=np.float32), ONE, "float16")


@given(npst.arrays(np.uint8, 16), st.sampled_from([Float32, Float16]))
def test_any_float_bits_decode_without_a_word(bits: np.ndarray, kind: type[Float32 | Float16]) -> None:
    size = 4 if kind is Float32 else 8
    decode_vector((kind(bits.tobytes()),), Layout((TensorSpec("a", (size,)),)))


@given(st.floats(), st.binary(min_size=4, max_size=4))
def test_any_int8_tensor_decodes_or_is_refused(scale: float, data: bytes) -> None:
    if not abs(scale) <= float(np.finfo(np.float32).max):
        with pytest.raises(DecodeError, match="scale"):
            decode_vector((Int8(scale, data),), ONE)
        return
    with np.errstate(over="ignore"):
        expected = np.frombuffer(data, dtype=np.int8).astype(np.float32) * np.float32(scale)
    assert decode_vector((Int8(scale, data),), ONE).tobytes() == expected.tobytes()


@given(st.floats(), st.binary(min_size=2, max_size=2))
def test_any_int4_tensor_decodes_or_is_refused(scale: float, data: bytes) -> None:
    odd = Layout((TensorSpec("a", (3,)),))
    if not abs(scale) <= float(np.finfo(np.float32).max):
        with pytest.raises(DecodeError, match="scale"):
            decode_vector((Int4(scale, data),), ONE)
        return
    with np.errstate(over="ignore"):
        expected = np.array(nibbles(Int4(scale, data), 4), dtype=np.float32) * np.float32(scale)
    assert decode_vector((Int4(scale, data),), ONE).tobytes() == expected.tobytes()
    if data[1] & 15:
        with pytest.raises(DecodeError, match="last nibble"):
            decode_vector((Int4(scale, data),), odd)
    else:
        assert decode_vector((Int4(scale, data),), odd).tobytes() == expected[:3].tobytes()


@given(st.binary(max_size=40), st.sampled_from(["f4", "f2", "i1", "i4"]))
def test_a_byte_count_that_does_not_match_is_refused(data: bytes, tag: str) -> None:
    tensor = {"f4": Float32(data), "f2": Float16(data), "i1": Int8(1.0, data), "i4": Int4(1.0, data)}[tag]
    if len(data) != {"f4": 16, "f2": 8, "i1": 4, "i4": 2}[tag]:
        with pytest.raises(DecodeError, match="tensor 'a'"):
            decode_vector((tensor,), ONE)


@given(LAYOUTS, st.integers(0, 6))
def test_another_number_of_tensors_is_refused(layout: Layout, number: int) -> None:
    if number != len(layout.tensors):
        with pytest.raises(DecodeError, match="the layout has"):
            decode_vector((Float32(b""),) * number, layout)


@given(LAYOUTS, st.data())
def test_views_and_flatten_undo_each_other(layout: Layout, data: st.DataObject) -> None:
    vector = data.draw(vectors(layout.size))
    views = layout.views(vector)
    assert list(views) == [spec.name for spec in layout.tensors]
    assert all(views[spec.name].shape == spec.shape for spec in layout.tensors)
    assert all(np.shares_memory(view, vector) for view in views.values())
    assert layout.flatten(views).tobytes() == vector.tobytes()
    assert [stop - start for start, stop in layout.bounds] == [spec.size for spec in layout.tensors]
    assert digest(layout.flatten(views)) == digest(vector)


@given(LAYOUTS, LAYOUTS)
def test_fingerprints_tell_layouts_apart(one: Layout, other: Layout) -> None:
    assert (one.fingerprint == other.fingerprint) == (one == other)


def test_the_order_of_tensors_is_part_of_the_layout() -> None:
    a, b = TensorSpec("a", (2,)), TensorSpec("b", (2,))
    assert Layout((a, b)).fingerprint != Layout((b, a)).fingerprint


def test_flatten_says_what_does_not_fit() -> None:
    layout = Layout((TensorSpec("a", (2,)), TensorSpec("b", ())))
    with pytest.raises(LayoutError, match=r"missing tensors \['b'\], unknown tensors \['c'\]"):
        layout.flatten({"a": [1, 2], "c": 3})
    with pytest.raises(LayoutError, match="'a' has shape"):
        layout.flatten({"a": [1, 2, 3], "b": 0})
    with pytest.raises(LayoutError, match="float64"):
        layout.check(np.zeros(3))  # type: ignore[arg-type]
    for specs in ((TensorSpec("a", (0,)),), (TensorSpec("a", (1,)), TensorSpec("a", (1,)))):
        with pytest.raises(LayoutError):
            Layout(specs)
