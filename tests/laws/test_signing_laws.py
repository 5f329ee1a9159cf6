"""A signature covers every bit of the message, and nothing but a key that is known makes one that holds."""

import msgpack
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec import structs

from tests.laws.test_codec_laws import UPDATE, frame, mutated
from tests.laws.wire import MESSAGES
from tests.vectors.form import unframed
from tests.wire_contract.keys import key
from wire_contract import codec
from wire_contract.errors import DecodeError, LimitExceeded
from wire_contract.limits import SIGNATURES_MAX, Limits
from wire_contract.messages import Manifest, Signed, Update
from wire_contract.signatures.envelope import read_unverified, unwrap
from wire_contract.signatures.signing import DOMAINS, KeyUnusable, NotTrusted, PublicKey, sign, verified_signers

KEYS = [key(number) for number in range(1, SIGNATURES_MAX + 1)]
SIGNABLE: st.SearchStrategy[Manifest | Update] = MESSAGES.filter(  # type: ignore[assignment]
    lambda message: isinstance(message, Manifest | Update)
)
MANIFEST = Manifest(
    task="t",
    version=3,
    parent=2,
    digest=bytes(32),
    layout_fingerprint=bytes(8),
    encoding="float16",
    size_bytes=100,
    chunk_digests=(bytes(32),),
    update_bytes_max=1_000,
    published_at=1.0,
    expires_at=2.0,
)
SIGNED = sign(MANIFEST, KEYS[:1])


def check(payload: bytes, *known: PublicKey, kind: type = Manifest) -> frozenset[bytes]:
    return verified_signers(unwrap(payload, kind), known)


@settings(max_examples=60)
@given(SIGNABLE, st.permutations(KEYS), st.integers(1, SIGNATURES_MAX), st.data())
def test_any_known_key_in_any_place_is_enough(
    message: Manifest | Update, order: list[object], count: int, data: st.DataObject
) -> None:
    used = order[:count]
    payload = sign(message, used)  # type: ignore[arg-type]
    known = data.draw(st.sets(st.sampled_from(range(len(KEYS))), min_size=1))
    good = {KEYS[number].public.key_id for number in known if KEYS[number] in used}
    pinned = [KEYS[number].public for number in sorted(known)]
    if good:
        assert check(payload, *pinned, kind=type(message)) == good
    else:
        with pytest.raises(NotTrusted, match="which is no key that is known here"):
            check(payload, *pinned, kind=type(message))
    assert codec.encode(read_unverified(payload, type(message))) == codec.encode(message), (
        "and what was signed is what is read"
    )


@given(st.integers(0, 8 * len(unframed(SIGNED)) - 1))
def test_any_flipped_bit_of_a_signed_message_is_refused(at: int) -> None:
    content = bytearray(unframed(SIGNED))
    content[at // 8] ^= 1 << at % 8
    with pytest.raises(DecodeError):
        check(frame(bytes(content)), KEYS[0].public)


@given(st.integers(0, 8 * len(SIGNED) - 1))
def test_any_flipped_bit_of_a_payload_is_refused_or_changes_nothing(at: int) -> None:
    """LZ4 may say the same in another way."""
    payload = bytearray(SIGNED)
    payload[at // 8] ^= 1 << at % 8
    try:
        assert check(bytes(payload), KEYS[0].public)
    except DecodeError:
        return
    assert unframed(bytes(payload)) == unframed(SIGNED)


@settings(max_examples=200)
@given(mutated(st.just(SIGNED)))
def test_whatever_is_done_to_it_nobody_else_has_signed(payload: bytes) -> None:
    try:
        message = unwrap(payload, Manifest)
        verified_signers(message, [KEYS[0].public])
    except DecodeError:
        return
    assert message.open() == MANIFEST


def test_one_bad_signature_does_not_spoil_a_good_one() -> None:
    signed = codec.decode(sign(MANIFEST, KEYS[:2]), Signed)
    bad = structs.replace(signed.signatures[0], value=bytes(64))
    payload = codec.encode(structs.replace(signed, signatures=(bad, signed.signatures[1])))
    assert check(payload, KEYS[0].public, KEYS[1].public) == {KEYS[1].public.key_id}
    with pytest.raises(NotTrusted, match="is wrong"):
        check(payload, KEYS[0].public)


def test_a_signature_of_one_kind_is_none_of_another() -> None:
    body = codec.pack(UPDATE)
    one = KEYS[0]
    for kind, domain in DOMAINS.items():
        value = one.sign(domain + one.public.key_id + body)
        payload = frame(msgpack.packb({"m": body, "sg": [[one.public.key_id, value]], "v": 128}))
        if kind is Update:
            assert check(payload, one.public, kind=Update)
        else:
            with pytest.raises(NotTrusted, match="is wrong"):
                check(payload, one.public, kind=Update)


def test_a_key_id_cannot_be_exchanged() -> None:
    one, other = KEYS[0].public, KEYS[1].public
    signed = codec.decode(SIGNED, Signed)
    renamed = structs.replace(signed, signatures=(structs.replace(signed.signatures[0], key_id=other.key_id),))
    with pytest.raises(NotTrusted, match="is wrong"):
        check(codec.encode(renamed), one, other)


def test_a_plain_message_is_not_signed() -> None:
    with pytest.raises(NotTrusted, match="it is not signed"):
        check(codec.encode(MANIFEST), KEYS[0].public)
    assert read_unverified(codec.encode(MANIFEST), Manifest) == MANIFEST
    assert sign(MANIFEST, []) == codec.encode(MANIFEST), "unsigned messages look as they always did"


def test_the_body_is_not_looked_at_before_its_signature() -> None:
    nonsense = frame(msgpack.packb({"m": b"\xc1", "sg": [[KEYS[0].public.key_id, bytes(64)]], "v": 128}))
    with pytest.raises(NotTrusted):
        check(nonsense, KEYS[0].public)
    with pytest.raises(DecodeError, match="Manifest"):
        read_unverified(nonsense, Manifest)


def test_an_envelope_has_the_limits_of_what_is_in_it() -> None:
    tight = Limits(compressed_bytes=1 << 10, decompressed_bytes=1 << 10)
    large = sign(structs.replace(MANIFEST, inline=bytes(4_000)), KEYS[:1])
    with pytest.raises(LimitExceeded, match="decompressed_bytes"):
        unwrap(large, Manifest, limits=tight)
    nested = codec.encode(codec.decode(SIGNED, Signed))
    inner = frame(msgpack.packb({"m": unframed(nested), "sg": [[bytes(8), bytes(64)]], "v": 128}))
    with pytest.raises(DecodeError, match="schema 128 is not known here"):
        read_unverified(inner, Manifest)


def test_32_bytes_that_are_no_key_verify_nothing() -> None:
    known = [PublicKey(bytes([value]) * 32) for value in (0, 2, 255)]
    for one in known:
        assert not one.holds(bytes(64), b"")
        assert not one.holds(bytes(63), b"")
    with pytest.raises(KeyUnusable, match="32 bytes, not 31"):
        PublicKey(bytes(31))


def test_a_private_key_does_not_stand_in_a_log() -> None:
    assert "01" * 32 not in repr(KEYS[0])
    assert "Ed25519PrivateKey" not in repr(KEYS[0])
