"""When to send the oldest update: one at a time, until its receipt arrives, again with backoff. Decides only.

    idle ──due──▶ awaiting the receipt ──receipt──▶ idle
                    │  no receipt in time, or the link did not accept the message
                    ▼
                  backing off (0 … doubling, full jitter) ──▶ due again

If the broker has no session (session_present False), whatever the old session held is lost, so a waiting update is due
at once. Times are of the monotonic clock, in seconds.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from device_client.uplink.error_feedback import CARRIED_OVER_REASONS
from wire_contract.messages import Receipt


@dataclass(frozen=True, kw_only=True)
class ResendSettings:
    """All in seconds."""

    receipt_timeout_seconds: float = 30.0
    """How long to wait for a receipt before the update is sent again. Chosen, not measured: a busy aggregator answers
    later than an idle one, and each resending costs the update's bytes again."""
    backoff_first_seconds: float = 1.0
    """The first delay is drawn from 0 to this; each further one from a range twice as wide."""
    backoff_max_seconds: float = 300.0
    """The widest range; bounds how long an update still waits when a long outage ends. Five minutes are chosen: they
    matter little after an outage of hours."""


Verdict = Literal["done", "later", "carry_over"]
"""What becomes of an update: it is finished; it is sent again; or it is finished, and its content is sent with the next
one."""


def verdict(receipt: Receipt) -> Verdict:
    """What a receipt means for its update.

    Only `rate` asks for the same bytes later. An outcome or reason of a newer aggregator that this program does not
    know finishes the update: it has been answered.
    """
    if receipt.outcome != "refused":
        return "done"
    if receipt.reason == "rate":
        return "later"
    return "carry_over" if receipt.reason in CARRIED_OVER_REASONS else "done"


class ResendTimer:
    """When the update at the head of the outbox is to be sent; the update itself stays in the outbox."""

    def __init__(self, settings: ResendSettings, *, uniform: Callable[[float, float], float]) -> None:
        """`uniform` draws a number evenly between two."""
        self._settings = settings
        self._uniform = uniform
        self._connected = False
        self._failures = 0
        self._waiting: int | None = None
        """The sequence whose receipt is awaited."""
        self._until = 0.0
        """End of the wait for a receipt, or of the backoff."""

    def is_due(self, now: float) -> bool:
        """Whether the oldest update is to be sent now. Without a connection no receipt can come, so none is late."""
        if self._connected and self._waiting is not None and now >= self._until:
            self._fail(now)
        return self._connected and self._waiting is None and now >= self._until

    def sent(self, sequence: int, now: float) -> None:
        """The update was handed to the link."""
        self._waiting = sequence
        self._until = now + self._settings.receipt_timeout_seconds

    def not_accepted(self, now: float) -> None:
        """The link did not accept the message."""
        self._fail(now)

    def connected(self, now: float, *, session_present: bool) -> None:
        self._connected = True
        if not session_present:
            self._waiting, self._until = None, now
        elif self._waiting is not None:  # its receipt may be in the session, and is delivered now
            self._until = max(self._until, now + self._settings.receipt_timeout_seconds)

    def disconnected(self) -> None:
        self._connected = False

    def settled(self, sequence: int, now: float) -> None:
        """The update is not to be sent again: its receipt came, or it cannot be sent at all."""
        if self._waiting in {None, sequence}:
            self._waiting, self._until, self._failures = None, now, 0

    def deferred(self, sequence: int, now: float) -> None:
        """The aggregator asked for it to be sent later."""
        if self._waiting in {None, sequence}:
            self._fail(now)

    def _fail(self, now: float) -> None:
        width = min(self._settings.backoff_max_seconds, self._settings.backoff_first_seconds * 2.0**self._failures)
        # Not counted further once the range is at its widest: 2.0**failures would overflow after a year offline.
        self._failures += width < self._settings.backoff_max_seconds
        self._waiting, self._until = None, now + self._uniform(0.0, width)
