"""Payloads of manifests and updates, signed or unsigned. Nothing here verifies a signature.

A signed message is a map of its own (`messages.Signed`) that contains the exact bytes of the unsigned one. Its key `v`
is 128, more than any unsigned kind has, so that a reader without support for signatures reports an unknown schema.
"""

from dataclasses import dataclass
from typing import Generic, TypeVar

from wire_contract.codec import decompress, limits_of, schema_of, unpack
from wire_contract.limits import Limits
from wire_contract.message_fields import SIGNED_SCHEMA
from wire_contract.messages import Manifest, Signature, Signed, Update

S = TypeVar("S", Manifest, Update)


@dataclass(frozen=True)
class UnverifiedMessage(Generic[S]):
    """A message whose body was not decoded yet, so that signatures can be verified first."""

    kind: type[S]
    body: bytes
    """The msgpack map of the unsigned message."""
    signatures: tuple[Signature, ...]
    """Empty: the message is unsigned."""
    limits: Limits

    def open(self) -> S:
        """Decodes the message, whether its signatures were verified or not.

        Raises:
            DecodeError: the body is no such message.
        """
        return unpack(self.body, self.kind, limits=self.limits)


def unwrap(payload: bytes, kind: type[S], *, limits: Limits | None = None) -> UnverifiedMessage[S]:
    """Takes body and signatures out of `payload`, without decoding the body.

    Raises:
        DecodeError: it is neither an unsigned nor a signed message of this kind.
    """
    bounds = limits_of(kind, limits)
    content = decompress(payload, bounds)
    if schema_of(content, kind) < SIGNED_SCHEMA:
        return UnverifiedMessage(kind, content, (), bounds)
    signed = unpack(content, Signed, limits=bounds)
    return UnverifiedMessage(kind, signed.body, signed.signatures, bounds)


def read_unverified(payload: bytes, kind: type[S], *, limits: Limits | None = None) -> S:
    """Decodes a message without verifying its signatures: for readers that have no key.

    Raises:
        DecodeError: it is no such message.
    """
    return unwrap(payload, kind, limits=limits).open()
