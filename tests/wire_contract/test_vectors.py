"""The test vectors are what the library says, and what a plain reader of docs/wire-format.md says."""

import hashlib
import math
import struct
from fractions import Fraction
from typing import Any

import msgpack
import msgspec
import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.laws.test_codec_laws import mutated
from tests.laws.test_gap_coded_laws import entries
from tests.vectors import bit_by_bit
from tests.vectors.form import FOLDER, as_json, fields_of, from_json, load, text_of, unframed
from tests.vectors.make import FILES
from tests.vectors.of_tensors import layout_of
from wire_contract import codec, messages, topics
from wire_contract.encoding import EncodedTensor, GapCoded, decode_vector
from wire_contract.encoding.gap_coded import encode_levels
from wire_contract.errors import DecodeError
from wire_contract.layout import Layout, TensorSpec, digest
from wire_contract.limits import CONTROL_LIMITS
from wire_contract.publication.deltas import GRIDS, apply_delta
from wire_contract.publication.manifest import decode_snapshot
from wire_contract.signatures.envelope import unwrap
from wire_contract.signatures.signing import NotTrusted, PublicKey, verified_signers

SAME_EACH_TIME = settings(derandomize=True, deadline=None, max_examples=200)


def each(name: str, label: str) -> pytest.MarkDecorator:
    vectors = load(name)
    return pytest.mark.parametrize("vector", vectors, ids=[vector[label] for vector in vectors])


def kind_of(vector: dict[str, Any]) -> type[messages.Message]:
    kind: type[messages.Message] = getattr(messages, vector["kind"])
    return kind


def entry_of(built: Any) -> EncodedTensor:
    entry: EncodedTensor = msgspec.convert(from_json(built), EncodedTensor)
    return entry


@pytest.mark.parametrize("name", sorted(FILES))
def test_the_files_are_what_the_generator_writes(name: str) -> None:
    """A difference is a change of the format, unless it is one of LZ4's own bytes: then another lz4 is installed."""
    assert (FOLDER / f"{name}.json").read_text() == text_of(FILES[name]())


@each("messages", "name")
def test_a_payload_is_the_message(vector: dict[str, Any]) -> None:
    payload = bytes.fromhex(vector["payload"])
    content = unframed(payload)
    assert content.hex() == vector["content"]
    message = codec.decode(payload, kind_of(vector))
    assert fields_of(message) == vector["message"]
    if vector["canonical"]:
        assert as_json(msgpack.unpackb(content)) == vector["message"]
        assert codec.encode(message) == payload
        assert msgpack.packb(from_json(vector["message"])) == content
    if vector["topic"] is not None:
        parsed = topics.parse(vector["topic"], root=topics.DEFAULT_ROOT)
        assert topics.TOPICS[parsed.kind].payload is kind_of(vector)


@each("frames", "why")
def test_content_of_several_blocks_is_read(vector: dict[str, Any]) -> None:
    payload = bytes.fromhex(vector["payload"])
    assert payload[4:6].hex() == vector["flg_bd"]
    content = codec.decompress(payload, CONTROL_LIMITS)
    assert (len(content), hashlib.sha256(content).hexdigest()) == (vector["size"], vector["sha256"])


@pytest.mark.parametrize("size", [1, 65_536, 65_537, 200_000])
def test_blocks_are_written_independent_of_each_other(size: int) -> None:
    for content in (bytes(size), np.random.default_rng(size).bytes(size)):
        assert codec.frame(content)[:6].hex() == "04224d186840"
        assert unframed(codec.frame(content)) == content


def test_there_is_a_vector_of_every_message_and_every_encoding() -> None:
    assert {vector["kind"] for vector in load("messages")} == {kind.__name__ for kind in codec.SCHEMAS}
    tags = {vector["entry"][0] for vector in load("tensors")} | ({"g"} if load("gap_coded") else set())
    assert tags == {kind.__struct_config__.tag for kind in EncodedTensor.__args__}


@each("layouts", "why")
def test_a_layout_has_its_fingerprint_and_weights_their_digest(vector: dict[str, Any]) -> None:
    layout = Layout(tuple(msgspec.convert(row, TensorSpec) for row in vector["tensors"]))
    hashed = bytes.fromhex(vector["hashed"])
    assert msgpack.unpackb(hashed) == [vector["tensors"]]
    assert hashed == b"\x91" + msgpack.packb(vector["tensors"]), "key `l` of a model, in an array of one"
    assert hashlib.sha256(hashed).hexdigest()[:16] == layout.fingerprint.hex() == vector["fingerprint"]
    if "weights" in vector:
        weights = bytes.fromhex(vector["weights"])
        assert hashlib.sha256(weights).hexdigest() == vector["digest"]
        assert digest(np.frombuffer(weights, dtype=np.float32)).hex() == vector["digest"]


