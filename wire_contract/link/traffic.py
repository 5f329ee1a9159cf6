"""How much a link has carried, in messages and payload bytes."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Traffic:
    """Totals since the link was created."""

    messages_in: int = 0
    """Deliveries, including repeated ones."""
    bytes_in: int = 0
    messages_out: int = 0
    """Acknowledged publications, each counted once."""
    bytes_out: int = 0


class TrafficCounter:
    """Written by one thread, read by any thread."""

    def __init__(self) -> None:
        self.snapshot = Traffic()

    def received(self, size_bytes: int) -> None:
        now = self.snapshot
        self.snapshot = Traffic(now.messages_in + 1, now.bytes_in + size_bytes, now.messages_out, now.bytes_out)

    def sent(self, size_bytes: int) -> None:
        now = self.snapshot
        self.snapshot = Traffic(now.messages_in, now.bytes_in, now.messages_out + 1, now.bytes_out + size_bytes)
