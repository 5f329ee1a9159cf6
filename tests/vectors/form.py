"""How values of the contract stand in the JSON files: as themselves, and bytes as {"hex": …}."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import lz4.frame
import msgpack
import msgspec

from wire_contract import codec
from wire_contract.messages import Message, Model

FOLDER = Path(__file__).parent


def as_json(value: Any) -> Any:
    """`value` of plain types and bytes, as it stands in a file."""
    if isinstance(value, bytes):
        return {"hex": value.hex()}
    if isinstance(value, Mapping):
        return {key: as_json(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [as_json(item) for item in value]
    return value


def from_json(value: Any) -> Any:
    """The other way."""
    if isinstance(value, dict):
        if set(value) == {"hex"}:
            return bytes.fromhex(value["hex"])
        return {key: from_json(item) for key, item in value.items()}
    return [from_json(item) for item in value] if isinstance(value, list) else value


def fields_of(message: Message) -> dict[str, Any]:
    """By the keys of the wire."""
    built: dict[str, Any] = msgspec.to_builtins(message, builtin_types=(bytes,))
    if isinstance(message, Model):
        built["l"] = as_json([spec.as_written for spec in message.layout])
    left_out = codec.LEFT_OUT_BY_DEFAULT.get(type(message), ())
    return {key: as_json(value) for key, value in built.items() if (key, value) not in left_out}


def frame(content: bytes) -> bytes:
    """As the library makes it."""
    return codec.frame(content)


def unframed(payload: bytes) -> bytes:
    return bytes(lz4.frame.decompress(payload))


def packed(value: Any) -> bytes:
    return bytes(msgpack.packb(value))


def text_of(vectors: Sequence[Mapping[str, Any]]) -> str:
    """One key a line, so that a difference can be read."""
    blocks = [
        ",\n".join(f"    {json.dumps(key)}: {json.dumps(value)}" for key, value in vector.items()) for vector in vectors
    ]
    return "[\n" + ",\n".join(f"  {{\n{block}\n  }}" for block in blocks) + "\n]\n"


def load(name: str) -> list[dict[str, Any]]:
    """What stands in the file `name`.json."""
    found: list[dict[str, Any]] = json.loads((FOLDER / f"{name}.json").read_text())
    return found
