"""Tensors on the wire: tagged arrays that contain everything needed to decode them.

    ["f4", data]                        float32                     dense.py
    ["f2", data]                        float16
    ["i1", scale, data]                 int8 steps
    ["i4", scale, data]                 int4 steps
    ["lr", rank, rows, left, right]     product of two factors      low_rank.py
    ["g", span, data]                   entropy-coded levels        gap_coded.py

A message's entries cover the layout's tensors in order: "g" covers as many as its `span` says, every other one covers
one. Apart from the entries, a decoder only needs the element counts of the tensors, which the layout gives.

Refused (DecodeError): entries that cover more or fewer tensors than there are, an unknown tag, and what each encoding
refuses. Values that are not finite pass the decoder; admission refuses them with a reason of its own.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Literal

import numpy as np

from wire_contract.encoding.dense import Float16, Float32, Int4, Int8, as_float16, as_float32, as_int4, as_int8
from wire_contract.encoding.gap_coded import GapCoded
from wire_contract.encoding.low_rank import LowRank
from wire_contract.errors import DecodeError, EncodeError
from wire_contract.layout import Layout, Vector

__all__ = [
    "ENCODERS",
    "EncodedTensor",
    "EncodingName",
    "Float16",
    "Float32",
    "GapCoded",
    "Int4",
    "Int8",
    "LowRank",
    "check_encodable",
    "decode_vector",
    "encode_vector",
    "span_of",
]

EncodingName = Literal["float32", "float16", "int8", "int4"]

EncodedTensor = Float32 | Float16 | Int8 | Int4 | LowRank | GapCoded

ENCODERS: Mapping[EncodingName, Callable[[Vector], EncodedTensor]] = {
    "float32": as_float32,
    "float16": as_float16,
    "int8": as_int8,
    "int4": as_int4,
}


def encode_vector(vector: Vector, layout: Layout, encoding: EncodingName) -> tuple[EncodedTensor, ...]:
    """Encodes each tensor of `vector` (layout.size,) in the same encoding; running statistics always in float32.

    Variances are small differences of statistics (`wire_contract/encoding/statistics.py`), which need every digit.

    Raises:
        EncodeError: a value is not finite, or too large for the encoding.
        LayoutError: the vector does not fit the layout.
    """
    check_encodable(vector, layout)
    return tuple(
        ENCODERS[encoding if spec.kind == "weight" else "float32"](vector[start:stop])
        for spec, (start, stop) in zip(layout.tensors, layout.bounds, strict=True)
    )


def check_encodable(vector: Vector, layout: Layout) -> None:
    """Raises LayoutError or EncodeError unless `vector` is finite and fits the layout."""
    layout.check(vector)
    if not np.isfinite(vector).all():
        raise EncodeError("the weights hold values that are not finite (NaN or infinity); training diverged")


def decode_vector(tensors: Sequence[EncodedTensor], layout: Layout, *, out: Vector | None = None) -> Vector:
    """Decodes the vector (layout.size,), into `out` if it is given.

    Raises:
        DecodeError: the tensors do not fit the layout, or an encoding is broken.
    """
    covered = sum(span_of(tensor) for tensor in tensors)
    if covered != len(layout.tensors):
        raise DecodeError(f"tensors: {covered} are here, the layout has {len(layout.tensors)}")
    vector = np.empty(layout.size, dtype=np.float32) if out is None else out
    first = 0
    for tensor in tensors:
        after = first + span_of(tensor)
        start, stop = layout.bounds[first][0], layout.bounds[after - 1][1]
        try:
            if isinstance(tensor, GapCoded):
                tensor.decode_into(vector[start:stop], layout.sizes[first:after])
            else:
                tensor.decode_into(vector[start:stop])
        except DecodeError as error:
            names = " to ".join(repr(layout.tensors[at].name) for at in dict.fromkeys((first, after - 1)))
            raise DecodeError(f"tensor {names}: {error}") from None
        first = after
    return vector


def span_of(tensor: EncodedTensor) -> int:
    """Number of tensors of the layout that an entry covers.

    Raises:
        DecodeError: it is below one.
    """
    if not isinstance(tensor, GapCoded):
        return 1
    if tensor.span < 1:
        raise DecodeError(f"tensors: an entry covers {tensor.span} of them")
    return tensor.span
