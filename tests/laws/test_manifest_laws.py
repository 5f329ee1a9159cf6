"""A version is put together again bit for bit, or not at all."""

import hashlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec import structs

from tests.laws.wire import ENCODINGS, LAYOUTS, vectors
from tests.wire_contract.announcements import announce
from tests.wire_contract.keys import key_of
from wire_contract.codec import decode, encode
from wire_contract.encoding import EncodingName, Float32, decode_vector, encode_vector
from wire_contract.errors import DecodeError, EncodeError
from wire_contract.layout import Layout, TensorSpec, Vector, digest
from wire_contract.limits import (
    CHUNK_BYTES_MAX,
    CHUNKS_MAX,
    DELTA_BYTES_MAX,
    INLINE_BYTES_MAX,
    KEPT_DELTAS,
    KIB,
    MANIFEST_LIMITS,
    MODEL_LIMITS,
    NAME_CHARACTERS_MAX,
    SIGNATURES_MAX,
    TENSORS_MAX,
    TEXT_CHARACTERS_MAX,
)
from wire_contract.messages import Manifest, Model
from wire_contract.publication.manifest import Announcement, assemble_snapshot, chunk_digests, chunk_fits
from wire_contract.signatures.envelope import read_unverified
from wire_contract.signatures.signing import sign

LARGE = Layout((TensorSpec("a", (150, 100)), TensorSpec("b", (9_000,))))


def announced(layout: Layout, weights: Vector, encoding: EncodingName = "float32") -> Announcement:
    return announce(
        weights,
        task="t",
        version=7,
        parent=6,
        layout=layout,
        encoding=encoding,
        shards=1,
        update_bytes_max=1_000,
        published_at=1.0,
    )


@pytest.fixture(scope="module")
def chunked() -> Announcement:
    weights = np.random.default_rng(1).standard_normal(LARGE.size).astype(np.float32)
    result = announced(LARGE, weights)
    assert len(result.chunks) == 3
    return result


@given(LAYOUTS, ENCODINGS, st.data())
def test_a_small_model_travels_in_its_manifest(layout: Layout, encoding: EncodingName, data: st.DataObject) -> None:
    weights = data.draw(vectors(layout.size, largest=65_504.0))
    sent = announced(layout, weights, encoding)
    assert not sent.chunks
    got = assemble_snapshot(decode(encode(sent.manifest), Manifest))
    assert got is not None
    assert (got.task, got.version, got.layout) == ("t", 7, layout)
    expected = decode_vector(encode_vector(weights, layout, encoding), layout)
    assert got.weights.tobytes() == sent.published.weights.tobytes() == expected.tobytes()
    assert got.digest == digest(expected) == sent.manifest.digest


@settings(max_examples=20)
@given(st.integers(1, 60_000), ENCODINGS)
def test_models_of_any_size_come_back(size: int, encoding: EncodingName) -> None:
    layout = Layout((TensorSpec("a", (size,)),))
    sent = announced(layout, np.random.default_rng(size).standard_normal(size).astype(np.float32), encoding)
    assert all(len(chunk) == CHUNK_BYTES_MAX for chunk in sent.chunks[:-1])
    assert all(0 < len(chunk) <= CHUNK_BYTES_MAX for chunk in sent.chunks[-1:])
    assert sum(map(len, sent.chunks)) == (sent.manifest.size_bytes if sent.chunks else 0)
    assert (sent.manifest.size_bytes <= INLINE_BYTES_MAX) == (sent.manifest.inline is not None)
    manifest_bytes = encode(sent.manifest)
    assert len(manifest_bytes) <= 32 * KIB
    got = assemble_snapshot(decode(manifest_bytes, Manifest), dict(enumerate(sent.chunks)))
    assert got is not None
    assert got.weights.tobytes() == sent.published.weights.tobytes()


def test_missing_chunks_are_waited_for(chunked: Announcement) -> None:
    chunks = dict(enumerate(chunked.chunks))
    for missing in chunks:
        assert (
            assemble_snapshot(chunked.manifest, {index: chunk for index, chunk in chunks.items() if index != missing})
            is None
        )
    assert assemble_snapshot(chunked.manifest) is None


@given(st.data())
def test_a_changed_chunk_is_refused(chunked: Announcement, data: st.DataObject) -> None:
    chunks = dict(enumerate(chunked.chunks))
    index = data.draw(st.sampled_from(sorted(chunks)))
    changed = bytearray(chunks[index])
    if data.draw(st.booleans()):
        changed[data.draw(st.integers(0, len(changed) - 1))] ^= data.draw(st.integers(1, 255))
    else:
        del changed[data.draw(st.integers(0, len(changed) - 1)) :]
    assert not chunk_fits(chunked.manifest, index, bytes(changed))
    with pytest.raises(DecodeError, match="does not have its digest"):
        assemble_snapshot(chunked.manifest, {**chunks, index: bytes(changed)})


