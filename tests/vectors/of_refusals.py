"""What is no message, no tensor, no delta, and a part of what the reader must say of it."""

from typing import Any

import msgspec
import numpy as np

from tests.vectors.form import as_json, frame, packed, unframed
from tests.vectors.of_lines import LAYOUT, line
from tests.vectors.of_messages import update
from wire_contract.codec import encode
from wire_contract.encoding import encode_vector
from wire_contract.encoding.gap_coded import encode_levels
from wire_contract.messages import Model, Receipt

FIELDS: dict[str, Any] = msgspec.to_builtins(
    update("", encode_vector(np.ones(LAYOUT.size, dtype=np.float32), LAYOUT, "int8"))[2], builtin_types=(bytes,)
)


def _refused(name: str, kind: str, payload: bytes, error: str) -> dict[str, Any]:
    return {"name": name, "kind": kind, "payload": payload.hex(), "error": error}


def _changed(name: str, error: str, **changes: Any) -> dict[str, Any]:
    return _refused(name, "Update", frame(packed({**FIELDS, **changes})), error)


def _pairs(**pairs: Any) -> bytes:
    return b"".join(packed(key) + packed(value) for key, value in pairs.items())


def _sealed(count: int, *, key_id: bytes = bytes(8), value: bytes = bytes(64), v: int = 128) -> bytes:
    return frame(packed({"m": b"\x80", "sg": [[key_id, value]] * count, "v": v}))


def refused_payloads() -> list[dict[str, Any]]:
    sound = frame(packed(FIELDS))
    model: dict[str, Any] = msgspec.to_builtins(
        msgspec.msgpack.decode(unframed(line()[0]), type=Model), builtin_types=(bytes,)
    )
    receipt = msgspec.to_builtins(Receipt(outcome="refused", version=1), builtin_types=(bytes,))
    return [
        _refused("no bytes", "Update", b"", "frame"),
        _refused("no frame", "Update", b"not a frame, but bytes", "frame"),
        _refused("cut short", "Update", sound[:-5], "frame"),
        _refused("a second frame", "Update", sound + sound, "frame"),
        _refused("another header checksum", "Update", sound[:14] + bytes([sound[14] ^ 1]) + sound[15:], "frame"),
        _refused("no content size", "Update", sound[:4] + bytes.fromhex("6040") + b"\x82" + sound[15:], "frame"),
        _refused("no map", "Update", frame(packed([1, 2])), "Update"),
        _refused("bytes after the map", "Update", frame(packed(FIELDS) + b"\x01"), "Update"),
        _refused("a key missing", "Update", frame(packed({"v": 1, "t": "har"})), "Update"),
        _refused("no schema number", "Update", frame(packed({"t": "har"})), "schema number"),
        _changed("a schema from the future", "schema 2 is not known here", v=2),
        _changed("a device name that is no topic level", "`$.d`", d="a/b"),
        _changed("an incarnation of 7 bytes", "`$.i`", i=bytes(7)),
        _changed("a sequence of 0", "`$.n`", n=0),
        _changed("a sequence as a float", "`$.n`", n=1.0),
        _changed("a sequence of more than 2^53", "`$.n`", n=2**53 + 1),
        _changed("no samples", "`$.s`", s=0),
        _changed("time that is infinite", "train_seconds is not finite", ts=float("inf")),
        _changed("a metric that is not a number", "is not finite", m={"loss": float("nan")}),
        _changed("257 metrics", "`$.m`", m={str(at): 0.0 for at in range(257)}),
        _changed("1025 tensors", "`$.x`", x=[["f4", b""]] * 1_025),
        _changed("an unknown tag", "tensor encoding 'f8' is not known here", x=[["f8", bytes(8)]]),
        _changed("a field too many in an entry", "`$.x[0]`", x=[["f4", bytes(4), 1]]),
        _changed("bytes as text", "`$.x[0][1]`", x=[["f4", "text"]]),
        _changed("a span of 0", "`$.x[0][1]`", x=[["g", 0, b"\0"]]),
        _refused("a name twice", "Model", frame(packed({**model, "l": [["a", [1]], ["a", [1]]]})), "stands twice"),
        _refused("a dimension of 0", "Model", frame(packed({**model, "l": [["a", [0]]]})), "empty shape"),
        _refused("too many elements", "Model", frame(packed({**model, "l": [["a", [4_001, 4_000]]]})), "elements"),
        _refused("another dtype", "Model", frame(packed({**model, "l": [["a", [1], "float64"]]})), "dtype 'float64'"),
        _refused(
            "another kind of tensor",
            "Model",
            frame(packed({**model, "l": [["a", [1], "float32", "median"]]})),
            "kind of tensor 'median'",
        ),
        _refused(
            "a running mean without a second moment",
            "Model",
            frame(packed({**model, "l": [["a", [1], "float32", "mean"]]})),
            "in pairs",
        ),
        _refused(
            "a tensor of a newer layout",
            "Model",
            frame(packed({**model, "l": [["a", [1], "float32", "weight", 1]]})),
            "a tensor with 5 fields is not known here",
        ),
        _refused(
            "a grid of int8",
            "Delta",
            frame(packed({**FIELDS, "v": 1, "e": "int8", "pd": bytes(32), "d": bytes(32)})),
            "grid 'int8' is not known here",
        ),
        _refused("a reason that is no text", "Receipt", frame(packed({**receipt, "r": 7})), "`$.r`"),
        _refused(
            "a key twice",
            "Presence",
            frame(b"\x83" + _pairs(o="online", v=1) + _pairs(o="offline")),
            "a key stands twice",
        ),
        _refused(
            "257 keys",
            "Presence",
            frame(packed({"o": "online", "v": 1, **{f"unknown {at}": 0 for at in range(255)}})),
            "length <= 256",
        ),
        _refused("a signed one, to who knows no signatures", "Manifest", _sealed(1), "schema 128 is not known here"),
        _refused("no signature", "Signed", _sealed(0), "`$.sg`"),
        _refused("five signatures", "Signed", _sealed(5), "`$.sg`"),
        _refused("a signature of 63 bytes", "Signed", _sealed(1, value=bytes(63)), "`$.sg[0][1]`"),
        _refused("a key id of 9 bytes", "Signed", _sealed(1, key_id=bytes(9)), "`$.sg[0][0]`"),
        _refused("signed, of a schema from the future", "Signed", _sealed(1, v=129), "schema 129 is not known here"),
        _refused("a plain schema number", "Signed", _sealed(1, v=2), "`$.v`"),
        _refused("an update read as a manifest", "Manifest", encode(update("", ())[2]), "Manifest"),
    ]