@each("tensors", "why")
def test_an_entry_is_its_numbers(vector: dict[str, Any]) -> None:
    entry = entry_of(vector["entry"])
    assert decode_vector((entry,), layout_of(vector["sizes"])).astype("<f4").tobytes().hex() == vector["float32"]
    assert as_json(msgspec.to_builtins(entry, builtin_types=(bytes,))) == vector["entry"]


@each("gap_coded", "why")
def test_a_gap_coded_entry_is_its_levels(vector: dict[str, Any]) -> None:
    data, sizes = bytes.fromhex(vector["data"]), vector["sizes"]
    plain = bit_by_bit.read(data, sizes)
    assert plain.levels == vector["levels"]
    assert plain.float32.hex() == vector["float32"]
    assert [tensor.exponent for tensor in plain.tensors] == vector["exponents"]
    entry = GapCoded(len(sizes), data)
    assert decode_vector((entry,), layout_of(sizes)).astype("<f4").tobytes().hex() == vector["float32"]
    assert encode_levels(np.array(vector["levels"]), vector["exponents"], sizes) == entry
    assert "".join(vector["bits"].values()) == "".join(f"{byte:08b}" for byte in data)


def plainly(data: bytes, sizes: list[int]) -> bytes | None:
    try:
        return bit_by_bit.read(data, sizes).float32
    except bit_by_bit.Refused:
        return None


def by_the_library(data: bytes, sizes: list[int]) -> bytes | None:
    try:
        return decode_vector((GapCoded(len(sizes), data),), layout_of(sizes)).astype("<f4").tobytes()
    except DecodeError:
        return None


@SAME_EACH_TIME
@given(entries())
def test_the_plain_reader_and_the_library_read_the_same(drawn: tuple[GapCoded, list[int]]) -> None:
    entry, sizes = drawn
    read = plainly(entry.data, sizes)
    assert read is not None
    assert read == by_the_library(entry.data, sizes)


@SAME_EACH_TIME
@given(entries(), st.data())
def test_the_plain_reader_and_the_library_refuse_the_same(
    drawn: tuple[GapCoded, list[int]], data: st.DataObject
) -> None:
    entry, sizes = drawn
    damaged = data.draw(mutated(st.just(entry.data)))
    assert plainly(damaged, sizes) == by_the_library(damaged, sizes)


def test_deltas_lead_from_the_snapshot_to_the_digest() -> None:
    vector = load("deltas")[0]
    held = decode_snapshot(bytes.fromhex(vector["snapshot"]))
    assert as_json([spec.as_written for spec in held.layout.tensors]) == vector["layout"]
    assert (held.weights.tobytes().hex(), held.digest.hex()) == (vector["weights"], vector["digest"])
    for step in vector["steps"]:
        delta = codec.decode(bytes.fromhex(step["delta"]), messages.Delta)
        plain = [
            _float16(_float32(before + difference))
            for before, difference in zip(
                _floats(held.weights.tobytes()),
                _floats(decode_vector(delta.tensors, held.layout).tobytes()),
                strict=True,
            )
        ]
        held = apply_delta(held, delta)
        assert struct.pack(f"<{len(plain)}f", *plain).hex() == held.weights.tobytes().hex() == step["weights"]
        assert held.digest.hex() == hashlib.sha256(bytes.fromhex(step["weights"])).hexdigest() == step["digest"]


