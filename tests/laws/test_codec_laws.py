"""Any bytes give a message or a DecodeError, and never more memory than the limits say."""

import hashlib
import struct
import tracemalloc
from contextlib import suppress

import lz4.frame
import msgpack
import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.laws.wire import MESSAGES, UPDATES
from wire_contract.codec import LEFT_OUT_BY_DEFAULT, SCHEMAS, decode, encode
from wire_contract.encoding import Float32
from wire_contract.errors import DecodeError, LimitExceeded, UnknownSchema
from wire_contract.layout import TensorSpec
from wire_contract.limits import CHUNKS_MAX, KIB, MIB, UPDATE_LIMITS, Limits
from wire_contract.messages import Evaluation, Manifest, Message, Model, Presence, Receipt, Update, has_unknown_status

KINDS = tuple(SCHEMAS)
TIGHT = Limits(compressed_bytes=64 * KIB, decompressed_bytes=256 * KIB)
UPDATE = Update(
    task="t",
    device="d",
    incarnation=b"incarnat",
    sequence=1,
    base_version=0,
    base_digest=bytes(32),
    layout_fingerprint=bytes(8),
    samples=1,
    local_steps=1,
    train_seconds=1.0,
    metrics={"loss": 0.5},
    tensors=(Float32(bytes(8)),),
)


def frame(content: bytes) -> bytes:
    return bytes(lz4.frame.compress(content, store_size=True))


def refused(payload: bytes, kind: type[Message] = Update, limits: Limits | None = None) -> str:
    with pytest.raises(DecodeError) as caught:
        decode(payload, kind, limits=limits)
    return str(caught.value)


def fields(message: Message = UPDATE, **changes: object) -> bytes:
    """The message with some of its fields replaced by whatever msgpack can say."""
    content = msgspec.msgpack.decode(msgspec.msgpack.encode(message))
    return frame(msgspec.msgpack.encode({**content, **changes}))


@given(MESSAGES)
def test_every_message_comes_back(message: Message) -> None:
    assert decode(encode(message), type(message)) == message


@given(MESSAGES)
def test_what_stands_on_the_wire_is_plain_msgpack(message: Message) -> None:
    """Two implementations that know nothing of each other agree on every byte: firmware may take either."""
    content = lz4.frame.decompress(encode(message))
    built = msgspec.to_builtins(message, builtin_types=(bytes,))
    if isinstance(message, Model):
        built["l"] = [spec.as_written for spec in message.layout]  # a kind is written only if it is not the usual one
    left_out = LEFT_OUT_BY_DEFAULT.get(type(message), ())
    assert content == msgspec.msgpack.encode(
        {key: value for key, value in built.items() if (key, value) not in left_out}
    )
    assert msgpack.packb(msgpack.unpackb(content)) == content


@given(st.binary(max_size=300), st.sampled_from(KINDS))
def test_any_bytes_are_a_message_or_a_decode_error(payload: bytes, kind: type[Message]) -> None:
    for attempt in (payload, frame(payload)):
        try:
            assert isinstance(decode(attempt, kind), kind)
        except DecodeError:
            continue


@st.composite
def mutated(draw: st.DrawFn, originals: st.SearchStrategy[bytes]) -> bytes:
    content = bytearray(draw(originals))
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, len(content)))
        what = draw(st.sampled_from(["flip", "cut", "insert", "end"]))
        if what == "flip" and at < len(content):
            content[at] ^= draw(st.integers(1, 255))
        elif what == "cut":
            del content[at : at + draw(st.integers(1, 9))]
        elif what == "insert":
            content[at:at] = draw(st.binary(min_size=1, max_size=9))
        else:
            del content[at:]
    return bytes(content)


@given(mutated(UPDATES.map(encode)))
def test_a_damaged_payload_is_a_message_or_a_decode_error(payload: bytes) -> None:
    with suppress(DecodeError):
        assert isinstance(decode(payload, Update), Update)


@given(mutated(MESSAGES.map(msgspec.msgpack.encode)), st.sampled_from(KINDS))
def test_damage_inside_the_frame_is_a_message_or_a_decode_error(content: bytes, kind: type[Message]) -> None:
    try:
        message = decode(frame(content), kind)
    except DecodeError:
        return
    if not has_unknown_status(message):
        assert decode(encode(message), kind) == message


def refused_cheaply(payload: bytes, kind: type[Message] = Update) -> str:
    """…without ever holding more than what the tight limits let through: the content, and one copy of its fields."""
    tracemalloc.start()
    try:
        reason = refused(payload, kind, TIGHT)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 2 * TIGHT.decompressed_bytes + 64 * KIB, f"{peak} bytes at once"
    return reason


