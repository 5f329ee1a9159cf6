"""Strategies: what can stand on the wire."""

import msgspec
import numpy as np
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

from wire_contract.encoding import EncodedTensor, EncodingName, Float16, Float32, GapCoded, Int4, Int8, LowRank
from wire_contract.layout import Layout, TensorSpec, Vector
from wire_contract.limits import METRIC_MAX
from wire_contract.line_description import FixedBuffer, LineDescription
from wire_contract.main_metric import MainMetric
from wire_contract.messages import (
    AggregatorStatus,
    Delta,
    Evaluation,
    Manifest,
    Message,
    Model,
    Presence,
    Receipt,
    Signature,
    Signed,
    Update,
)
from wire_contract.summary import MeasuredAccuracy, MeasuredVersion, SeenDevice, StalenessBucket, Summary

COUNTS = st.integers(0, 2**53)
FINITE = st.floats(allow_nan=False, allow_infinity=False)
MOMENTS = st.floats(0, 1e12)
TEXTS = st.text(max_size=30)
METRICS = st.dictionaries(TEXTS, FINITE, max_size=4)
MAIN_METRICS = st.just(msgspec.UNSET) | st.builds(MainMetric, st.text(min_size=1, max_size=64), st.booleans())
NAMES = st.from_regex(r"[A-Za-z0-9][A-Za-z0-9_.\-]{0,63}", fullmatch=True)
DIGESTS = st.binary(min_size=32, max_size=32)
EIGHT = st.binary(min_size=8, max_size=8)
REASONS = st.sampled_from(["too_stale", "unknown_base", "malformed", "not_finite", "too_large", "norm", "layout"])
ENCODINGS: st.SearchStrategy[EncodingName] = st.sampled_from(["float32", "float16", "int8", "int4"])

SHAPES = st.lists(st.integers(1, 5), max_size=3).map(tuple)
LAYOUTS: st.SearchStrategy[Layout] = st.lists(
    st.builds(TensorSpec, TEXTS, SHAPES), min_size=1, max_size=4, unique_by=lambda spec: spec.name
).map(lambda specs: Layout(tuple(specs)))

DENSE: st.SearchStrategy[Float32 | Float16 | Int8 | Int4] = st.one_of(
    st.builds(Float32, st.binary(max_size=16)),
    st.builds(Float16, st.binary(max_size=16)),
    st.builds(Int8, FINITE, st.binary(max_size=16)),
    st.builds(Int4, FINITE, st.binary(max_size=16)),
)
TENSORS: st.SearchStrategy[tuple[EncodedTensor, ...]] = st.lists(
    st.one_of(
        DENSE,
        st.builds(LowRank, st.integers(-1, 5), st.integers(-1, 5), DENSE, DENSE),
        st.builds(GapCoded, st.integers(1, 5), st.binary(max_size=16)),
    ),
    max_size=4,
).map(tuple)

FIXED_BUFFERS = st.builds(
    FixedBuffer, st.binary(min_size=4, max_size=4), st.just(()) | st.lists(FINITE, min_size=4, max_size=4).map(tuple)
)
DESCRIPTIONS = st.builds(
    LineDescription,
    label_count=COUNTS,
    label_fingerprint=EIGHT,
    labels=st.lists(TEXTS, max_size=4).map(tuple),
    buffers=st.dictionaries(TEXTS, FIXED_BUFFERS, max_size=3),
    further=st.none() | FIXED_BUFFERS,
)

UPDATES: st.SearchStrategy[Update] = st.builds(
    Update,
    task=NAMES,
    device=NAMES,
    incarnation=EIGHT,
    sequence=st.integers(1, 2**53),
    base_version=COUNTS,
    base_digest=DIGESTS,
    layout_fingerprint=EIGHT,
    samples=st.integers(1, 2**53),
    local_steps=COUNTS,
    train_seconds=st.floats(0, 1e12),
    metrics=METRICS,
    tensors=TENSORS,
    schema=st.just(1),
)

