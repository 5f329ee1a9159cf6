"""A version is the same weights by deltas and as a snapshot, and what publishing loses comes with the next versions."""

from collections.abc import Callable
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec import structs

from tests.laws.wire import ENCODINGS, vectors
from wire_contract.codec import decode, encode
from wire_contract.compression.rate_control import CompressionTarget, encode_to_target
from wire_contract.encoding import EncodingName, Float32, Int8, decode_vector, encode_vector
from wire_contract.errors import DecodeError, EncodeError, LimitExceeded
from wire_contract.layout import Layout, TensorSpec, Vector
from wire_contract.limits import DELTA_BYTES_MAX, INLINE_BYTES_MAX, KEPT_DELTAS, KIB
from wire_contract.messages import Delta, Manifest
from wire_contract.publication.deltas import GRIDS, EncodeDelta, apply_delta, make_delta
from wire_contract.publication.manifest import PublishedVersion, assemble_snapshot, decode_snapshot, encode_snapshot
from wire_contract.publication.release import Release, first_release, next_release

LAYOUT = Layout((TensorSpec("a", (40, 50)), TensorSpec("b", (100,)), TensorSpec("c", ())))
GRID_NAMES: st.SearchStrategy[Any] = st.sampled_from(sorted(GRIDS))


def dense(name: EncodingName) -> EncodeDelta:
    return lambda difference, layout: encode_vector(difference, layout, name)


def planned(size_bytes: int) -> EncodeDelta:
    plan = CompressionTarget(bytes_max=size_bytes)
    return lambda difference, layout: encode_to_target(difference, layout, plan)


ENCODERS_OF_DELTAS: dict[str, EncodeDelta] = {
    "int8": dense("int8"),
    "int4": dense("int4"),
    "300 bytes": planned(300),
    "1000 bytes": planned(1_000),
}


def line(
    seed: int,
    versions: int,
    *,
    encoding: EncodingName = "float16",
    encode_delta: EncodeDelta | None = ENCODERS_OF_DELTAS["int8"],
    snapshot_versions: int = KEPT_DELTAS,
    layout: Layout = LAYOUT,
    delta_bytes_max: int = INLINE_BYTES_MAX,
    step: float = 0.01,
    then: Callable[[Release, Vector], None] = lambda _shelf, _weights: None,
) -> list[Release]:
    """Version 0 and so many after it, each with its master weights told to `then`."""
    random = np.random.default_rng(seed)
    weights = (0.1 * random.standard_normal(layout.size)).astype(np.float32)
    shelves = [first_release(weights, task="t", layout=layout, encoding=encoding, published_at=1.0)]
    for version in range(1, versions + 1):
        weights = weights + (step * random.standard_t(3, layout.size)).astype(np.float32)
        shelves.append(
            next_release(
                shelves[-1],
                weights,
                encoding=encoding,
                encode_delta=encode_delta,
                snapshot_versions=snapshot_versions,
                published_at=1.0 + version,
                delta_bytes_max=delta_bytes_max,
            )
        )
        then(shelves[-1], weights)
    return shelves


@given(st.integers(0, 99), GRID_NAMES, st.sampled_from(sorted(ENCODERS_OF_DELTAS)), st.integers(1, KEPT_DELTAS))
@settings(deadline=None, max_examples=12)
def test_by_deltas_or_as_a_snapshot_a_version_is_the_same_bits(
    seed: int, grid: EncodingName, encoder: str, snapshot_versions: int
) -> None:
    shelves = line(
        seed, 12, encoding=grid, encode_delta=ENCODERS_OF_DELTAS[encoder], snapshot_versions=snapshot_versions
    )
    held = shelves[0].published
    snapshots: dict[int, PublishedVersion] = {}
    for shelf in shelves[1:]:
        sent = shelf.announcement(shards=1, update_bytes_max=1)
        manifest = decode(encode(sent.manifest), Manifest)
        assert manifest.delta is not None
        held = apply_delta(held, decode(manifest.delta, Delta))
        model = decode_snapshot(shelf.model)
        assert held.weights.tobytes() == model.weights.tobytes() == shelf.published.weights.tobytes()
        assert held.digest == model.digest == manifest.digest
        joined = assemble_snapshot(manifest, dict(enumerate(sent.chunks)))
        assert joined is not None
        snapshots[joined.version] = joined
        for version in range(joined.version + 1, shelf.version + 1):  # a late joiner's way
            joined = apply_delta(joined, decode(sent.deltas[version], Delta))
        assert joined.weights.tobytes() == held.weights.tobytes()
        assert shelf.version - manifest.snapshot_version < snapshot_versions
        assert manifest.delta_sizes == tuple(len(sent.deltas[shelf.version - n]) for n in range(len(sent.deltas)))
    assert all(shelves[version].published.digest == one.digest for version, one in snapshots.items())


