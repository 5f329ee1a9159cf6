"""Each tensor encoding by example, and gap-coded entries taken apart bit by bit."""

from collections.abc import Sequence
from typing import Any

import msgspec
import numpy as np

from tests.vectors.bit_by_bit import Entry, read
from tests.vectors.form import as_json
from wire_contract.encoding import EncodedTensor, Float16, Float32, GapCoded, Int4, Int8, LowRank, decode_vector
from wire_contract.encoding.dense import as_float16, as_float32, as_int4, as_int8
from wire_contract.encoding.gap_coded import encode_levels
from wire_contract.layout import Layout, TensorSpec

VALUES = np.array([1, -0.5, 0.25, 3, 0.1], dtype=np.float32)


def layout_of(sizes: Sequence[int]) -> Layout:
    return Layout(tuple(TensorSpec(str(at), (size,)) for at, size in enumerate(sizes)))


def _f4(*values: float) -> Float32:
    return Float32(np.array(values, dtype="<f4").tobytes())


def tensors() -> list[dict[str, Any]]:
    ends = Float16(bytes.fromhex("ff7b01000080007c"))
    product = LowRank(2, 2, _f4(0.1, 0.7, -0.3, 1e8), _f4(0.1, 3, -7, 1e-8))
    examples: list[tuple[str, EncodedTensor, list[int]]] = [
        ("float32, little endian", as_float32(VALUES), [5]),
        ("float16, little endian", as_float16(VALUES), [5]),
        ("float16: the largest, the smallest subnormal, minus zero, infinity", ends, [4]),
        ("int8: value = float32(scale) * q, rounded to float32", as_int8(VALUES), [5]),
        ("int8: -128 is not written, but read", Int8(0.5, b"\x80\x7f\xff"), [3]),
        ("int8: the scale is a double on the wire and is rounded to float32 before use", Int8(0.1, b"\x03\xfd"), [2]),
        ("int4: the first element in the high nibble, an odd count leaves the last low one zero", as_int4(VALUES), [5]),
        ("int4: -8 is not written, but read", Int4(1.0, b"\x87"), [2]),
        ("low rank 1: 2 x 3", LowRank(1, 2, _f4(2, -1), _f4(1, 0.5, 3)), [6]),
        ("low rank 2: 2 x 2, term by term in float32, never fused", product, [4]),
        ("low rank with factors of int8 and int4", LowRank(1, 3, as_int8(VALUES[:3]), Int4(0.25, b"\x7f")), [6]),
    ]  # fmt: skip
    return [
        {
            "why": why,
            "entry": as_json(msgspec.to_builtins(entry, builtin_types=(bytes,))),
            "sizes": sizes,
            "float32": decode_vector((entry,), layout_of(sizes)).astype("<f4").tobytes().hex(),
        }
        for why, entry, sizes in examples
    ]


def gap_coded() -> list[dict[str, Any]]:
    lonely = [0] * 20 + [-1] + [0] * 19
    sparse = [1 if at in {2, 9, 10} else -1 if at == 27 else 0 for at in range(30)]
    full = [1, -1, 1, 1, -1]
    dense = [1, 1, 0, -1, 1, 1, -1, 1, 1, 0, 1, -1]
    rising = [0, 1, -2, 3, 0, 0, 127, -1, 0, 2]
    return [
        _taken_apart("a tensor of zeros: one bit, and seven of filling", [0] * 4, [0], [4]),
        _taken_apart(
            "1 of 40: m = 27, so r = 20 is past u = 5 and goes as 25: 12 in the field, 1 extra", lonely, [0], [40]
        ),
        _taken_apart(
            "4 of 30: m = 5; gaps of 2, 6, 0 and 16, the last one three times m and a rest of 1", sparse, [0], [30]
        ),
        _taken_apart("all of 5: nothing is coded but the signs", full, [8], [5]),
        _taken_apart("10 of 12: the two places that are left out are coded", dense, [-8], [12]),
        _taken_apart("layers: 6, then 4 with |q| >= 2, and so on up to 127, which no 0 follows", rising, [3], [10]),
        _taken_apart(
            "three tensors in one entry, the middle one of zeros; the last scale is told as a difference of -13",
            [0, 1, 0, 0, 0, 0, -2, 0, 0, 1, 0, 0],
            [5, 0, -8],
            [4, 2, 6],
        ),
        _taken_apart("both ends of the scales: e = -1008, then a difference of +1976", [1, -127], [-1008, 968], [1, 1]),
        _taken_apart("half of 16: a divisor of 1, no fields, and gaps in unary alone", [1, 0] * 8, [0], [16]),
    ]


def _taken_apart(why: str, levels: list[int], exponents: list[int], sizes: list[int]) -> dict[str, Any]:
    entry = encode_levels(np.array(levels), exponents, sizes)
    read_plainly = read(entry.data, sizes)
    assert read_plainly.levels == levels
    decoded = decode_vector((entry,), layout_of(sizes)).astype("<f4").tobytes()
    return {
        "why": why,
        "sizes": sizes,
        "data": entry.data.hex(),
        "exponents": [tensor.exponent for tensor in read_plainly.tensors],
        "layers": [tensor.layers for tensor in read_plainly.tensors],
        "bits": _runs(entry, read_plainly),
        "subsets": [
            {"n": code.n, "k": code.k, "coded": code.coded, "m": code.divisor, "c": code.field_bits, "u": code.short}
            for code in read_plainly.subsets
            if code.coded
        ],
        "levels": levels,
        "float32": decoded.hex(),
    }


def _runs(entry: GapCoded, parts: Entry) -> dict[str, str]:
    """The data as bits, cut where the runs begin."""
    bits = "".join(f"{byte:08b}" for byte in entry.data)
    cuts = [0, parts.signs_at, parts.fields_at, parts.extras_at, parts.unary_at, len(bits)]
    names = ["heads", "signs", "fields", "extras", "unary and filling"]
    return {name: bits[start:end] for name, start, end in zip(names, cuts, cuts[1:], strict=False)}
