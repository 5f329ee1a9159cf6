"""Messages to bytes and back: an LZ4 frame (content size stored) of a msgpack map with a schema number.

Decoding is total: any bytes give either a message of the requested type or a `DecodeError` that names the limit or
field. It proceeds from the outside in, and nothing is allocated before its limit was checked: compressed size, stated
content size, LZ4 (bounded by the stated size), keys, schema number, then only fields of known types. The types carry
their maximal lengths, which are checked before the content is read. Unknown fields are skipped without being built, so
that 64 MiB of empty lists do not become gigabytes of objects. (Hence msgspec's typed decoder. The encoder is msgpack,
the reference implementation; a property test checks that it also reads what is written.)

A key that occurs twice is refused, since two readers could understand the message differently.
"""

import math
import re
from collections.abc import Mapping
from typing import Annotated, TypeVar

import lz4.frame
import msgpack
import msgspec

from wire_contract.errors import DecodeError, LayoutError, LimitExceeded, UnknownSchema
from wire_contract.layout import Layout
from wire_contract.limits import (
    CONTROL_LIMITS,
    DELTA_LIMITS,
    MANIFEST_LIMITS,
    MAP_ITEMS_MAX,
    MODEL_LIMITS,
    MOMENT_MAX,
    UPDATE_LIMITS,
    Limits,
)
from wire_contract.message_fields import OTHER, SIGNED_SCHEMA
from wire_contract.messages import (
    AggregatorStatus,
    Delta,
    Evaluation,
    Manifest,
    Message,
    Model,
    Presence,
    Receipt,
    Signed,
    Update,
    has_unknown_status,
)
from wire_contract.program.plain_text import printable
from wire_contract.summary import Summary

M = TypeVar("M", bound=Message)

SCHEMAS: Mapping[type, int] = {
    Update: 1,
    Model: 1,
    Delta: 1,
    Manifest: 2,
    Signed: SIGNED_SCHEMA,
    Receipt: 1,
    Presence: 1,
    Evaluation: 1,
    AggregatorStatus: 1,
}
"""The newest schema number known of each message kind."""

DEFAULT_LIMITS: Mapping[type, Limits] = {
    Update: UPDATE_LIMITS,
    Model: MODEL_LIMITS,
    Delta: DELTA_LIMITS,
    Manifest: MANIFEST_LIMITS,
    Signed: UPDATE_LIMITS,
}

LEFT_OUT_BY_DEFAULT: Mapping[type, tuple[tuple[str, object], ...]] = {
    Manifest: (("nl", None), ("cl", False), ("ln", None))
}
"""Optional keys that are written only with another value than this, so that messages without them keep the bytes that
earlier releases wrote. All other optional keys are always written."""

_REASON_CHARACTERS_MAX = 200
"""Chosen: about one line of a log. The aggregator adds its own words and cuts the whole at 300."""

T = TypeVar("T")


_Keys = Annotated[dict[str, msgspec.Raw], msgspec.Meta(max_length=MAP_ITEMS_MAX)]
"""What every message is, whatever its schema; the values are not decoded yet."""

_UNKNOWN = (
    (re.compile(r"Invalid value '([^']*)' - at (`\$\.x\[.*\]`)"), "tensor encoding {0!r} is not known here"),
    (re.compile(r"Invalid enum value '([^']*)' - at (`\$\.e`)"), "grid {0!r} is not known here"),
    (re.compile(r"Invalid enum value '([^']*)' - at (`\$\.l\[\d+\]\[2\]`)"), "dtype {0!r} is not known here"),
    (re.compile(r"Invalid enum value '([^']*)' - at (`\$\.l\[\d+\]\[3\]`)"), "kind of tensor {0!r} is not known here"),
    (
        re.compile(r"Expected `array` of at most length 4, got (\d+) - at (`\$\.l\[\d+\]`)"),
        "a tensor with {0} fields is not known here",
    ),
)
"""Errors of msgspec for values that a newer contract may define, and a message for each."""


def encode(message: Message) -> bytes:
    """The payload of `message`."""
    return frame(pack(message))


def frame(content: bytes) -> bytes:
    """Compresses `content` into an LZ4 frame that states its size.

    The blocks, of 64 KiB at most, are independent, so that a reader need not keep earlier blocks in memory.
    """
    return bytes(lz4.frame.compress(content, store_size=True, block_linked=False))


def pack(message: Message) -> bytes:
    """The msgpack map of `message`, the content of its payload; signatures are over these bytes."""
    assert not has_unknown_status(message), f"{message}: `{OTHER}` is for what was read, and is never written"
    built = msgspec.to_builtins(message, builtin_types=(bytes,))
    if isinstance(message, Model):
        built["l"] = [spec.as_written for spec in message.layout]
    for key, default in LEFT_OUT_BY_DEFAULT.get(type(message), ()):
        if built[key] == default:
            del built[key]
    return bytes(msgpack.packb(built))


def decode(payload: bytes, kind: type[M], *, limits: Limits | None = None) -> M:
    """Decodes a message of type `kind`.

    Raises:
        LimitExceeded: it is larger than a limit; nothing of that size was allocated.
        UnknownSchema: a newer program wrote it.
        DecodeError: the bytes are no such message; the text names the field.
    """
    bounds = limits_of(kind, limits)
    return unpack(decompress(payload, bounds), kind, limits=bounds)


