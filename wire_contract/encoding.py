"""How one tensor stands on the wire: a tagged array that says all that is needed to decode it.

    ["f4", data]            float32, little endian
    ["f2", data]            float16, little endian
    ["i1", scale, data]     int8, value = scale · q; written with q in [-127, 127] and scale = max|x| / 127

Nothing outside the array is needed but the tensor's element count, which the layout gives. A further encoding
is one more class here with `decode_into`, and a line in `ENCODERS`.

Refused (DecodeError): a byte count that does not match the element count, a scale that is not finite, an
unknown tag. Values that are not finite pass the decoder; admission refuses them by that name.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Literal

import msgspec
import numpy as np

from wire_contract.errors import DecodeError, EncodeError
from wire_contract.layout import Layout, Vector

EncodingName = Literal["float32", "float16", "int8"]

_INT8_MAX = 127
_FLOAT32_MAX = float(np.finfo(np.float32).max)
_FLOAT16_MAX = float(np.finfo(np.float16).max)


class Float32(msgspec.Struct, frozen=True, array_like=True, tag="f4", forbid_unknown_fields=True):
    """Four bytes an element, exact."""

    data: bytes

    def decode_into(self, out: Vector) -> None:
        out[...] = _numbers(self.data, np.dtype("<f4"), out.size)


class Float16(msgspec.Struct, frozen=True, array_like=True, tag="f2", forbid_unknown_fields=True):
    """Two bytes an element; relative error at most 2⁻¹¹ above 6.1e-5."""

    data: bytes

    def decode_into(self, out: Vector) -> None:
        out[...] = _numbers(self.data, np.dtype("<f2"), out.size)


class Int8(msgspec.Struct, frozen=True, array_like=True, tag="i1", forbid_unknown_fields=True):
    """One byte an element; absolute error at most scale / 2."""

    scale: float
    data: bytes

    def decode_into(self, out: Vector) -> None:
        if not abs(self.scale) <= _FLOAT32_MAX:
            raise DecodeError(f"int8 tensor: scale {self.scale} is not a finite float32")
        symbols = _numbers(self.data, np.dtype("i1"), out.size)
        with np.errstate(over="ignore"):  # infinity is for admission to refuse
            np.multiply(symbols, np.float32(self.scale), out=out, dtype=np.float32)


EncodedTensor = Float32 | Float16 | Int8


def _numbers(data: bytes, dtype: np.dtype, count: int) -> np.ndarray:
    if len(data) != count * dtype.itemsize:
        raise DecodeError(f"tensor data: {len(data)} bytes are not {count} elements of {dtype.itemsize} bytes each")
    return np.frombuffer(data, dtype=dtype)


def _as_float32(values: Vector) -> EncodedTensor:
    return Float32(values.astype("<f4").tobytes())


def _as_float16(values: Vector) -> EncodedTensor:
    peak = float(np.abs(values).max(initial=0.0))
    if peak > _FLOAT16_MAX:
        raise EncodeError(f"float16: a value of {peak:g} is over the largest float16, {_FLOAT16_MAX:g}")
    return Float16(values.astype("<f2").tobytes())


def _as_int8(values: Vector) -> EncodedTensor:
    peak = float(np.abs(values).max(initial=0.0))
    if peak == 0.0:
        return Int8(0.0, bytes(values.size))
    # The scale is rounded to float32 first, because that is what the decoder multiplies with. At the two ends of
    # float32 that rounding matters: the peak must stay below 127.5 steps, and 127 steps must stay finite.
    scale = np.float32(peak / _INT8_MAX)
    if float(scale) * (_INT8_MAX + 0.5) < peak:
        scale = np.nextafter(scale, np.float32(np.inf))
    elif float(scale) * _INT8_MAX > _FLOAT32_MAX:
        scale = np.nextafter(scale, np.float32(0))
    symbols = np.clip(np.rint(values / scale), -_INT8_MAX, _INT8_MAX).astype(np.int8)
    return Int8(float(scale), symbols.tobytes())


ENCODERS: Mapping[EncodingName, Callable[[Vector], EncodedTensor]] = {
    "float32": _as_float32,
    "float16": _as_float16,
    "int8": _as_int8,
}


def encode_vector(vector: Vector, layout: Layout, encoding: EncodingName) -> tuple[EncodedTensor, ...]:
    """Each tensor of `vector` (layout.size,) in one encoding.

    Raises:
        EncodeError: a value is not finite, or too large for the encoding.
        LayoutError: the vector does not fit the layout.
    """
    layout.check(vector)
    if not np.isfinite(vector).all():
        raise EncodeError("the weights hold values that are not finite (NaN or infinity); training diverged")
    encode = ENCODERS[encoding]
    return tuple(encode(vector[start:stop]) for start, stop in layout.bounds)


def decode_vector(tensors: Sequence[EncodedTensor], layout: Layout, *, out: Vector | None = None) -> Vector:
    """The vector (layout.size,) that `tensors` stand for, written into `out` when given.

    Raises:
        DecodeError: the tensors do not fit the layout, or an encoding is broken.
    """
    if len(tensors) != len(layout.tensors):
        raise DecodeError(f"tensors: {len(tensors)} are here, the layout has {len(layout.tensors)}")
    vector = np.empty(layout.size, dtype=np.float32) if out is None else out
    for tensor, spec, (start, stop) in zip(tensors, layout.tensors, layout.bounds, strict=True):
        try:
            tensor.decode_into(vector[start:stop])
        except DecodeError as error:
            raise DecodeError(f"tensor {spec.name!r}: {error}") from None
    return vector
