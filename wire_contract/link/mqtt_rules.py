"""Rules of MQTT itself for topics, filters and packet sizes, used by both links."""

from wire_contract.errors import LinkError

TOPIC_BYTES_MAX = 65_535
"""The length of an MQTT string is a 16-bit number."""
WILL_BYTES_MAX = 65_535
"""So is the length of a will's payload."""
RECEIVE_MAXIMUM_MAX = 65_535
"""Message ids are 16-bit numbers, of which 0 is invalid."""

_REMAINING_LENGTH_STEPS = (0x7F, 0x3FFF, 0x1F_FFFF)


def check_topic(topic: str) -> None:
    """Raises:
    LinkError: nothing can be published to this topic.
    """
    if set(topic) & set("+#\0") or not 0 < _size(topic) <= TOPIC_BYTES_MAX:
        raise LinkError(f"topic {topic[:80]!r}: 1 to {TOPIC_BYTES_MAX} bytes of UTF-8 without + # and NUL")


def check_filter(topic_filter: str) -> None:
    """Raises:
    LinkError: it is no valid filter.
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
    """Whether a subscription to the filter receives messages of the topic."""
    if topic.startswith("$") and topic_filter[0] in "+#":
        return False  # wildcards do not match the broker's own topics ($SYS)
    wanted, levels = topic_filter.split("/"), topic.split("/")
    for index, level in enumerate(wanted):
        if level == "#":
            return True
        if index >= len(levels) or level not in {"+", levels[index]}:
            return False
    return len(wanted) == len(levels)


def packet_bytes(topic: str, payload: bytes) -> int:
    """Size of a PUBLISH packet at QoS 1, including the byte that only MQTT 5 has: brokers limit packets, not
    payloads.
    """
    topic_length, message_id, properties = 2, 2, 1
    remaining = topic_length + len(topic.encode()) + message_id + properties + len(payload)
    length_field = 1 + sum(remaining > step for step in _REMAINING_LENGTH_STEPS)
    return 1 + length_field + remaining
