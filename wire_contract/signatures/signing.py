r"""Ed25519 signatures of manifests and updates (RFC 8032), over the exact bytes on the wire.

    signed bytes = domain of the kind ‖ key id ‖ msgpack map of the unsigned message
    domains        "fedkd manifest v1\0"   "fedkd update v1\0"

The domain prevents a signature of one kind from being valid for another (domain separation); the key id is signed as
well, so that it cannot be exchanged. Nothing is encoded a second time, neither here nor by a reader. The `cryptography`
library is imported when the first key is used, so that programs without keys do not wait for it.
"""

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from wire_contract import codec
from wire_contract.errors import ContractError, DecodeError
from wire_contract.limits import SIGNATURES_MAX
from wire_contract.message_fields import KEY_ID_BYTES
from wire_contract.messages import Manifest, Signature, Signed, Update
from wire_contract.signatures.envelope import S, UnverifiedMessage

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

DOMAINS: Mapping[type, bytes] = {Manifest: b"fedkd manifest v1\0", Update: b"fedkd update v1\0"}
PUBLIC_KEY_BYTES = 32
"""Of Ed25519 (RFC 8032)."""


class KeyUnusable(ContractError):
    """A key or a key file cannot be used; the text is one line that says what to do."""


class NotTrusted(DecodeError):
    """No valid signature by a trusted key. The text says which: none, unknown keys, or an invalid one."""


@dataclass(frozen=True)
class PublicKey:
    """Verifies signatures."""

    raw: bytes
    """32 bytes, as RFC 8032 defines them."""

    def __post_init__(self) -> None:
        if len(self.raw) != PUBLIC_KEY_BYTES:
            raise KeyUnusable(f"a public key of Ed25519 has {PUBLIC_KEY_BYTES} bytes, not {len(self.raw)}")

    @property
    def key_id(self) -> bytes:
        """First 8 bytes of the SHA-256 of the raw key."""
        return hashlib.sha256(self.raw).digest()[:KEY_ID_BYTES]

    def holds(self, signature: bytes, data: bytes) -> bool:
        """Whether `signature` (64 bytes) is a valid one of `data`."""
        from cryptography.exceptions import InvalidSignature  # noqa: PLC0415 — see the module
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey  # noqa: PLC0415

        try:
            Ed25519PublicKey.from_public_bytes(self.raw).verify(signature, data)
        except (InvalidSignature, ValueError):  # ValueError: not a point of the curve
            return False
        return True


@dataclass(frozen=True)
class SigningKey:
    """Makes signatures. Its text never shows the key."""

    public: PublicKey
    _private: "Ed25519PrivateKey" = field(repr=False)

    @classmethod
    def of(cls, private: "Ed25519PrivateKey") -> "SigningKey":
        """From a key of the `cryptography` library."""
        return cls(PublicKey(private.public_key().public_bytes_raw()), private)

    def sign(self, data: bytes) -> bytes:
        """64 bytes; the same for the same data."""
        return self._private.sign(data)


def sign(message: Manifest | Update, keys: Sequence[SigningKey]) -> bytes:
    """The payload of `message` with a signature by each key, in their order; without keys, the unsigned payload."""
    if not keys:
        return codec.encode(message)
    assert len(keys) <= SIGNATURES_MAX, f"{len(keys)} keys are over the limit of {SIGNATURES_MAX}"
    body = codec.pack(message)
    signatures = tuple(
        Signature(key.public.key_id, key.sign(signed_bytes(type(message), key.public.key_id, body))) for key in keys
    )
    return codec.encode(Signed(body=body, signatures=signatures))


def signed_bytes(kind: type, key_id: bytes, body: bytes) -> bytes:
    """The bytes that a signature by this key is computed over."""
    return DOMAINS[kind] + key_id + body


def verified_signers(message: UnverifiedMessage[S], keys: Iterable[PublicKey]) -> frozenset[bytes]:
    """The ids of those of `keys` that have a valid signature of `message`; at least one.

    Raises:
        NotTrusted: there is none.
    """
    if not message.signatures:
        raise NotTrusted("it is not signed")
    known = {key.key_id: key for key in keys}
    tried = [(known[one.key_id], one.value) for one in message.signatures if one.key_id in known]
    if not tried:
        found = ", ".join(one.key_id.hex() for one in message.signatures)
        raise NotTrusted(f"it is signed by {found}, which is no key that is known here")
    good = {
        key.key_id for key, value in tried if key.holds(value, signed_bytes(message.kind, key.key_id, message.body))
    }
    if not good:
        raise NotTrusted(f"its signature by {tried[0][0].key_id.hex()} is wrong: other bytes were signed")
    return frozenset(good)