def test_a_fused_multiply_add_gives_another_digest() -> None:
    """In exact arithmetic: rounding the product first is not what rounding the sum alone gives."""
    vector = load("deltas")[2]
    held = decode_snapshot(bytes.fromhex(vector["snapshot"]))
    (step,) = vector["steps"]
    delta = codec.decode(bytes.fromhex(step["delta"]), messages.Delta)
    after = apply_delta(held, delta)
    assert (after.weights.tobytes().hex(), after.digest.hex()) == (step["weights"], step["digest"])
    (entry,) = delta.tensors
    assert isinstance(entry, GapCoded)
    plain = bit_by_bit.read(entry.data, held.layout.sizes)
    scales = [bit_by_bit.scale(tensor.exponent) for tensor in plain.tensors for _ in tensor.levels]
    weights = _floats(held.weights.tobytes())
    pairs = list(zip(weights, plain.levels, scales, strict=True))
    apart = [_float32(weight + _float32(level * scale)) for weight, level, scale in pairs]
    fused = [_rounded(Fraction(weight) + Fraction(level) * Fraction(scale)) for weight, level, scale in pairs]
    assert struct.pack(f"<{len(apart)}f", *apart).hex() == step["weights"]
    assert struct.pack(f"<{len(fused)}f", *fused).hex() == vector["fused"]["weights"] != step["weights"]
    assert hashlib.sha256(struct.pack(f"<{len(fused)}f", *fused)).hexdigest() == vector["fused"]["digest"]


def _rounded(exact: Fraction) -> float:
    """To the nearest float32, ties to even."""
    if not exact:
        return 0.0
    unit = Fraction(2) ** (math.frexp(float(exact))[1] - 24)
    return float(round(exact / unit) * unit)


def test_the_float16_grid_is_that_of_the_standard_library() -> None:
    vector = load("deltas")[1]
    values = np.frombuffer(bytes.fromhex(vector["from"]), dtype="<f4")
    assert GRIDS["float16"](values.astype(np.float32)).astype("<f4").tobytes().hex() == vector["to"]
    assert [_float16(value) for value in values.tolist()] == _floats(bytes.fromhex(vector["to"]))


def _floats(data: bytes) -> list[float]:
    return list(struct.unpack(f"<{len(data) // 4}f", data))


def _float32(value: float) -> float:
    (rounded,) = struct.unpack("<f", struct.pack("<f", value))
    return float(rounded)


def _float16(value: float) -> float:
    (rounded,) = struct.unpack("<e", struct.pack("<e", value))
    return float(rounded)


@each("refused_payloads", "name")
def test_a_payload_that_is_no_message_is_refused(vector: dict[str, Any]) -> None:
    with pytest.raises(DecodeError) as caught:
        codec.decode(bytes.fromhex(vector["payload"]), kind_of(vector))
    assert vector["error"] in str(caught.value)


@each("refused_tensors", "name")
def test_entries_that_are_not_of_the_layout_are_refused(vector: dict[str, Any]) -> None:
    with pytest.raises(DecodeError) as caught:
        decode_vector([entry_of(built) for built in vector["entries"]], layout_of(vector["sizes"]))
    assert vector["error"] in str(caught.value)


@each("signed", "name")
def test_a_signed_message_is_what_a_plain_reader_of_the_document_makes_of_it(vector: dict[str, Any]) -> None:
    """With nothing but msgpack, SHA-256 and the library's Ed25519."""
    content, domain = unframed(bytes.fromhex(vector["payload"])), f"fedkd {vector['kind'].lower()} v1\0".encode()
    assert content.hex() == vector["content"]
    found = msgpack.unpackb(content)
    assert (set(found), found["v"], found["m"].hex()) == ({"m", "sg", "v"}, 128, vector["body"])
    for (key_id, value), key in zip(found["sg"], vector["keys"], strict=True):
        public = bytes.fromhex(key["public"])
        assert hashlib.sha256(public).digest()[:8] == key_id == bytes.fromhex(key["key_id"])
        assert (domain + key_id + found["m"]).hex() == key["signed_bytes"]
        assert value.hex() == key["signature"]
        Ed25519PublicKey.from_public_bytes(public).verify(value, bytes.fromhex(key["signed_bytes"]))
        private = Ed25519PrivateKey.from_private_bytes(bytes.fromhex(key["seed"]))
        assert private.public_key().public_bytes_raw() == public
    read = codec.unpack(found["m"], kind_of(vector))
    assert codec.pack(read).hex() == vector["body"]


@each("signed", "name")
def test_what_is_wrong_with_a_signed_message_is_seen(vector: dict[str, Any]) -> None:
    known = [PublicKey(bytes.fromhex(key["public"])) for key in vector["keys"]]
    kind: Any = kind_of(vector)
    assert len(verified_signers(unwrap(bytes.fromhex(vector["payload"]), kind), known)) == len(known)
    for payload in vector["refused"].values():
        with pytest.raises(NotTrusted):
            verified_signers(unwrap(bytes.fromhex(payload), kind), known)