MESSAGES: st.SearchStrategy[Message] = st.one_of(
    UPDATES,
    st.builds(
        Model,
        task=NAMES,
        version=COUNTS,
        parent=st.none() | COUNTS,
        layout=LAYOUTS.map(lambda layout: layout.tensors),
        tensors=TENSORS,
        digest=DIGESTS,
        schema=st.just(1),
    ),
    st.builds(
        Delta,
        task=NAMES,
        version=st.integers(1, 2**53),
        parent_digest=DIGESTS,
        digest=DIGESTS,
        grid=st.sampled_from(["float32", "float16"]),
        tensors=TENSORS,
        schema=st.just(1),
    ),
    st.builds(
        Manifest,
        task=NAMES,
        version=COUNTS,
        parent=st.none() | COUNTS,
        digest=DIGESTS,
        layout_fingerprint=EIGHT,
        encoding=TEXTS,
        size_bytes=COUNTS,
        chunk_digests=st.lists(DIGESTS, max_size=3).map(tuple),
        inline=st.none() | st.binary(max_size=40),
        snapshot=st.none() | COUNTS,
        delta=st.none() | st.binary(max_size=40),
        delta_sizes=st.lists(COUNTS, max_size=8).map(tuple),
        shards=st.integers(1, 65_536),
        update_bytes_max=st.integers(1, 2**40),
        published_at=st.floats(0, 1e12),
        expires_at=st.none() | st.floats(0, 1e12),
        next_line=st.none() | NAMES,
        closed=st.booleans(),
        line=st.none() | DESCRIPTIONS,
        schema=st.just(2),
    ),
    st.builds(
        Signed,
        body=st.binary(max_size=40),
        signatures=st.lists(
            st.builds(Signature, EIGHT, st.binary(min_size=64, max_size=64)), min_size=1, max_size=4
        ).map(tuple),
        schema=st.just(128),
    ),
    st.builds(
        Receipt,
        incarnation=st.just(b"") | EIGHT,
        sequence=COUNTS,
        outcome=st.sampled_from(["merged", "duplicate", "refused"]),
        version=COUNTS,
        weight=FINITE,
        staleness=COUNTS,
        reason=st.none() | REASONS,
        detail=TEXTS,
        payload_digest=st.just(b"") | EIGHT,
        schema=st.just(1),
    ),
    st.builds(
        Presence,
        status=st.sampled_from(["online", "offline"]),
        firmware=TEXTS,
        capability=st.dictionaries(TEXTS, TEXTS, max_size=3),
        schema=st.just(1),
    ),
    st.builds(
        Evaluation,
        task=NAMES,
        device=NAMES,
        version=COUNTS,
        digest=DIGESTS,
        samples=COUNTS,
        metrics=METRICS,
        declared=MAIN_METRICS,
        schema=st.just(1),
    ),
    st.builds(
        AggregatorStatus,
        status=st.sampled_from(["online", "offline"]),
        version=COUNTS,
        counters=st.dictionaries(TEXTS, COUNTS, max_size=3),
        summary=st.none()
        | st.builds(
            Summary,
            at=MOMENTS,
            since=MOMENTS,
            accuracies=st.lists(st.builds(MeasuredAccuracy, COUNTS, NAMES, st.floats(0, 1), MOMENTS), max_size=3).map(
                tuple
            ),
            declared=MAIN_METRICS,
            measured=st.just(msgspec.UNSET)
            | st.lists(
                st.builds(MeasuredVersion, COUNTS, NAMES, st.floats(-METRIC_MAX, METRIC_MAX), MOMENTS), max_size=3
            ).map(tuple),
            staleness=st.lists(st.builds(StalenessBucket, COUNTS, COUNTS), max_size=3).map(tuple),
            devices=st.lists(
                st.builds(
                    SeenDevice,
                    NAMES,
                    st.sampled_from(["merged", "duplicate", "refused"]),
                    COUNTS,
                    MOMENTS,
                    COUNTS,
                ),
                max_size=3,
            ).map(tuple),
            updates_per_minute=COUNTS,
            bytes_up=COUNTS,
            bytes_down=COUNTS,
        ),
        schema=st.just(1),
    ),
)


def vectors(size: int, *, largest: float = float(np.finfo(np.float32).max)) -> st.SearchStrategy[Vector]:
    """Finite float32 vectors, zeros and subnormals among them."""
    bound = float(np.float32(largest))
    return npst.arrays(np.float32, size, elements=st.floats(-bound, bound, width=32))
