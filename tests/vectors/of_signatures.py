"""A signed manifest and a signed update, byte by byte, and what must be refused of them."""

from typing import Any

from tests.vectors.form import frame, packed, unframed
from tests.vectors.of_messages import signed_ones
from wire_contract.messages import Manifest, Update
from wire_contract.signatures.envelope import unwrap
from wire_contract.signatures.signing import sign, signed_bytes


def signed() -> list[dict[str, Any]]:
    """The seeds are private keys of RFC 8032: public, and so good for nothing but this."""
    return [_vector(name, message, keys) for name, message, keys in signed_ones()]


def _vector(name: str, message: Manifest | Update, keys: list[Any]) -> dict[str, Any]:
    payload = sign(message, [key for _, key in keys])
    opened = unwrap(payload, type(message))
    flipped = opened.body[:-1] + bytes([opened.body[-1] ^ 1])
    signatures = [[one.key_id, one.value] for one in opened.signatures]
    return {
        "name": name,
        "kind": type(message).__name__,
        "keys": [
            {
                "seed": seed.hex(),
                "public": key.public.raw.hex(),
                "key_id": key.public.key_id.hex(),
                "signed_bytes": signed_bytes(type(message), key.public.key_id, opened.body).hex(),
                "signature": one.value.hex(),
            }
            for (seed, key), one in zip(keys, opened.signatures, strict=True)
        ],
        "payload": payload.hex(),
        "content": unframed(payload).hex(),
        "body": opened.body.hex(),
        "refused": {
            "not signed": frame(opened.body).hex(),
            "other bytes were signed": frame(packed({"m": flipped, "sg": signatures, "v": 128})).hex(),
            "the other kind's domain": _of_other_domain(opened.body, message, keys).hex(),
        },
    }


def _of_other_domain(body: bytes, message: Manifest | Update, keys: list[Any]) -> bytes:
    other = Update if isinstance(message, Manifest) else Manifest
    signatures = [[key.public.key_id, key.sign(signed_bytes(other, key.public.key_id, body))] for _, key in keys]
    return frame(packed({"m": body, "sg": signatures, "v": 128}))
