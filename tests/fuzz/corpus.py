"""Sound payloads of every kind to begin from: the test vectors, and larger ones with every encoding in them."""

from dataclasses import dataclass

import numpy as np

from tests.vectors.form import load
from wire_contract import messages
from wire_contract.codec import encode
from wire_contract.encoding import EncodedTensor, encode_vector
from wire_contract.encoding.dense import as_float16, as_float32, as_int4, as_int8
from wire_contract.encoding.gap_coded import encode_levels
from wire_contract.encoding.low_rank import LowRank
from wire_contract.layout import Layout, TensorSpec, Vector, digest
from wire_contract.limits import Limits
from wire_contract.messages import Delta, Message, Model, Update
from wire_contract.publication.manifest import PublishedVersion, encode_snapshot

LAYOUT = Layout(
    (
        TensorSpec("a", (12, 16)),
        TensorSpec("b", (7,)),
        TensorSpec("c", (3, 5, 2)),
        TensorSpec("d", ()),
        TensorSpec("e", (600,)),
    )
)
LIMITS = Limits(compressed_bytes=1 << 18, decompressed_bytes=1 << 20, elements=1 << 16)
"""Tighter than the real ones, so that a model that is as large as it may be is still decoded in milliseconds."""


@dataclass(frozen=True)
class Seed:
    """One sound payload."""

    kind: type[Message]
    payload: bytes


def _weights() -> Vector:
    # A formula, so that no release of numpy changes the corpus.
    places = np.arange(LAYOUT.size, dtype=np.float64)
    weights: Vector = (np.sin(places * places) * np.exp(-3 * np.cos(places))).astype(np.float32)
    return weights


def _all_encodings() -> tuple[EncodedTensor, ...]:
    """One entry of each tag, over the whole layout; "lr" of 8-bit steps, "g" over two tensors."""
    parts = [_weights()[start:stop] for start, stop in LAYOUT.bounds]
    levels = np.round(np.concatenate(parts[3:]) / np.float32(2)).astype(np.int64)
    return (
        LowRank(2, 12, as_int8(parts[0][:24]), as_float16(parts[0][:32])),
        as_int4(parts[1]),
        as_float32(parts[2]),
        encode_levels(np.clip(levels, -127, 127), [0, 9], [1, 600]),
    )


def _update(tensors: tuple[EncodedTensor, ...]) -> Seed:
    update = Update(
        task="t",
        device="d",
        incarnation=bytes(8),
        sequence=1,
        base_version=0,
        base_digest=digest(_weights()),
        layout_fingerprint=LAYOUT.fingerprint,
        samples=10,
        local_steps=3,
        train_seconds=0.5,
        metrics={"loss": 1.0, "accuracy": 0.5},
        tensors=tensors,
    )
    return Seed(Update, encode(update))


def base() -> PublishedVersion:
    """Where deltas begin."""
    _, published = encode_snapshot(_weights(), task="t", version=0, parent=None, layout=LAYOUT, encoding="float16")
    return published


def seeds() -> list[Seed]:
    """The same in each process."""
    model, published = encode_snapshot(_weights(), task="t", version=0, parent=None, layout=LAYOUT, encoding="float16")
    delta = Delta(
        task="t",
        version=1,
        parent_digest=published.digest,
        digest=published.digest,
        grid="float16",
        tensors=_all_encodings(),
    )
    found = [Seed(getattr(messages, vector["kind"]), bytes.fromhex(vector["payload"])) for vector in load("messages")]
    found += [_update(_all_encodings()), Seed(Model, model), Seed(Delta, encode(delta))]
    found += [
        _update(encode_vector(_weights(), LAYOUT, encoding)) for encoding in ("float32", "float16", "int8", "int4")
    ]
    levels = np.clip(np.round(_weights()), -127, 127).astype(np.int64)
    sizes = [spec.size for spec in LAYOUT.tensors]
    return [*found, _update((encode_levels(levels, [-30, 0, 5, 900, -1000], sizes),))]
