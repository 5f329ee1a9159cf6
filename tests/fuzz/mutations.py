"""Damage done to sound payloads: to their bytes, to the bytes inside the frame, and to the fields by type."""

import struct
from collections.abc import Callable, Mapping, Sequence
from random import Random
from typing import Any

import lz4.frame
import msgpack

from tests.laws.test_codec_laws import frame, stating

MAGIC = bytes.fromhex("04224d18")
NUMBERS = (
    0,
    1,
    2,
    3,
    7,
    8,
    127,
    128,
    255,
    256,
    257,
    1023,
    1024,
    1025,
    4096,
    4097,
    65_535,
    65_536,
    65_537,
    2**24,
    2**25,
)
LARGE = (2**31 - 1, 2**31, 2**32 - 1, 2**32, 2**53, 2**53 + 1, 2**63 - 1, 2**63, 2**64 - 1)
FLOATS = (
    *(0.0, -0.0, 1.0, -1.0, 1e-46, 1e-45, 1.1754943508222875e-38, 3.4028234663852886e38, 3.4028235677973366e38),
    *(1e308, 5e-324, float("inf"), float("-inf"), float("nan")),
)
PATTERNS = tuple(
    bytes.fromhex(text) for text in ("00", "ff", "80", "7f", "0100807f", "ffffff7f", "017c", "ff7b", "55", "00000080")
)
"""Repeated, they are zeros, ones, signalling NaNs, the largest numbers and minus zeros of each width."""
TEXTS = (
    "",
    "a",
    "x" * 64,
    "x" * 65,
    "x" * 1_024,
    "x" * 1_025,
    "\0",
    "a\nb",
    "\u2028",
    "😀" * 300,
    "../..",
    "+",
    "#",
    "é",
)
TAGS = ("f4", "f2", "i1", "i4", "lr", "g", "g ", "")


def mutate(payload: bytes, others: Sequence[bytes], random: Random) -> bytes:
    """One damaged payload out of a sound one; `others` give parts to be spliced in."""
    choice = random.random()
    if choice < 0.15:
        return _bytes(payload, others, random)
    content = unframed(payload)
    if content is None:
        return _bytes(payload, others, random)
    if choice < 0.35:
        inside = [other for other in map(unframed, random.sample(others, 1)) if other is not None]
        content = _bytes(content, inside or [b""], random)
    else:
        content = _fields(content, others, random)
    framed = frame(content)
    if random.random() < 0.03:
        framed = stating(framed, random.choice((*NUMBERS, *LARGE, len(content) - 1, len(content) + 1)) % 2**64)
    return framed


def unframed(payload: bytes) -> bytes | None:
    try:
        return bytes(lz4.frame.decompress(payload))
    except (RuntimeError, MemoryError):  # a frame inside that was damaged before may state any size
        return None


def _bytes(data: bytes, others: Sequence[bytes], random: Random) -> bytes:
    changed = bytearray(data)
    for _ in range(random.choice((1, 1, 1, 2, 5))):
        at = random.randrange(len(changed) + 1)
        random.choice(_BYTE_ACTS)(changed, at, others, random)
    return bytes(changed)


def _flip(data: bytearray, at: int, _others: Sequence[bytes], random: Random) -> None:
    if at < len(data):
        data[at] ^= 1 << random.randrange(8)


def _set(data: bytearray, at: int, _others: Sequence[bytes], random: Random) -> None:
    if at < len(data):
        data[at] = random.choice((0, 1, 0x7F, 0x80, 0xC1, 0xDD, 0xDF, 0xFF, random.randrange(256)))


def _cut(data: bytearray, at: int, _others: Sequence[bytes], random: Random) -> None:
    del data[at : at + random.choice((1, 2, 4, 9, len(data)))]


def _repeat(data: bytearray, at: int, _others: Sequence[bytes], random: Random) -> None:
    data[at:at] = data[at : at + random.randint(1, 40)] * random.choice((1, 2, 50))


def _splice(data: bytearray, at: int, others: Sequence[bytes], random: Random) -> None:
    other = random.choice(others)
    start = random.randrange(len(other) + 1)
    data[at : at + random.randint(0, 60)] = other[start : start + random.randint(0, 60)]


def _length(data: bytearray, at: int, _others: Sequence[bytes], random: Random) -> None:
    """A msgpack opening with a length that is not there."""
    opening = random.choice(
        ((0xC5, ">H"), (0xC6, ">I"), (0xDB, ">I"), (0xDC, ">H"), (0xDD, ">I"), (0xDF, ">I"), (0xC9, ">I"))
    )
    limit = 2**16 if opening[1] == ">H" else 2**32
    length = random.choice((*NUMBERS, *LARGE)) % limit
    data[at : at + random.choice((0, 1, 5))] = bytes([opening[0]]) + struct.pack(opening[1], length)