def stating(payload: bytes, size: int) -> bytes:
    """The frame with another content size in its header."""
    # Magic 4, flags 2, content size 8, header checksum 1: xxh32 of flags and size, second byte.
    header = payload[4:6] + struct.pack("<Q", size)
    return payload[:4] + header + bytes([xxh32(header) >> 8 & 0xFF]) + payload[15:]


def xxh32(data: bytes) -> int:
    """XxHash of fewer than 16 bytes, seed 0."""
    mask, total = 0xFFFF_FFFF, 374_761_393 + len(data)
    at = 0
    while at + 4 <= len(data):
        total = total + int.from_bytes(data[at : at + 4], "little") * 3_266_489_917 & mask
        total = (total << 17 | total >> 15) * 668_265_263 & mask
        at += 4
    for byte in data[at:]:
        total = total + byte * 374_761_393 & mask
        total = (total << 11 | total >> 21) * 2_654_435_761 & mask
    total = (total ^ total >> 15) * 2_246_822_519 & mask
    total = (total ^ total >> 13) * 3_266_489_917 & mask
    return total ^ total >> 16


def test_the_forged_header_is_a_sound_one() -> None:
    sound = frame(bytes(1_000))
    assert stating(sound, 1_000) == sound


class TestBombs:
    def test_a_frame_that_states_two_gigabytes(self) -> None:
        said = refused_cheaply(stating(frame(bytes(1_000)), 2 * 1024 * MIB))
        assert said == f"decompressed_bytes: {2 * 1024 * MIB} is over the limit of {TIGHT.decompressed_bytes}"

    def test_a_frame_that_states_the_largest_number(self) -> None:
        assert "decompressed_bytes" in refused_cheaply(stating(frame(bytes(1_000)), 2**64 - 1))

    @pytest.mark.parametrize("lie", [0, 1, 999, 1_001, 200 * KIB])
    def test_a_frame_that_lies_about_its_size(self, lie: int) -> None:
        assert refused_cheaply(stating(frame(bytes(1_000)), lie))

    def test_a_frame_that_states_no_size(self) -> None:
        assert refused_cheaply(lz4.frame.compress(encode(UPDATE), store_size=False))

    def test_two_frames_in_a_row(self) -> None:
        assert "frame" in refused_cheaply(encode(UPDATE) * 2)

    def test_too_many_bytes_on_the_wire(self) -> None:
        assert "compressed_bytes" in refused_cheaply(bytes(TIGHT.compressed_bytes + 1))

    @pytest.mark.parametrize("opening", [b"\xdd", b"\xdf", b"\xc6", b"\xdb", b"\xc9"])
    def test_a_length_of_four_billion(self, opening: bytes) -> None:
        for key in (b"x", b"m", b"t", b"unknown"):
            content = b"\x81" + msgspec.msgpack.encode(key.decode()) + opening + b"\xff\xff\xff\xff\x01"
            assert refused_cheaply(frame(content))

    @pytest.mark.parametrize("kind", KINDS)
    def test_a_quarter_million_of_empty_maps(self, kind: type[Message]) -> None:
        # Each is one byte on the wire and 64 bytes as a Python object.
        number = TIGHT.decompressed_bytes - 100
        for key in ("x", "m", "c", "l", "unknown"):
            content = b"\x82\xa1v\x01" + msgspec.msgpack.encode(key) + b"\xdd" + struct.pack(">I", number)
            assert refused_cheaply(frame(content + b"\x80" * number), kind)

    def test_nested_without_end(self) -> None:
        for key in ("x", "unknown"):
            content = b"\x82\xa1v\x01" + msgspec.msgpack.encode(key) + b"\x91" * 200_000 + b"\x01"
            assert "recursion" in refused_cheaply(frame(content)) or key == "x"


@settings(max_examples=50)
@given(st.integers(0, 2**64 - 1), UPDATES)
def test_a_lying_header_is_refused(size: int, update: Update) -> None:
    payload = encode(update)
    content = lz4.frame.decompress(payload)
    if size != len(content):
        assert refused(stating(payload, size), limits=TIGHT)


@pytest.mark.parametrize(
    "changes",
    [
        {"n": True},
        {"n": 0},
        {"n": -1},
        {"n": 2**64 - 1},
        {"n": 1.5},
        {"n": "1"},
        {"n": msgspec.msgpack.Ext(5, b"abc")},
        {"n": msgspec.msgpack.Ext(-1, bytes(4))},
        {"t": "a\n"},
        {"t": "a/b"},
        {"t": "+"},
        {"t": ""},
        {"t": "a" * 65},
        {"d": b"bytes"},
        {"d": None},
        {"i": b"short"},
        {"bd": bytes(31)},
        {"l": bytes(9)},
        {"s": 0},
        {"ts": float("nan")},
        {"ts": float("inf")},
        {"ts": -1.0},
        {"m": {"loss": float("nan")}},
        {"m": {"loss": float("-inf")}},
        {"m": {"loss": True}},
        {"m": {"loss": "0.5"}},
        {"m": {1: 0.5}},
        {"m": {"x" * 1_025: 0.5}},
        {"m": {str(number): 0.5 for number in range(257)}},
        {"x": [["f4", b""]] * 1_025},
        {"x": [["zz", b""]]},
        {"x": [["f4", b"", 1]]},
        {"x": [["f4"]]},
        {"x": [["i1", True, b""]]},
        {"x": {}},
        {"v": 0},
        {"v": None},
        {"v": True},
        {"v": "1"},
    ],
)
def test_a_field_that_is_not_what_it_should_be_is_refused(changes: dict[str, object]) -> None:
    assert refused(fields(**changes)).startswith("Update: ")


