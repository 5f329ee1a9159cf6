"""When to send the oldest update: one at a time, kept until its receipt, again with backoff. Decides only.

    idle ──due──▶ waiting ──receipt──▶ idle
                    │  no receipt in time, or the link would not take it
                    ▼
                  resting ──(0 … doubling, full jitter)──▶ due again

A new session at the broker (session_present False) has lost what the old one held, so what waits is due at once.
Time is the monotonic clock, in seconds.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from device_client.uplink.error_feedback import RETOLD_REASONS
from wire_contract.messages import Receipt


@dataclass(frozen=True, kw_only=True)
class SenderSettings:
    """All in seconds."""

    receipt_timeout_seconds: float = 30.0
    """So long a receipt is waited for before the update is sent again."""
    backoff_first_seconds: float = 1.0
    """The first rest is drawn from 0 to this; each further one from a range twice as wide."""
    backoff_max_seconds: float = 300.0


Verdict = Literal["done", "later", "retell"]
"""What becomes of an update: it is over; it is sent again; or it is over, and its content is told by the next one."""


def verdict(receipt: Receipt) -> Verdict:
    """What a receipt means for its update. Only `rate` says that the same bytes are welcome later. An outcome or a
    reason of a newer aggregator, which this program does not know, ends the update: it has been answered.
    """
    if receipt.outcome != "refused":
        return "done"
    if receipt.reason == "rate":
        return "later"
    return "retell" if receipt.reason in RETOLD_REASONS else "done"


class Sender:
    """The state of sending. The update itself lies in the outbox."""

    def __init__(self, settings: SenderSettings, *, uniform: Callable[[float, float], float]) -> None:
        self._settings = settings
        self._uniform = uniform
        self._connected = False
        self._failures = 0
        self._waiting: int | None = None
        """The sequence whose receipt is waited for."""
        self._until = 0.0
        """End of the waiting, or of the rest."""

    @property
    def waiting(self) -> int | None:
        """The sequence on its way, if any."""
        return self._waiting

    def is_due(self, now: float) -> bool:
        """Whether the oldest update should be sent now. Without a connection no receipt can come, so none is late."""
        if self._connected and self._waiting is not None and now >= self._until:
            self._fail(now)
        return self._connected and self._waiting is None and now >= self._until

    def due_in(self, now: float) -> float | None:
        """Seconds until `is_due` may change by itself; None while there is no connection."""
        return max(0.0, self._until - now) if self._connected else None

    def sent(self, sequence: int, now: float) -> None:
        self._waiting = sequence
        self._until = now + self._settings.receipt_timeout_seconds

    def not_taken(self, now: float) -> None:
        """The link would not take it."""
        self._fail(now)

    def connected(self, now: float, *, session_present: bool) -> None:
        self._connected = True
        if not session_present:
            self._waiting, self._until = None, now
        elif self._waiting is not None:  # its receipt may lie in the session, and is on its way now
            self._until = max(self._until, now + self._settings.receipt_timeout_seconds)

    def disconnected(self) -> None:
        self._connected = False

    def settled(self, sequence: int, now: float) -> None:
        """The update is not to be sent again: its receipt came, or it cannot be sent at all."""
        if self._waiting in {None, sequence}:
            self._waiting, self._until, self._failures = None, now, 0

    def deferred(self, sequence: int, now: float) -> None:
        """The aggregator wants it later."""
        if self._waiting in {None, sequence}:
            self._fail(now)

    def _fail(self, now: float) -> None:
        width = min(self._settings.backoff_max_seconds, self._settings.backoff_first_seconds * 2.0**self._failures)
        # No further doubling once the range is as wide as it gets, or a year offline ends in an overflow.
        self._failures += width < self._settings.backoff_max_seconds
        self._waiting, self._until = None, now + self._uniform(0.0, width)