def test_chunks_of_another_size_are_refused(chunked: Announcement) -> None:
    payload = b"".join(chunked.chunks)
    pieces = [payload[:1000], payload[1000:30_000], payload[30_000:]]
    manifest = structs.replace(chunked.manifest, chunk_digests=chunk_digests(pieces))
    with pytest.raises(DecodeError, match="chunk 0 has 1000 bytes, not 32768"):
        assemble_snapshot(manifest, dict(enumerate(pieces)))


def test_the_largest_model_and_its_manifest_are_within_their_limits() -> None:
    """As many numbers as may be, in float32, that no compressor makes smaller; and the longest names in ASCII."""
    names = [str(at).rjust(TEXT_CHARACTERS_MAX, "x") for at in range(TENSORS_MAX)]
    each = MODEL_LIMITS.elements // TENSORS_MAX
    layout = Layout(tuple(TensorSpec(name, (each,)) for name in names))
    content = 4 * layout.size + sum(len(name.encode()) + 32 for name in names) + KIB
    blocks = -(-content // (64 * KIB))
    assert content + 4 * blocks + 19 <= MODEL_LIMITS.compressed_bytes, "stored as it is"
    assert content <= MODEL_LIMITS.decompressed_bytes
    chunks = -(-MODEL_LIMITS.compressed_bytes // CHUNK_BYTES_MAX)
    assert chunks == CHUNKS_MAX
    manifest = structs.replace(
        announced(layout=Layout((TensorSpec("a", (1,)),)), weights=np.zeros(1, np.float32)).manifest,
        task="t" * NAME_CHARACTERS_MAX,
        encoding="\N{GRINNING FACE}" * TEXT_CHARACTERS_MAX,
        inline=None,
        delta=np.random.default_rng(0).bytes(INLINE_BYTES_MAX),
        delta_sizes=(DELTA_BYTES_MAX,) * KEPT_DELTAS,
        size_bytes=MODEL_LIMITS.compressed_bytes,
        chunk_digests=tuple(hashlib.sha256(b"%d" % at).digest() for at in range(chunks)),
        expires_at=1.0,
    )
    keys = [key_of(bytes([at]) * 32) for at in range(SIGNATURES_MAX)]
    for payload in (encode(manifest), sign(manifest, keys)):
        assert len(payload) <= MANIFEST_LIMITS.compressed_bytes
        assert read_unverified(payload, Manifest) == manifest


def test_a_model_that_no_device_would_take_is_not_made() -> None:
    layout = Layout((TensorSpec("a", (MODEL_LIMITS.elements + 1,)),))
    with pytest.raises(EncodeError, match="16000001 numbers are over the 16000000 that devices take"):
        announced(layout, np.zeros(layout.size, np.float32))


def test_exchanged_and_unknown_chunks(chunked: Announcement) -> None:
    first, second, third = chunked.chunks
    with pytest.raises(DecodeError, match="does not have its digest"):
        assemble_snapshot(chunked.manifest, {0: second, 1: first, 2: third})
    assert not chunk_fits(chunked.manifest, 3, third)
    assert not chunk_fits(chunked.manifest, -1, third)


def test_a_manifest_that_says_something_else_is_refused(chunked: Announcement) -> None:
    chunks = dict(enumerate(chunked.chunks))
    for changes, said in (
        ({"size_bytes": chunked.manifest.size_bytes + 1}, "the manifest says"),
        ({"size_bytes": MODEL_LIMITS.compressed_bytes + 1}, "over the limit"),
        ({"version": 8}, "differ from the manifest"),
        ({"task": "u"}, "differ from the manifest"),
        ({"digest": bytes(32)}, "digest differs from the manifest"),
        ({"snapshot": 6}, "differ from the manifest"),
        ({"layout_fingerprint": bytes(8)}, "layout differs"),
    ):
        with pytest.raises(DecodeError, match=said):
            assemble_snapshot(structs.replace(chunked.manifest, **changes), chunks)


def test_a_model_whose_digest_is_not_of_its_weights_is_refused() -> None:
    layout = Layout((TensorSpec("a", (2,)),))
    sent = announced(layout, np.array([1, 2], dtype=np.float32))
    for values, said in (([1, 3], "do not have the digest"), ([1, np.nan], "not finite")):
        weights = np.array(values, dtype=np.float32)
        stated = digest(weights) if said == "not finite" else sent.manifest.digest
        tensors = (Float32(weights.tobytes()),)
        forged = Model(task="t", version=7, parent=6, layout=layout.tensors, tensors=tensors, digest=stated)
        manifest = structs.replace(sent.manifest, inline=encode(forged), digest=stated)
        with pytest.raises(DecodeError, match=said):
            assemble_snapshot(manifest)