def refused_tensors() -> list[dict[str, Any]]:
    sound = encode_levels(np.array([0, 1, 0, 0, -1]), [0], [5]).data
    zero = bytes(4)
    examples: list[tuple[str, list[Any], list[int], str]] = [
        ("bytes missing", [["f4", bytes(7)]], [2], "are not 2 elements"),
        ("bytes too many", [["i1", 1.0, bytes(3)]], [2], "are not 2 elements"),
        ("one tensor missing", [["f2", bytes(2)]], [1, 1], "the layout has 2"),
        ("a span over the end", [["g", 3, b"\0"]], [1, 1], "the layout has 2"),
        ("a scale beyond float32", [["i1", 3.5e38, b"\0"]], [1], "is not a finite float32"),
        ("a scale beyond float32, negative", [["i4", -3.5e38, b"\0"]], [1], "is not a finite float32"),
        ("a last nibble of nothing", [["i4", 1.0, b"\x01"]], [1], "last nibble"),
        ("rows that do not divide", [["lr", 1, 2, ["f4", zero * 2], ["f4", zero]]], [3], "do not divide"),
        ("rank 0", [["lr", 0, 2, ["f4", b""], ["f4", b""]]], [4], "rank 0"),
        ("a rank over rows and columns", [["lr", 3, 2, ["f4", zero * 6], ["f4", zero * 6]]], [4], "rank 3"),
        ("a factor cut short", [["lr", 1, 2, ["f4", zero], ["f4", zero * 2]]], [4], "left factor"),
        ("no heads", [["g", 1, b""]], [5], "heads run past the end"),
        ("cut short", [["g", 1, sound[:-1]]], [5], "gap-coded"),
        ("a byte too many", [["g", 1, sound + b"\0"]], [5], "gap-coded"),
        ("a bit set in the filling", [["g", 1, b"\x01"]], [5], "gap-coded"),
        ("a layer larger than its tensor", [["g", 1, b"\xbf\x07\xff\xff"]], [5], "a layer of"),
        ("a scale over the table", [["g", 1, b"\xff\xff\xff\xff"]], [5], "scale exponent 1039"),
        # heads: 1, e = 0 in 11 bits, k1 - 1 = 0 in 4 bits, 0; the sign; m = 7, c = 2, u = 1: a gap of 10 is 1·7 + 3
        ("a place outside its set", [["g", 1, bytes([0b10111111, 0b00000000, 0b00100010])]], [10], "outside its set"),
    ]  # fmt: skip
    return [
        {"name": name, "entries": as_json(entries), "sizes": sizes, "error": error}
        for name, entries, sizes, error in examples
    ]
