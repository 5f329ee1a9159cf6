"""Errors of the contract. Each carries its numbers, so that its text is enough for a log line.

ContractError
├── DecodeError            bytes that are no message
│   ├── LimitExceeded      … because something is larger than its named limit
│   └── UnknownSchema      … because a newer program wrote them
├── EncodeError            values that cannot be written
├── TopicError             a name or topic outside the contract
├── LayoutError            tensors that do not fit the layout
├── LineMismatch           a model of a line with other labels or fixed buffers than the task
├── FileUnusable           a file that the user named cannot be read, or does not hold what it should
└── LinkError              the link cannot do what was asked
    └── PayloadTooLarge    … because the broker would refuse the packet
"""


class ContractError(Exception):
    """Something is outside the wire contract."""


class DecodeError(ContractError):
    """These bytes are not a message of the contract."""


class LimitExceeded(DecodeError):
    """Something in a message is larger than its named limit."""

    def __init__(self, limit: str, *, found: int, allowed: int) -> None:
        super().__init__(f"{limit}: {found} is over the limit of {allowed}")
        self.limit = limit
        self.found = found
        self.allowed = allowed


class UnknownSchema(DecodeError):
    """The message was written by a program newer than this one."""

    def __init__(self, kind: str, *, found: int, known: int) -> None:
        super().__init__(f"{kind}: schema {found} is not known here (newest known: {known}); update this program")
        self.found = found
        self.known = known


class EncodeError(ContractError):
    """These values cannot be written in the chosen encoding."""


class TopicError(ContractError):
    """A topic, or a name that should become part of one, is outside the contract."""


class LayoutError(ContractError):
    """Tensors do not fit the layout."""


class LineMismatch(ContractError):
    """A model is of a line with other labels or fixed buffers than the task."""


class FileUnusable(ContractError):
    """A file that the user named cannot be read, or does not hold what it should."""


class LinkError(ContractError):
    """The link cannot do what was requested."""


class PayloadTooLarge(LinkError):
    """The packet is larger than the broker accepts; it was not sent."""

    def __init__(self, topic: str, *, size_bytes: int, limit_bytes: int) -> None:
        super().__init__(f"{topic}: {size_bytes} bytes is over the broker's limit of {limit_bytes}")
        self.topic = topic
        self.size_bytes = size_bytes
        self.limit_bytes = limit_bytes
