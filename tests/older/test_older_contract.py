"""What this program writes, the older one reads to the same values, and the other way round."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, get_args

import msgspec
import numpy as np
import pytest

from tests.older.program import answer, unpacked
from tests.vectors.form import fields_of, load
from wire_contract import codec, message_fields, messages
from wire_contract.layout import Layout, TensorSpec
from wire_contract.publication.manifest import encode_snapshot

READS_AND_WRITES = """
import json, sys
import msgspec
from typing import get_args
import wire_contract
from wire_contract import codec, messages
from wire_contract.manifest import read_model

def told(payload, kind):
    message = codec.decode(bytes.fromhex(payload), getattr(messages, kind))
    built = msgspec.to_builtins(message, builtin_types=(bytes,))
    return {"fields": repr(built), "payload": codec.encode(message).hex()}

asked = json.load(sys.stdin)
fields = {field.name: field.type for field in msgspec.structs.fields(messages.Presence)}
print(json.dumps({
    "from": wire_contract.__file__,
    "read": [told(one["payload"], one["kind"]) for one in asked["messages"]],
    "digest": read_model(bytes.fromhex(asked["model"])).digest.hex(),
    "values": {
        "RefusalReason": get_args(messages.RefusalReason),
        "Outcome": get_args(messages.Outcome),
        "Grid": get_args(messages.Grid),
        "Status": get_args(fields["status"]),
    },
}))
"""


LATER_KEYS = {"mm", "ev", "nl", "cl", "ln"}
"""Optional keys that the older program does not know. It ignores them, and its messages lack them."""


def without_later_keys(value: Any) -> Any:
    """A message, as a map by keys, as the older program knows it."""
    if not isinstance(value, dict):
        return value
    known = {key: without_later_keys(item) for key, item in value.items() if key not in LATER_KEYS}
    if isinstance(known.get("l"), tuple):
        known["l"] = tuple(spec[:3] for spec in known["l"])  # what a tensor is, is written for statistics only
    return known


@pytest.fixture(scope="module")
def written() -> list[dict[str, Any]]:
    return [vector for vector in load("messages") if vector["canonical"]]


@pytest.fixture(scope="module")
def large() -> tuple[bytes, bytes]:
    """A model of more than one block, and its digest."""
    layout = Layout((TensorSpec("a", (200, 300)),))
    weights = np.repeat(np.random.default_rng(0).standard_normal(600, dtype=np.float32), 100)
    payload, published = encode_snapshot(weights, task="t", version=0, parent=None, layout=layout, encoding="float32")
    return payload, published.digest


@pytest.fixture(scope="module")
def told(
    written: list[dict[str, Any]], large: tuple[bytes, bytes], tmp_path_factory: pytest.TempPathFactory
) -> Mapping[str, Any]:
    folder = tmp_path_factory.mktemp("older")
    packages = unpacked(folder / "packages")
    text = json.dumps({"messages": written, "model": large[0].hex()})
    found: dict[str, Any] = json.loads(answer(packages, READS_AND_WRITES, text, folder=folder))
    assert Path(found["from"]).is_relative_to(packages)
    return found


def test_the_older_program_reads_what_this_one_writes(told: Mapping[str, Any], written: list[dict[str, Any]]) -> None:
    for vector, older in zip(written, told["read"], strict=True):
        message = codec.decode(bytes.fromhex(vector["payload"]), getattr(messages, vector["kind"]))
        assert codec.encode(message).hex() == vector["payload"], "what this program writes"
        built = msgspec.to_builtins(message, builtin_types=(bytes,))
        assert older["fields"] == repr(without_later_keys(built)), vector["name"]


def test_this_program_reads_what_the_older_one_writes(told: Mapping[str, Any], written: list[dict[str, Any]]) -> None:
    for vector, older in zip(written, told["read"], strict=True):
        message = codec.decode(bytes.fromhex(older["payload"]), getattr(messages, vector["kind"]))
        assert fields_of(message) == without_later_keys(vector["message"]), vector["name"]


def test_the_older_program_reads_independent_blocks(told: Mapping[str, Any], large: tuple[bytes, bytes]) -> None:
    assert told["digest"] == large[1].hex()


def test_nothing_is_written_that_the_older_program_refuses(told: Mapping[str, Any]) -> None:
    """Its receipts know no other reasons and outcomes: a device would send its update for ever."""
    for name, values in told["values"].items():
        assert set(get_args(getattr(message_fields, name))) <= set(values), name
