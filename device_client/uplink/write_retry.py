"""Whether the disk takes what has to be written. A full one is waited for; what needs no disk goes on meanwhile."""

from collections.abc import Callable
from typing import Literal

from device_client.events import Emit
from device_client.uplink.outbox_errors import OutboxBlocked

What = Literal["outbox", "round", "model", "trust", "receipts"]
"""What is to be written: what opening the outbox takes, what was learned, the newest model, that a key vouched for a
model, and the fates of updates.
"""
FIRST_REST_SECONDS = 1.0
REST_SECONDS_MAX = 60.0
"""A rest doubles with each refusal up to this, so that late at most it is seen that there is space again."""


class Disk:
    """Tries to write, now and then while it is refused. Tells once when that begins, and once when all is written."""

    def __init__(self, *, monotonic: Callable[[], float], emit: Emit) -> None:
        self._monotonic = monotonic
        self._emit = emit
        self._refused: dict[What, tuple[float, float]] = {}
        """What waits, with when it is tried again and how long the rest before that was."""
        self._trouble = ""

    @property
    def is_blocked(self) -> bool:
        """Whether anything waits to be written."""
        return bool(self._refused)

    @property
    def trouble(self) -> str:
        """What keeps the disk from taking it, in one line; empty: nothing waits."""
        return self._trouble if self._refused else ""

    def takes(self, what: What, write: Callable[[], object]) -> bool:
        """Whether `write` went through. It is not even tried shortly after it was refused.

        Args:
            what: writes of one kind; each rests for itself.
            write: raises `OutboxBlocked` where the disk refuses; then it is to be offered here again, at any time.
        """
        now = self._monotonic()
        again_at, rest = self._refused.get(what, (now, 0.0))
        if now < again_at:
            return False
        try:
            write()
        except OutboxBlocked as error:
            self._trouble = str(error)
            if not self._refused:
                self._emit("held", what="writing", reasons=[self._trouble])
            rest = min(max(2 * rest, FIRST_REST_SECONDS), REST_SECONDS_MAX)
            self._refused[what] = (now + rest, rest)
            return False
        if self._refused.pop(what, None) is not None and not self._refused:
            self._emit("released", what="writing")
        return True
