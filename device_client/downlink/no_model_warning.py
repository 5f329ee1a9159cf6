"""Says what a device that has no model yet is waiting for: one line, once it has waited long enough to wonder."""

from collections.abc import Callable

from device_client.downlink.receiver import ModelReceiver
from device_client.events import Emit

WAIT_SECONDS = 30.0
"""Connected and without a model for so long, a device says why."""


class NoModelWarning:
    """Is asked in every turn of the loop; tells again only when something else is missing than before."""

    def __init__(self, receiver: ModelReceiver, *, monotonic: Callable[[], float], emit: Emit) -> None:
        self._receiver = receiver
        self._monotonic = monotonic
        self._emit = emit
        self._since: float | None = None
        self._told = ""

    def look(self, *, connected: bool) -> None:
        """Tells, if it is time to."""
        if not connected or self._receiver.held is not None:
            self._since = None
            return
        now = self._monotonic()
        if self._since is None:
            self._since = now
        lacks = self._receiver.lacks
        if now - self._since >= WAIT_SECONDS and lacks != self._told:
            self._told = lacks
            self._emit(
                "warning",
                message=f"waiting for a model for {now - self._since:.0f} s: {lacks}; is an aggregator at work there "
                "(same --root and task), and may this device read it? `asyncfedkd doctor` tries the broker",
            )
