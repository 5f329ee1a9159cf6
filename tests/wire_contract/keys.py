"""Keys of tests: the same ones each time."""

from wire_contract.signatures.signing import SigningKey


def key(number: int) -> SigningKey:
    """So many different ones as there are bytes."""
    return SigningKey.from_seed(bytes([number]) * 32)
