"""Writes that are tried again while the disk is full; everything that needs no disk continues meanwhile."""

from collections.abc import Callable
from typing import Literal

from device_client.events import Emit
from device_client.uplink.outbox_errors import OutboxBlocked

What = Literal["outbox", "round", "model", "trust", "receipts"]
"""Kinds of writes: opening the outbox, the update of a round, the newest model, the last trusted version, and which
updates are settled.
"""
FIRST_DELAY_SECONDS = 1.0
"""Chosen: a disk that is full for a moment costs little time; sooner attempts would only find it full again."""
DELAY_SECONDS_MAX = 60.0
"""The delay doubles with each failure up to this; free space is noticed at most this late."""


class WriteRetry:
    """Retries writes with backoff. Reports once when the disk begins to refuse them, and once when all are written."""

    def __init__(self, *, monotonic: Callable[[], float], emit: Emit) -> None:
        self._monotonic = monotonic
        self._emit = emit
        self._refused: dict[What, tuple[float, float]] = {}
        """Kinds of writes that wait: when the next attempt is due, and the delay before it."""
        self._trouble = ""

    @property
    def is_blocked(self) -> bool:
        """Whether anything waits to be written."""
        return bool(self._refused)

    @property
    def trouble(self) -> str:
        """Why the disk refuses writes, in one line; empty: nothing waits."""
        return self._trouble if self._refused else ""

    def try_write(self, what: What, write: Callable[[], object]) -> bool:
        """Returns whether `write` succeeded. Shortly after a failure it is not even tried.

        Args:
            what: the kind of write; each kind has a delay of its own.
            write: raises `OutboxBlocked` if the disk refuses it; the caller is to call again later, at any time.
        """
        now = self._monotonic()
        again_at, delay = self._refused.get(what, (now, 0.0))
        if now < again_at:
            return False
        try:
            write()
        except OutboxBlocked as error:
            self._trouble = str(error)
            if not self._refused:
                self._emit("held", what="writing", reasons=[self._trouble])
            delay = min(max(2 * delay, FIRST_DELAY_SECONDS), DELAY_SECONDS_MAX)
            self._refused[what] = (now + delay, delay)
            return False
        if self._refused.pop(what, None) is not None and not self._refused:
            self._emit("released", what="writing")
        return True