_BYTE_ACTS: Sequence[Callable[[bytearray, int, Sequence[bytes], Random], None]] = (
    *(_flip, _flip, _flip, _set, _cut, _repeat, _splice, _length),
)


def _fields(content: bytes, others: Sequence[bytes], random: Random) -> bytes:
    try:
        fields = msgpack.unpackb(content, strict_map_key=False)
    except (ValueError, TypeError):  # a payload inside a payload that was damaged before
        return _bytes(content, others, random)
    for _ in range(random.choice((1, 1, 1, 2, 3))):
        fields = _changed(fields, others, random)
    try:
        return bytes(msgpack.packb(fields))
    except (OverflowError, ValueError, TypeError):  # an integer beyond msgpack, an odd key
        return content


def _changed(value: Any, others: Sequence[bytes], random: Random) -> Any:
    """`value` with one thing in it changed, wherever it lies; deep places are as likely as shallow ones."""
    if isinstance(value, dict) and value and random.random() < 0.93:
        key = random.choice(_weighted_keys(value))
        return {**value, key: _changed(value[key], others, random)}
    if isinstance(value, list) and value and random.random() < 0.85:
        at = random.randrange(len(value))
        return [*value[:at], _changed(value[at], others, random), *value[at + 1 :]]
    return _other(value, others, random)


def _weighted_keys(value: Mapping[Any, Any]) -> list[Any]:
    """Tensors and payloads inside of payloads are where most can go wrong."""
    return [key for key in value for _ in range(6 if key in {"x", "dx", "l"} else 1)]


def _other(value: Any, others: Sequence[bytes], random: Random) -> Any:
    if random.random() < 0.06:
        return random.choice((None, True, -1, 1.5, "text", b"bytes", [], {}, [[]], msgpack.ExtType(5, b"abc"), value))
    match value:
        case dict():
            changed: Any = _other_map(value, random)
        case list():
            changed = _other_list(value, random)
        case bytes():
            changed = _other_bytes(value, others, random)
        case str():
            changed = random.choice((*TEXTS, *TAGS))
        case float():
            changed = random.choice((*FLOATS, value * 2, -value, 3, float(random.getrandbits(32))))
        case int():
            near = (value + 1, value - 1, value * 2, value // 2, -value)
            changed = random.choice((*NUMBERS, *near, *near, *(LARGE if random.random() < 0.4 else near)))
        case _:
            changed = random.choice((0, 1, b"", "", []))
    return changed


def _other_map(value: dict[Any, Any], random: Random) -> dict[Any, Any]:
    keys = list(value)
    act = random.randrange(4)
    if act == 0 or not keys:
        return {**value, random.choice(("unknown", "t", "x", "", "v")): random.choice((0, [], {"a": [1]}, b"\0", "s"))}
    one, two = random.choice(keys), random.choice(keys)
    if act == 1:
        return {key: value[key] for key in keys if key != one}
    if act == 2:
        return {**value, one: value[two], two: value[one]}
    return {**value, **{f"k{at}": value[one] for at in range(random.choice((3, 255, 256, 257)))}}


def _other_list(value: list[Any], random: Random) -> list[Any]:
    at = random.randrange(len(value)) if value else 0
    levels = ["g", random.choice(NUMBERS), random.choice(PATTERNS) * random.randint(0, 40)]
    return random.choice(
        (
            value[:at] + value[at + 1 :],
            [*value, *value[at : at + 1]],
            value[at:] + value[:at],
            value * random.choice((2, 9, 200)),
            [value],
            [],
            [*value[:at], levels, *value[at + 1 :]],
        )
    )


def _other_bytes(value: bytes, others: Sequence[bytes], random: Random) -> bytes:
    if value.startswith(MAGIC) and random.random() < 0.8:
        return mutate(value, others, random)
    act = random.randrange(6)
    if act == 0:
        return random.choice(PATTERNS) * (len(value) // 2 + 1)
    if act == 1:  # of the same length: a tensor that is still one
        return (random.choice(PATTERNS) * (len(value) + 1))[: len(value)]
    if act == 2:
        return value + random.choice((b"\0", b"\x80", b"\0" * 8, bytes(random.choice((100, 5_000)))))
    if act == 3:
        return bytes(random.getrandbits(8) for _ in range(min(len(value), 400)))
    return _bytes(value, others, random)