def test_what_the_sender_wrote_cannot_break_a_line_of_the_log() -> None:
    for changes in ({"x": [["a\nb\x1b[2J\u2028" + "c" * 5_000, b""]]}, {"m": {"a\nb" + "c" * 1_000: float("inf")}}):
        said = refused(fields(**changes))
        assert said.isprintable()
        assert len(said) < 300


def test_broken_text_is_refused() -> None:
    content = msgspec.msgpack.encode(UPDATE)
    for broken in (b"\xff", b"\xed\xa0\x80"):  # no UTF-8; a lone surrogate
        text = b"\xa0"[0] | len(broken)
        assert "utf-8" in refused(frame(content.replace(b"\xa1d\xa1d", b"\xa1d" + bytes([text]) + broken))).lower()


@pytest.mark.parametrize("kind", KINDS)
def test_a_newer_schema_is_refused_by_name(kind: type[Message]) -> None:
    payload = frame(msgspec.msgpack.encode({"v": SCHEMAS[kind] + 1, "t": ["another", "type"]}))
    with pytest.raises(UnknownSchema, match="update this program"):
        decode(payload, kind)


@given(st.text(max_size=5).filter(lambda key: len(key) > 2), st.recursive(st.none(), st.lists))
def test_unknown_fields_are_ignored(key: str, value: object) -> None:
    assert decode(fields(**{key: value}), Update) == UPDATE


@pytest.mark.parametrize("value", [[], {}, 1, "text", None, b"", True, 1.5])
def test_what_is_no_map_is_refused(value: object) -> None:
    for kind in KINDS:
        assert refused(frame(msgspec.msgpack.encode(value)), kind)


def test_models_beyond_the_limits_are_refused_before_anything_is_made_of_them() -> None:
    def model(*specs: TensorSpec) -> bytes:
        return encode(Model(task="t", version=0, parent=None, layout=specs, tensors=(), digest=bytes(32)))

    with pytest.raises(LimitExceeded, match="elements"):
        decode(model(TensorSpec("a", (2**31, 2**31, 2**31))), Model)
    assert "length <= 8" in refused(model(TensorSpec("a", (1,) * 9)), Model)
    assert "empty shape" in refused(model(TensorSpec("a", (0,))), Model)
    assert "empty shape" in refused(model(TensorSpec("a", (-3, -4))), Model)
    assert "stands twice" in refused(model(TensorSpec("a", (1,)), TensorSpec("a", (2,))), Model)
    assert "length <= 1024" in refused(model(*(TensorSpec(str(n), (1,)) for n in range(1_025))), Model)


def test_numbers_that_are_not_finite_are_refused_everywhere() -> None:
    receipt = Receipt(outcome="merged", version=1)
    evaluation = Evaluation(task="t", device="d", version=1, digest=bytes(32), samples=1, metrics={})
    manifest = _manifest(chunks=0)
    infinite = float("inf")
    assert "weight is not finite" in refused(fields(receipt, w=infinite), Receipt)
    assert "metric 'a' is not finite" in refused(fields(evaluation, m={"a": infinite}), Evaluation)
    assert "published_at is not finite" in refused(fields(manifest, at=infinite), Manifest)


def _manifest(chunks: int) -> Manifest:
    return Manifest(
        task="t",
        version=1,
        parent=0,
        digest=bytes(32),
        layout_fingerprint=bytes(8),
        encoding="float32",
        size_bytes=1,
        chunk_digests=tuple(hashlib.sha256(b"%d" % n).digest() for n in range(chunks)),
        update_bytes_max=UPDATE_LIMITS.compressed_bytes,
        published_at=0.0,
    )


def test_the_manifest_of_the_largest_model_is_within_the_limits() -> None:
    chunks = 16_000_000 * 4 // (32 * KIB) + 1
    assert decode(encode(_manifest(chunks)), Manifest).chunk_digests[-1]
    assert "length <= 2048" in refused(encode(_manifest(CHUNKS_MAX + 1)), Manifest, UPDATE_LIMITS)


def test_a_message_of_another_kind_is_refused() -> None:
    assert refused(encode(UPDATE), Model)
    assert refused(encode(Presence(status="online")), Update)
