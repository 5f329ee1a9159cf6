"""A small model: its layout with its fingerprint, and lines of versions by deltas."""

from typing import Any

import numpy as np

from tests.vectors.form import as_json, packed
from wire_contract.encoding import EncodedTensor, encode_vector
from wire_contract.encoding.gap_coded import encode_levels
from wire_contract.encoding.scales import scales_of
from wire_contract.layout import Layout, TensorSpec, Vector, digest
from wire_contract.publication.deltas import GRIDS, make_delta
from wire_contract.publication.manifest import PublishedVersion, encode_snapshot

LAYOUT = Layout((TensorSpec("conv.weight", (2, 3)), TensorSpec("conv.bias", (2,)), TensorSpec("gain", ())))
SIZES = [spec.size for spec in LAYOUT.tensors]
WEIGHTS: Vector = np.array([1, -0.5, 0.25, 3, 0.1, -0.2, 0.001, 7, -1.5], dtype=np.float32)
TASK, DEVICE = "har", "watch-1"
INCARNATION = bytes(range(8))
LEVELS = [1, 0, -2, 0, 0, 1, 0, 0, -1]


def levels_of(exponents: list[int]) -> tuple[EncodedTensor, ...]:
    return (encode_levels(np.array(LEVELS), exponents, SIZES),)


def line() -> tuple[bytes, PublishedVersion, list[bytes], list[PublishedVersion]]:
    """The snapshot of version 0 in float16, and two deltas: one of int8 steps, one gap-coded."""
    payload, start = encode_snapshot(WEIGHTS, task=TASK, version=0, parent=None, layout=LAYOUT, encoding="float16")
    deltas, reached = [], [start]
    steps = (
        lambda _d, layout: encode_vector(WEIGHTS * np.float32(0.01), layout, "int8"),
        lambda *_: levels_of([-56] * 3),
    )
    for step in steps:
        delta, published = make_delta(WEIGHTS, reached[-1], encoding="float16", encode=step)
        deltas.append(delta)
        reached.append(published)
    return payload, start, deltas, reached


def deltas() -> list[dict[str, Any]]:
    payload, start, sent, reached = line()
    ties = [2049.0, 2051.0, 2.0**-25, 3 * 2.0**-25, -(2.0**-26), 65519.0, 0.1, 1e-40]
    rounded = GRIDS["float16"](np.array(ties, dtype=np.float32))
    return [
        {
            "why": "version 0 whole in float16, then p_v = float16(p_(v-1) + delta), each sum rounded to float32",
            "snapshot": payload.hex(),
            "layout": as_json([spec.as_written for spec in LAYOUT.tensors]),
            "weights": start.weights.tobytes().hex(),
            "digest": start.digest.hex(),
            "steps": [
                {"delta": delta.hex(), "weights": after.weights.tobytes().hex(), "digest": after.digest.hex()}
                for delta, after in zip(sent, reached[1:], strict=True)
            ],
        },
        {
            "why": "the float16 grid: to nearest, ties to even, and back to float32",
            "from": np.array(ties, dtype="<f4").tobytes().hex(),
            "to": rounded.astype("<f4").tobytes().hex(),
        },
        _fused(),
    ]


def _fused() -> dict[str, Any]:
    """One gap-coded delta in float32 whose sums come out otherwise where a multiply-add rounds once."""
    levels, exponents = np.array([101, -77, 0, 45, 3, -127, 59, 0, 91]), [-21, -27, -19]
    # Doubles hold these products and sums exactly, so that the one rounding is that of the fused operation.
    products = levels * np.repeat(scales_of(exponents), SIZES).astype(np.float64)
    weights = WEIGHTS.copy()
    weights[[0, 3, 5, 8]] = -products[[0, 3, 5, 8]]  # what is left of the sum is all that the rounding lost, or nothing
    payload, start = encode_snapshot(weights, task=TASK, version=0, parent=None, layout=LAYOUT, encoding="float32")
    delta, reached = make_delta(
        weights, start, encoding="float32", encode=lambda *_: (encode_levels(levels, exponents, SIZES),)
    )
    fused = (weights.astype(np.float64) + products).astype(np.float32)
    return {
        "why": "a delta that a fused multiply-add gets wrong: `fused` is what that makes of it",
        "snapshot": payload.hex(),
        "steps": [
            {"delta": delta.hex(), "weights": reached.weights.tobytes().hex(), "digest": reached.digest.hex()},
        ],
        "fused": {"weights": fused.tobytes().hex(), "digest": digest(fused).hex()},
    }


def layouts() -> list[dict[str, Any]]:
    normed = Layout(
        (
            TensorSpec("weight", (3,)),
            TensorSpec("running_mean", (3,), kind="mean"),
            TensorSpec("running_var", (3,), kind="second_moment"),
        )
    )
    one = Layout((TensorSpec("gewicht/ü", (200, 70_000)), TensorSpec("bias", (300,))))
    return [
        {
            "why": why,
            "tensors": as_json([spec.as_written for spec in layout.tensors]),
            "hashed": packed([[spec.as_written for spec in layout.tensors]]).hex(),
            "fingerprint": layout.fingerprint.hex(),
            **({"weights": WEIGHTS.tobytes().hex(), "digest": digest(WEIGHTS).hex()} if layout is LAYOUT else {}),
        }
        for why, layout in (
            ("three tensors, the last one a scalar; the digest is of the 9 float32 weights", LAYOUT),
            ("numbers take the fewest bytes msgpack has, names are UTF-8", one),
            ("running statistics follow the weights and say so; weights do not", normed),
        )
    ]