def unpack(content: bytes, kind: type[M], *, limits: Limits | None = None) -> M:
    """Decodes a message of type `kind` from the msgpack map `content`.

    Raises:
        DecodeError: as `decode`.
    """
    bounds = limits_of(kind, limits)
    schema = schema_of(content, kind)
    if schema > SCHEMAS[kind]:
        raise UnknownSchema(kind.__name__, found=schema, known=SCHEMAS[kind])
    message = _unpack(content, kind, kind)
    if isinstance(message, Model):
        _check_elements(message, bounds)
    _check_finite(message)
    return message


def limits_of(kind: type, limits: Limits | None = None) -> Limits:
    """`limits`, or else those of the message kind."""
    return limits or DEFAULT_LIMITS.get(kind, CONTROL_LIMITS)


def schema_of(content: bytes, kind: type) -> int:
    """The schema number in the msgpack map `content`.

    Args:
        content: of a message.
        kind: of message that is expected, for error texts.

    Raises:
        DecodeError: it is no map, a key occurs twice, or there is no schema number.
    """
    keys = _unpack(content, _Keys, kind)
    if len(keys) != _map_length(content):
        raise DecodeError(f"{kind.__name__}: a key stands twice")
    schema = _unpack(keys["v"], int, kind) if "v" in keys else None
    if schema is None or schema < 1:
        raise DecodeError(f"{kind.__name__}: the schema number (key 'v') is missing")
    return schema


def _map_length(content: bytes) -> int:
    """The number of entries that the header of the msgpack map `content` states."""
    match content[0]:
        case 0xDE:
            return int.from_bytes(content[1:3])
        case 0xDF:
            return int.from_bytes(content[1:5])
        case first:
            return first & 0x0F


def decompress(payload: bytes, limits: Limits) -> bytes:
    """Decompresses an LZ4 frame.

    Raises:
        LimitExceeded: it is larger than a limit; nothing of that size was allocated.
        DecodeError: it is no such frame.
    """
    if len(payload) > limits.compressed_bytes:
        raise LimitExceeded("compressed_bytes", found=len(payload), allowed=limits.compressed_bytes)
    try:
        stated = int(lz4.frame.get_frame_info(payload)["content_size"])
        if stated > limits.decompressed_bytes:
            raise LimitExceeded("decompressed_bytes", found=stated, allowed=limits.decompressed_bytes)
        decompressor = lz4.frame.LZ4FrameDecompressor()
        # `max_length` also holds if the stated size is false: a decompression bomb stops at the size it states.
        content: bytes = decompressor.decompress(payload, max_length=stated)
    except RuntimeError as error:
        raise DecodeError(f"frame: not an LZ4 frame ({error})") from None
    if len(content) != stated or not decompressor.eof or decompressor.unused_data:
        raise DecodeError(f"frame: content is not the {stated} bytes that its header states")
    return content


def _unpack(content: bytes | msgspec.Raw, fields: type[T], kind: type) -> T:
    try:
        return msgspec.msgpack.decode(content, type=fields)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise DecodeError(f"{kind.__name__}: {_named(_one_line(error))}") from None


def _named(text: str) -> str:
    """Names what a newer program may have written and this one does not know."""
    for pattern, what in _UNKNOWN:
        found = pattern.fullmatch(text)
        if found is not None:
            return f"{what.format(found[1])}; a newer program may have written it ({found[2]})"
    return text


def _one_line(error: Exception) -> str:
    """The text may quote bytes of the sender, and goes into logs and receipts."""
    return printable(str(error)[:_REASON_CHARACTERS_MAX])


def _check_elements(model: Model, limits: Limits) -> None:
    try:
        elements = Layout(model.layout).size
    except LayoutError as error:
        raise DecodeError(f"Model: {error}") from None
    if elements > limits.elements:
        raise LimitExceeded("elements", found=elements, allowed=limits.elements)


def _check_finite(message: Message) -> None:
    """`ge=0` in the types excludes NaN, but not infinity."""
    numbers: list[tuple[str, float]] = []
    match message:
        case Update():
            numbers = [("train_seconds", message.train_seconds), *_metrics(message.metrics)]
        case Evaluation():
            numbers = _metrics(message.metrics)
        case Manifest():
            numbers = [("published_at", message.published_at), ("expires_at", message.expires_at or 0.0)]
        case Receipt():
            numbers = [("weight", message.weight)]
        case AggregatorStatus(summary=Summary() as summary):
            numbers = [("summary", moment) for moment in (summary.at, summary.since)]
            numbers += [("summary", measured.at) for measured in summary.accuracies]
            numbers += [("summary", measured.at) for measured in summary.measured or ()]
            numbers += [("summary", seen.at) for seen in summary.devices]
    for name, value in numbers:
        if not math.isfinite(value):
            raise DecodeError(f"{type(message).__name__}: {name} is not finite")
    if isinstance(message, Manifest) and message.published_at > MOMENT_MAX:
        raise DecodeError(f"Manifest: published_at is {message.published_at:.4g}, a moment that cannot be")


def _metrics(metrics: Mapping[str, float]) -> list[tuple[str, float]]:
    return [(f"metric {name[:80]!r}", value) for name, value in metrics.items()]