@pytest.mark.parametrize("grid", sorted(GRIDS))
@pytest.mark.parametrize("encoder", sorted(ENCODERS_OF_DELTAS))
def test_what_was_sent_and_what_is_left_are_what_was_learned(grid: EncodingName, encoder: str) -> None:
    """Σ sent + residual = Σ learned, and the residual does not grow with the versions."""
    residuals: list[float] = []
    sent: list[Vector] = []
    masters: list[Vector] = []

    def then(shelf: Release, weights: Vector) -> None:
        delta = decode(shelf.deltas[0], Delta)
        sent.append(decode_vector(delta.tensors, LAYOUT))
        masters.append(weights)
        residuals.append(float(np.linalg.norm(weights - shelf.published.weights)))

    shelves = line(3, 60, encoding=grid, encode_delta=ENCODERS_OF_DELTAS[encoder], then=then)
    assert all(shelf.deltas for shelf in shelves[1:])
    learned = masters[-1].astype(np.float64) - shelves[0].published.weights
    residual = masters[-1].astype(np.float64) - shelves[-1].published.weights
    # Each rounding to the grid is at most half a unit in the last place of float16 (2^-11) of weights below 2.
    rounding = 60 * (2.0**-11 if grid == "float16" else 2.0**-22)
    assert np.abs(np.sum(sent, axis=0, dtype=np.float64) + residual - learned).max() <= rounding
    early, late = max(residuals[10:30]), max(residuals[40:])
    assert late <= 2.0 * early, "bounded over many versions"
    assert late < 0.5 * float(np.linalg.norm(learned)), "and small beside what was learned"


@pytest.mark.parametrize(("encode_delta", "versions", "left"), [(planned(300), 25, 0.2), (dense("int8"), 5, 1e-5)])
def test_a_line_that_rests_comes_to_the_master_weights(encode_delta: EncodeDelta, versions: int, left: float) -> None:
    shelf = line(1, 5, encode_delta=planned(300))[-1]
    step = np.random.default_rng(0).standard_normal(LAYOUT.size).astype(np.float32)
    weights = shelf.published.weights + np.float32(0.01) * step
    distance = float(np.linalg.norm(weights - shelf.published.weights))
    for _ in range(versions):
        shelf = next_release(
            shelf, weights, encoding="float32", encode_delta=encode_delta, snapshot_versions=8, published_at=1.0
        )
    assert float(np.linalg.norm(weights - shelf.published.weights)) < left * distance


def test_without_feedback_what_is_lost_would_stay_lost() -> None:
    """The same line, each version encoding only its own step: what the feedback is worth."""
    masters: list[Vector] = []
    shelves = line(4, 40, encode_delta=planned(300), then=lambda _, weights: masters.append(weights))
    open_loop = shelves[0].published.weights.copy()
    for before, after in pairwise([shelves[0].published.weights, *masters]):
        open_loop += decode_vector(planned(300)(after - before, LAYOUT), LAYOUT)
    fed_back = float(np.linalg.norm(masters[-1] - shelves[-1].published.weights))
    assert fed_back < 0.8 * float(np.linalg.norm(masters[-1] - open_loop))


@given(vectors(50))
def test_the_float16_grid_is_what_float16_snapshots_hold(vector: Vector) -> None:
    layout = Layout((TensorSpec("a", (50,)),))
    on_grid = GRIDS["float16"](vector)
    assert GRIDS["float16"](on_grid).tobytes() == on_grid.tobytes()
    if np.isfinite(on_grid).all():
        _, published = encode_snapshot(on_grid, task="t", version=0, parent=None, layout=layout, encoding="float16")
        assert published.weights.tobytes() == on_grid.tobytes()


def test_ties_go_to_the_even_float16() -> None:
    values = np.array([2049.0, 2051.0, 2.0**-25, 3 * 2.0**-25, -(2.0**-26), 65519.0], dtype=np.float32)
    expected = np.array([2048.0, 2052.0, 0.0, 2.0**-23, -0.0, 65504.0], dtype=np.float32)
    assert GRIDS["float16"](values).tobytes() == expected.tobytes()


# When there is no delta.


@given(st.integers(0, 99), ENCODINGS)
@settings(max_examples=20, deadline=None)
def test_without_deltas_every_version_goes_whole(seed: int, encoding: EncodingName) -> None:
    for shelf in line(seed, 3, encoding=encoding, encode_delta=None):
        assert shelf.is_snapshot
        assert not shelf.deltas
        assert assemble_snapshot(shelf.announcement(shards=1, update_bytes_max=1).manifest) is not None


@pytest.mark.parametrize("encoding", ["int8", "int4"])
def test_encodings_whose_steps_move_have_no_deltas(encoding: EncodingName) -> None:
    assert not any(shelf.deltas for shelf in line(0, 3, encoding=encoding))


def test_a_small_model_gains_nothing_by_deltas() -> None:
    small = Layout((TensorSpec("a", (100,)),))
    assert not any(shelf.deltas for shelf in line(0, 3, layout=small))


def test_a_delta_that_is_no_message_makes_a_key_version() -> None:
    large = Layout((TensorSpec("a", (30 * KIB,)),))
    assert not any(shelf.deltas for shelf in line(0, 2, layout=large))
    followed = line(0, 2, layout=large, encode_delta=planned(2_000))
    assert [len(shelf.deltas) for shelf in followed] == [0, 1, 2]
    before = followed[-1].published
    with pytest.raises(EncodeError, match=f"over the limit of {INLINE_BYTES_MAX}"):
        make_delta(
            np.random.default_rng(0).standard_normal(large.size).astype(np.float32),
            before,
            encoding="float32",
            encode=dense("float32"),
        )


