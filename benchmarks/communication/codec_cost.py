"""Cost of encoding and decoding, and how close the encoded size is to the entropy of its symbols."""

import statistics
import time
import tracemalloc
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from device_client.settings import UPDATE_BYTES
from wire_contract.compression.choice import EncodingChoice, TopK, encode_as
from wire_contract.compression.rate_control import CompressionTarget
from wire_contract.compression.rate_search import encoded_bytes
from wire_contract.encoding import decode_vector
from wire_contract.encoding.entropy import entropy_bits
from wire_contract.layout import Layout, TensorSpec, Vector

REPEATS = 21
"""Chosen: the median of 21 is little moved by interruptions. Odd, so that it is one of them."""
LARGE = Layout((TensorSpec("weight", (250, 1000)),))
"""250,000 parameters in one tensor."""
LARGE_OF_SEVERAL = Layout(
    (
        *(TensorSpec(f"convolution.{at}.weight", (96, 96, 5)) for at in range(4)),
        *(TensorSpec(f"convolution.{at}.bias", (96,)) for at in range(4)),
        TensorSpec("hidden.weight", (180, 320)),
        TensorSpec("hidden.bias", (180,)),
        TensorSpec("head.weight", (41, 180)),
        TensorSpec("head.bias", (136,)),
    )
)
"""The same size as tensors of a network, with different spreads."""
LARGE_CHOICES: Mapping[str, EncodingChoice] = {
    "default": CompressionTarget(bytes_max=UPDATE_BYTES),
    "4 KiB": CompressionTarget(bytes_max=4_096),
    "16 KiB": CompressionTarget(bytes_max=16_384),
    "top 1 %": TopK(share=0.01),
    "top 3 %": TopK(share=0.03),
}


def cost_of_choice(choice: EncodingChoice, vector: Vector, layout: Layout, *, version: int) -> dict[str, float]:
    """Bytes, bits per parameter compared with the entropy of the symbols, median times in µs, and peak memory."""
    tensors = encode_as(choice, vector, layout, version=version)
    out = np.empty(layout.size, dtype=np.float32)
    spent = entropy_bits(tensors, layout)
    return {
        "update_bytes": float(encoded_bytes(tensors)),
        "bits_per_parameter": 8.0 * encoded_bytes(tensors) / layout.size,
        "symbol_bits_per_parameter": (spent.symbols + spent.heads) / layout.size,
        "entropy_bits_per_parameter": spent.entropy / layout.size,
        "encode_microseconds": microseconds(lambda: encode_as(choice, vector, layout, version=version)),
        "decode_microseconds": microseconds(lambda: decode_vector(tensors, layout, out=out)),
        "peak_bytes": float(peak_bytes(lambda: encode_as(choice, vector, layout, version=version))),
    }


def cost_of_large_vectors() -> dict[str, Any]:
    """Time to decode one update of 250,000 parameters, compared with the simplest pass: out += scale · int8."""
    rows = [
        _cost_of_large(f"{name}{suffix}", choice, layout)
        for suffix, layout in (("", LARGE), (f", {len(LARGE_OF_SEVERAL.tensors)} tensors", LARGE_OF_SEVERAL))
        for name, choice in LARGE_CHOICES.items()
    ]
    return {
        "parameters": LARGE.size,
        "int8_add_microseconds": statistics.median(row["int8_add_microseconds"] for row in rows),
        "rows": rows,
    }


def _cost_of_large(name: str, choice: EncodingChoice, layout: Layout) -> dict[str, Any]:
    random = np.random.default_rng(0)
    spreads = np.exp(random.normal(0.0, 0.5, len(layout.tensors))) if len(layout.tensors) > 1 else np.ones(1)
    vector = (random.laplace(size=layout.size) * spreads.repeat(layout.sizes)).astype(np.float32)
    symbols = np.clip(np.rint(vector * 20), -127, 127).astype(np.int8)
    out, scratch = np.zeros(layout.size, dtype=np.float32), np.empty(layout.size, dtype=np.float32)
    tensors = encode_as(choice, vector, layout, version=0)

    def int8_add() -> None:
        np.multiply(symbols, np.float32(0.05), out=scratch, dtype=np.float32)
        np.add(out, scratch, out=out)

    # Alternating, so that other load on the machine affects both.
    decoded, added = [], []
    for _ in range(REPEATS):
        decoded.append(microseconds(lambda: decode_vector(tensors, layout, out=scratch), repeats=5))
        added.append(microseconds(int8_add, repeats=5))
    spent = entropy_bits(tensors, layout)
    return {
        "name": name,
        "update_bytes": encoded_bytes(tensors),
        "to_entropy": (spent.symbols + spent.heads) / spent.entropy,
        "decode_microseconds": statistics.median(decoded),
        "int8_add_microseconds": statistics.median(added),
        "decode_to_int8_add": statistics.median(one / other for one, other in zip(decoded, added, strict=True)),
    }


def microseconds(act: Callable[[], object], *, repeats: int = REPEATS) -> float:
    """Median time of `act`."""
    act()
    times = []
    for _ in range(repeats):
        began = time.perf_counter()
        act()
        times.append(time.perf_counter() - began)
    return statistics.median(times) * 1e6


def peak_bytes(act: Callable[[], object]) -> int:
    """Peak memory that `act` allocates."""
    tracemalloc.start()
    try:
        act()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
