"""The types of message fields: their bounds, and the values of those that have a closed list."""

from collections.abc import Collection
from typing import Annotated, Final, Literal, get_args

import msgspec

from wire_contract.encoding import EncodedTensor
from wire_contract.layout import DIGEST_BYTES, FINGERPRINT_BYTES
from wire_contract.limits import MAP_ITEMS_MAX, NAME_CHARACTERS_MAX, TENSORS_MAX, TEXT_CHARACTERS_MAX

INCARNATION_BYTES = 8
"""Random; 64 bits, because only the incarnations of one device must differ."""
PAYLOAD_DIGEST_BYTES = 8
"""The beginning of a SHA-256; 64 bits suffice to tell the few payloads of one device apart."""
KEY_ID_BYTES = 8
"""Of a hash of the key; 64 bits suffice to find a key, as the signature itself is verified with it."""
SIGNATURE_BYTES = 64
"""Of Ed25519 (RFC 8032)."""
SIGNED_SCHEMA = 128
"""Key `v` of a signed message, which distinguishes it from an unsigned one. A program without support for signatures
refuses it as an unknown schema; the schema numbers of all other kinds stay below it."""

NAME_PATTERN = r"^[A-Za-z0-9][A-Za-z0-9_.\-]*\Z"
Name = Annotated[str, msgspec.Meta(pattern=NAME_PATTERN, max_length=NAME_CHARACTERS_MAX)]
Count = Annotated[int, msgspec.Meta(ge=0, le=2**53)]
"""A number that JavaScript, InfluxDB and SQLite can all represent exactly."""
Version = Count
Digest = Annotated[bytes, msgspec.Meta(min_length=DIGEST_BYTES, max_length=DIGEST_BYTES)]
Fingerprint = Annotated[bytes, msgspec.Meta(min_length=FINGERPRINT_BYTES, max_length=FINGERPRINT_BYTES)]
Incarnation = Annotated[bytes, msgspec.Meta(min_length=INCARNATION_BYTES, max_length=INCARNATION_BYTES)]
Text = Annotated[str, msgspec.Meta(max_length=TEXT_CHARACTERS_MAX)]
MetricName = Annotated[str, msgspec.Meta(min_length=1, max_length=NAME_CHARACTERS_MAX)]
Metrics = Annotated[dict[Text, float], msgspec.Meta(max_length=MAP_ITEMS_MAX)]
Texts = Annotated[dict[Text, Text], msgspec.Meta(max_length=MAP_ITEMS_MAX)]
Counters = Annotated[dict[Text, int], msgspec.Meta(max_length=MAP_ITEMS_MAX)]
Tensors = Annotated[tuple[EncodedTensor, ...], msgspec.Meta(max_length=TENSORS_MAX)]

Grid = Literal["float32", "float16"]
Status = Literal["online", "offline"]
Outcome = Literal["merged", "duplicate", "refused"]
RefusalReason = Literal[
    "too_stale",
    "unknown_base",
    "malformed",
    "not_finite",
    "too_large",
    "norm",
    "layout",
    "budget",
    "rate",
    "signature",
]
"""What an aggregator writes. The first release cannot decode a receipt with any other reason, so a more specific reason
is written as the nearest of these, with its own name in the receipt's `detail`."""

OTHER: Final = "other"
"""How an unknown status of a newer program is read. Never written."""

StatusText = Text
"""A status as read: one of the values known here, or `OTHER`."""
STATUSES: Collection[str] = frozenset(get_args(Status))
OUTCOMES: Collection[str] = frozenset(get_args(Outcome))
REASONS: Collection[str] = frozenset(get_args(RefusalReason))
