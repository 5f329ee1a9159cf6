"""How much went over a link: payload bytes, as the user sees them."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Traffic:
    """What a link has carried since it was made."""

    messages_in: int = 0
    """Deliveries, those that came again included."""
    bytes_in: int = 0
    messages_out: int = 0
    """Publications that the broker has acknowledged, each once."""
    bytes_out: int = 0


class TrafficCounter:
    """Written by one thread, read by any."""

    def __init__(self) -> None:
        self.snapshot = Traffic()

    def received(self, size_bytes: int) -> None:
        now = self.snapshot
        self.snapshot = Traffic(now.messages_in + 1, now.bytes_in + size_bytes, now.messages_out, now.bytes_out)

    def sent(self, size_bytes: int) -> None:
        now = self.snapshot
        self.snapshot = Traffic(now.messages_in, now.bytes_in, now.messages_out + 1, now.bytes_out + size_bytes)
