"""Keys of tests: the same ones each time."""

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from wire_contract.signatures.signing import SigningKey


def key(number: int) -> SigningKey:
    """One of 256 different keys."""
    return key_of(bytes([number]) * 32)


def key_of(seed: bytes) -> SigningKey:
    """The key of 32 secret bytes, as RFC 8032 defines it."""
    return SigningKey.of(Ed25519PrivateKey.from_private_bytes(seed))
