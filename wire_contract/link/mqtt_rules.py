"""What MQTT itself says of topics, filters and packet sizes, for both links."""

from wire_contract.errors import LinkError

TOPIC_BYTES_MAX = 65_535
"""Strings in MQTT have a length of two bytes."""
WILL_BYTES_MAX = 65_535
"""So has the payload of a will."""
RECEIVE_MAXIMUM_MAX = 65_535
"""Message ids have two bytes, and 0 is none."""

_REMAINING_LENGTH_STEPS = (0x7F, 0x3FFF, 0x1F_FFFF)


def check_topic(topic: str) -> None:
    """Raises:
    LinkError: nobody can publish to it.
    """
    if set(topic) & set("+#\0") or not 0 < _size(topic) <= TOPIC_BYTES_MAX:
        raise LinkError(f"topic {topic[:80]!r}: 1 to {TOPIC_BYTES_MAX} bytes of UTF-8 without + # and NUL")


def check_filter(topic_filter: str) -> None:
    """Raises:
    LinkError: nobody can subscribe to it.
    """
    levels = topic_filter.split("/")
    whole = all(level in {"+", "#"} or not set(level) & set("+#\0") for level in levels)
    if not whole or "#" in levels[:-1] or not 0 < _size(topic_filter) <= TOPIC_BYTES_MAX:
        raise LinkError(f"filter {topic_filter[:80]!r}: + and # must fill a level, and # must be the last")


def _size(text: str) -> int:
    try:
        return len(text.encode())
    except UnicodeEncodeError:  # a lone surrogate
        return 0


def matches(topic_filter: str, topic: str) -> bool:
    """Whether a subscriber of the filter gets the topic."""
    if topic.startswith("$") and topic_filter[0] in "+#":
        return False  # the broker's own topics must be named
    wanted, levels = topic_filter.split("/"), topic.split("/")
    for index, level in enumerate(wanted):
        if level == "#":
            return True
        if index >= len(levels) or level not in {"+", levels[index]}:
            return False
    return len(wanted) == len(levels)


def packet_bytes(topic: str, payload: bytes) -> int:
    """Size of a whole PUBLISH at QoS 1: brokers limit the packet, not the payload. MQTT 5 has the one byte more."""
    topic_length, message_id, properties = 2, 2, 1
    remaining = topic_length + len(topic.encode()) + message_id + properties + len(payload)
    length_field = 1 + sum(remaining > step for step in _REMAINING_LENGTH_STEPS)
    return 1 + length_field + remaining