def test_a_delta_too_large_for_the_manifest_has_only_its_own_topic() -> None:
    large = Layout((TensorSpec("a", (30 * KIB,)),))
    key, *shelves = line(0, 3, layout=large, delta_bytes_max=32 * KIB)
    held = key.published
    for shelf in shelves:
        sent = shelf.announcement(shards=1, update_bytes_max=1)
        manifest = decode(encode(sent.manifest), Manifest)
        delta = sent.deltas[shelf.version]
        assert INLINE_BYTES_MAX < len(delta) <= 32 * KIB
        assert (manifest.delta, manifest.delta_sizes[0]) == (None, len(delta))
        assert len(encode(sent.manifest)) < KIB
        held = apply_delta(held, decode(delta, Delta))
        assert held.digest == manifest.digest == decode_snapshot(shelf.model).digest
    assert [len(shelf.deltas) for shelf in shelves] == [1, 2, 3]


def test_no_reader_takes_a_delta_over_the_largest() -> None:
    values = np.random.default_rng(0).integers(-127, 128, DELTA_BYTES_MAX, dtype=np.int8)
    delta = Delta(
        task="t",
        version=1,
        parent_digest=bytes(32),
        digest=bytes(32),
        grid="float32",
        tensors=(Int8(1.0, values.tobytes()),),
    )
    with pytest.raises(LimitExceeded, match=f"over the limit of {DELTA_BYTES_MAX}"):
        decode(encode(delta), Delta)
    smaller = structs.replace(delta, tensors=(Int8(1.0, values[KIB:].tobytes()),))
    assert decode(encode(smaller), Delta) == smaller


def test_a_weight_beyond_the_grid_makes_a_key_version_in_a_wider_one() -> None:
    shelf = line(0, 3)[-1]
    weights = shelf.published.weights.copy()
    weights[0] = 1e6
    with pytest.raises(EncodeError, match="beyond float16"):
        make_delta(weights, shelf.published, encoding="float16", encode=dense("int8"))
    with pytest.raises(EncodeError):
        next_release(
            shelf, weights, encoding="float16", encode_delta=dense("int8"), snapshot_versions=8, published_at=9.0
        )
    wider = next_release(
        shelf, weights, encoding="float32", encode_delta=dense("int8"), snapshot_versions=8, published_at=9.0
    )
    assert wider.deltas, "a delta may lead to another grid"
    reached = apply_delta(shelf.published, decode(wider.deltas[0], Delta))
    assert reached.weights.tobytes() == decode_snapshot(wider.model).weights.tobytes()


def test_a_snapshot_that_travelled_inside_is_gone_with_the_next_manifest() -> None:
    shelves = line(0, 3)
    assert [shelf.is_inline for shelf in shelves] == [True, False, False, False]
    assert [shelf.snapshot_version for shelf in shelves] == [0, 1, 1, 1]
    assert [len(shelf.chunks) for shelf in shelves] == [0, 1, 1, 1]


# What is refused.


@pytest.fixture(scope="module")
def step() -> tuple[PublishedVersion, Delta]:
    shelves = line(5, 2, encoding="float32")
    return shelves[1].published, decode(shelves[2].deltas[0], Delta)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"task": "u"}, "does not follow from"),
        ({"version": 3}, "does not follow from"),
        ({"parent_digest": bytes(32)}, "does not follow from"),
        ({"digest": bytes(32)}, "does not lead to the digest"),
        ({"grid": "float16"}, "does not lead to the digest"),
        ({"tensors": ()}, "tensors"),
    ],
)
def test_a_delta_that_says_something_else_is_refused(
    step: tuple[PublishedVersion, Delta], changes: dict[str, Any], words: str
) -> None:
    before, delta = step
    assert apply_delta(before, delta).digest == delta.digest
    with pytest.raises(DecodeError, match=words):
        apply_delta(before, structs.replace(delta, **changes))


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 3.4e38])
def test_a_delta_to_weights_that_are_not_finite_is_refused(step: tuple[PublishedVersion, Delta], value: float) -> None:
    before, delta = step
    large = PublishedVersion("t", 1, before.layout, np.full(LAYOUT.size, 3e38, dtype=np.float32), before.digest)
    tensors = tuple(Float32(np.full(spec.size, value, dtype="<f4").tobytes()) for spec in LAYOUT.tensors)
    with pytest.raises(DecodeError, match="not finite"):
        apply_delta(large, structs.replace(delta, tensors=tensors))


def test_a_delta_of_a_foreign_layout_is_refused(step: tuple[PublishedVersion, Delta]) -> None:
    before, delta = step
    foreign = Layout((TensorSpec("a", (LAYOUT.size + 1,)),))
    tensors = encode_vector(np.zeros(foreign.size, dtype=np.float32), foreign, "int8")
    with pytest.raises(DecodeError, match="delta 2"):
        apply_delta(before, structs.replace(delta, tensors=tensors))
