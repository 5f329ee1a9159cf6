"""All topics of the contract, in one table.

Topics are `{root}/{task}/…`, with at most 7 slashes so that every cloud broker accepts them. MQTT filters are made from
the same table, with `+` for each level that is not given.
"""

import re
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from wire_contract.errors import TopicError
from wire_contract.limits import NAME_CHARACTERS_MAX, TOPIC_SLASHES_MAX
from wire_contract.link.protocol import QoS
from wire_contract.message_fields import NAME_PATTERN
from wire_contract.messages import AggregatorStatus, Delta, Evaluation, Manifest, Message, Presence, Receipt, Update

DEFAULT_ROOT = "fedkd/v1"

Kind = Literal["model", "chunk", "delta", "update", "receipt", "presence", "evaluation", "aggregator"]
Writer = Literal["aggregator", "device", "evaluator"]


@dataclass(frozen=True)
class Topic:
    """One row of the contract."""

    pattern: str
    """Below the root; `{…}` stands for one level."""
    payload: type[Message] | None
    """None: raw bytes (a chunk of a model payload)."""
    qos: QoS
    """QoS of publications."""
    listen_qos: QoS
    """QoS of subscriptions. 0 where only the newest message matters, which is retained: a client that was away then
    gets that one only."""
    retain: bool
    writer: Writer


TOPICS: Mapping[Kind, Topic] = {
    "model": Topic("{task}/model", Manifest, 1, 0, True, "aggregator"),
    "chunk": Topic("{task}/model/{version}/{chunk}", None, 1, 1, True, "aggregator"),
    "delta": Topic("{task}/delta/{version}", Delta, 1, 1, True, "aggregator"),
    "update": Topic("{task}/update/{shard}/{device}", Update, 1, 1, False, "device"),
    "receipt": Topic("{task}/receipt/{device}", Receipt, 1, 1, False, "aggregator"),
    "presence": Topic("{task}/presence/{device}", Presence, 1, 1, True, "device"),
    "evaluation": Topic("{task}/evaluation/{device}", Evaluation, 1, 1, False, "evaluator"),
    "aggregator": Topic("{task}/aggregator/{shard}", AggregatorStatus, 1, 1, True, "aggregator"),
}

_NUMBER = re.compile(r"0|[1-9][0-9]{0,15}")
_NAME = re.compile(NAME_PATTERN)
_NUMERIC_PARTS = frozenset({"version", "chunk", "shard"})
_SLASHES_BELOW_ROOT = max(topic.pattern.count("/") for topic in TOPICS.values()) + 1


@dataclass(frozen=True)
class ParsedTopic:
    """The parts of a concrete topic."""

    kind: Kind
    task: str
    parts: Mapping[str, str]
    """The other levels by name: device, shard, version or chunk."""

    @property
    def device(self) -> str:
        return self.parts["device"]


def check_name(name: str, what: str) -> str:
    """Returns `name` if it can be a level of a topic.

    Raises:
        TopicError: it is empty, too long, or has characters outside A-Z a-z 0-9 . _ -
    """
    if len(name) > NAME_CHARACTERS_MAX or not _NAME.fullmatch(name):
        raise TopicError(
            f"{what} {name[:80]!r}: use 1 to {NAME_CHARACTERS_MAX} of A-Z a-z 0-9 . _ -, the first a letter or digit"
        )
    return name


def check_root(root: str) -> str:
    """Returns `root` if topics below it are within the contract.

    Raises:
        TopicError: it has an empty level, a wildcard, or too many slashes.
    """
    levels = root.split("/")
    if any(not level or level.startswith("$") or set(level) & set("+#\0") for level in levels):
        raise TopicError(f"topic root {root!r}: levels must not be empty, begin with $ or hold + or #")
    if root.count("/") + _SLASHES_BELOW_ROOT > TOPIC_SLASHES_MAX:
        allowed = TOPIC_SLASHES_MAX - _SLASHES_BELOW_ROOT
        raise TopicError(f"topic root {root!r}: at most {allowed} slashes, or cloud brokers refuse the topics")
    return root


def build(kind: Kind, *, root: str, task: str, **parts: str | int) -> str:
    """Builds a topic from its levels.

    Raises:
        TopicError: a level is missing, unknown, or not a valid name or number.
    """
    levels = {"task": task, **{name: str(value) for name, value in parts.items()}}
    pattern = TOPICS[kind].pattern
    needed = {level[1:-1] for level in pattern.split("/") if level.startswith("{")}
    if needed != set(levels):
        raise TopicError(f"topic {kind}: needs {sorted(needed)}, was given {sorted(levels)}")
    for name, value in levels.items():
        if name not in _NUMERIC_PARTS:
            check_name(value, name)
        elif not _NUMBER.fullmatch(value):
            raise TopicError(f"topic {kind}: {name} {value!r} is not a number")
    return f"{root}/{pattern.format(**levels)}"


def topic_filter(kind: Kind, *, root: str, task: str, **parts: str | int) -> str:
    """Builds an MQTT filter for topics of this kind, with `+` for each level that is not given."""
    levels = {"task": task, **{name: str(value) for name, value in parts.items()}}
    filled = [
        levels.get(level[1:-1], "+") if level.startswith("{") else level for level in TOPICS[kind].pattern.split("/")
    ]
    return "/".join([root, *filled])


def subscription(kind: Kind, *, root: str, task: str, **parts: str | int) -> Mapping[str, QoS]:
    """The filter of `topic_filter`, with its QoS from the table."""
    return {topic_filter(kind, root=root, task=task, **parts): TOPICS[kind].listen_qos}


def parse(topic: str, *, root: str) -> ParsedTopic:
    """Parses a concrete topic.

    Raises:
        TopicError: it is no topic of the contract below `root`.
    """
    prefix = root + "/"
    if topic.startswith(prefix):
        levels = topic[len(prefix) :].split("/")
        for kind, row in TOPICS.items():
            parts = _match(row.pattern.split("/"), levels)
            if parts is not None:
                task = parts.pop("task")
                return ParsedTopic(kind, task, parts)
    raise TopicError(f"topic {topic[:80]!r} is not of the contract below {root!r}")


def _match(pattern: list[str], levels: list[str]) -> dict[str, str] | None:
    if len(pattern) != len(levels):
        return None
    parts = {}
    for expected, level in zip(pattern, levels, strict=True):
        if not expected.startswith("{"):
            if expected != level:
                return None
            continue
        name = expected[1:-1]
        valid = _NUMBER.fullmatch(level) if name in _NUMERIC_PARTS else _NAME.fullmatch(level)
        if not valid or len(level) > NAME_CHARACTERS_MAX:
            return None
        parts[name] = level
    return parts


def shard_of(device: str, shards: int) -> int:
    """The shard that a device publishes to: CRC-32 of its name, which is easy in firmware, mod the number of shards."""
    return zlib.crc32(device.encode()) % shards
