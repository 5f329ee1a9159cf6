"""Plain or signed: what stands in the payload of a manifest or an update. Nothing here verifies anything.

A signed message is a map of its own (`messages.Signed`) around the exact bytes of the plain one. Its key `v` is 128,
more than any plain kind has, so that a reader who knows no signatures says that it does not know this schema.
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
    """A message that was not looked into yet, so that signatures can be checked before."""

    kind: type[S]
    body: bytes
    """The msgpack map of the plain message."""
    signatures: tuple[Signature, ...]
    """None: it came plain."""
    limits: Limits

    def open(self) -> S:
        """The message, whoever signed it.

        Raises:
            DecodeError: the body is no such message.
        """
        return unpack(self.body, self.kind, limits=self.limits)


def unwrap(payload: bytes, kind: type[S], *, limits: Limits | None = None) -> UnverifiedMessage[S]:
    """What stands in `payload`, unopened.

    Raises:
        DecodeError: it is neither a map of the plain kind nor a signed one.
    """
    bounds = limits_of(kind, limits)
    content = decompress(payload, bounds)
    if schema_of(content, kind) < SIGNED_SCHEMA:
        return UnverifiedMessage(kind, content, (), bounds)
    signed = unpack(content, Signed, limits=bounds)
    return UnverifiedMessage(kind, signed.body, signed.signatures, bounds)


def read_unverified(payload: bytes, kind: type[S], *, limits: Limits | None = None) -> S:
    """The message in `payload`, plain or signed by whomever: for who has no key to check it with.

    Raises:
        DecodeError: it is no such message.
    """
    return unwrap(payload, kind, limits=limits).open()
