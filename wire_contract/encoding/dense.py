"""Encodings that write every element of one tensor.

    ["f4", data]            float32, little endian
    ["f2", data]            float16, little endian
    ["i1", scale, data]     int8, value = scale · q; written with q in [-127, 127] and scale = max|x| / 127
    ["i4", scale, data]     two's complement nibbles, the first element in the high one; value = scale · q, written with
                            q in [-7, 7] and scale = max|x| / 7. An odd count leaves the last low nibble zero.

Refused: a byte count that does not match the element count, a scale that is not a finite float32, and an unused last
nibble that is not zero.
"""

import msgspec
import numpy as np

from wire_contract.errors import DecodeError, EncodeError
from wire_contract.layout import Vector

_INT8_MAX = 127
_INT4_MAX = 7
_FLOAT32_MAX = float(np.finfo(np.float32).max)
_FLOAT16_MAX = float(np.finfo(np.float16).max)


class Float32(msgspec.Struct, frozen=True, array_like=True, tag="f4", forbid_unknown_fields=True):
    """Four bytes per element, exact."""

    data: bytes

    def decode_into(self, out: Vector) -> None:
        out[...] = _numbers(self.data, np.dtype("<f4"), out.size)


class Float16(msgspec.Struct, frozen=True, array_like=True, tag="f2", forbid_unknown_fields=True):
    """Two bytes per element; relative error at most 2⁻¹¹ above 6.1e-5."""

    data: bytes

    def decode_into(self, out: Vector) -> None:
        out[...] = _numbers(self.data, np.dtype("<f2"), out.size)


class Int8(msgspec.Struct, frozen=True, array_like=True, tag="i1", forbid_unknown_fields=True):
    """One byte per element; absolute error at most scale / 2."""

    scale: float
    data: bytes

    def decode_into(self, out: Vector) -> None:
        scale = _checked_scale("int8", self.scale)
        _multiply(_numbers(self.data, np.dtype("i1"), out.size), scale, out)


class Int4(msgspec.Struct, frozen=True, array_like=True, tag="i4", forbid_unknown_fields=True):
    """Half a byte per element; absolute error at most scale / 2."""

    scale: float
    data: bytes

    def decode_into(self, out: Vector) -> None:
        scale = _checked_scale("int4", self.scale)
        pairs = _numbers(self.data, np.dtype("u1"), (out.size + 1) // 2)
        if out.size % 2 and pairs[-1] & 0xF:
            raise DecodeError("int4 tensor: the last nibble stands for no element and is not zero")
        # Arithmetic shifts of the signed byte extend the sign.
        _multiply(pairs.view(np.int8) >> 4, scale, out[0::2])
        _multiply(((pairs << 4).view(np.int8) >> 4)[: out.size // 2], scale, out[1::2])


DenseTensor = Float32 | Float16 | Int8 | Int4


def as_float32(values: Vector) -> Float32:
    return Float32(values.astype("<f4").tobytes())


def as_float16(values: Vector) -> Float16:
    peak = float(np.abs(values).max(initial=0.0))
    if peak > _FLOAT16_MAX:
        raise EncodeError(f"float16: a value of {peak:g} is over the largest float16, {_FLOAT16_MAX:g}")
    return Float16(values.astype("<f2").tobytes())


def as_int8(values: Vector) -> Int8:
    scale, symbols = _in_steps(values, _INT8_MAX)
    return Int8(scale, symbols.tobytes())


def as_int4(values: Vector) -> Int4:
    scale, symbols = _in_steps(values, _INT4_MAX)
    nibbles = np.zeros(values.size + values.size % 2, dtype=np.uint8)
    nibbles[: values.size] = symbols.view(np.uint8) & 0xF
    return Int4(scale, (nibbles[0::2] << 4 | nibbles[1::2]).tobytes())


def _in_steps(values: Vector, symbol_max: int) -> tuple[float, np.ndarray]:
    """The scale, and `values` as int8 symbols within ± `symbol_max`."""
    peak = float(np.abs(values).max(initial=0.0))
    if peak == 0.0:
        return 0.0, np.zeros(values.size, dtype=np.int8)
    # The scale is rounded to float32 first, as the decoder multiplies with float32. At both ends of its range this
    # matters: the peak must stay within half a step of the last symbol, and the last symbol must stay finite.
    scale = np.float32(peak / symbol_max)
    if float(scale) * (symbol_max + 0.5) < peak:
        scale = np.nextafter(scale, np.float32(np.inf))
    elif float(scale) * symbol_max > _FLOAT32_MAX:
        scale = np.nextafter(scale, np.float32(0))
    return float(scale), np.clip(np.rint(values / scale), -symbol_max, symbol_max).astype(np.int8)


def _numbers(data: bytes, dtype: np.dtype, count: int) -> np.ndarray:
    if len(data) != count * dtype.itemsize:
        raise DecodeError(f"tensor data: {len(data)} bytes are not {count} elements of {dtype.itemsize} bytes each")
    return np.frombuffer(data, dtype=dtype)


def _checked_scale(name: str, scale: float) -> np.float32:
    if not abs(scale) <= _FLOAT32_MAX:
        raise DecodeError(f"{name} tensor: scale {scale} is not a finite float32")
    return np.float32(scale)


def _multiply(symbols: np.ndarray, scale: np.float32, out: Vector) -> None:
    with np.errstate(over="ignore"):  # admission refuses infinity
        np.multiply(symbols, scale, out=out, dtype=np.float32)
