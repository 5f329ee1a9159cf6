"""Warns that a device still has no model, and says what is missing."""

from collections.abc import Callable

from device_client.downlink.receiver import ModelReceiver
from device_client.events import Emit

WAIT_SECONDS = 30.0
"""How long a device is connected without a model before it warns. A retained manifest arrives within seconds."""


class NoModelWarning:
    """Called in every turn of the loop; warns again only if something else is missing than before."""

    def __init__(self, receiver: ModelReceiver, *, monotonic: Callable[[], float], emit: Emit) -> None:
        self._receiver = receiver
        self._monotonic = monotonic
        self._emit = emit
        self._since: float | None = None
        self._reported = ""

    def look(self, *, connected: bool) -> None:
        """Warns if it is time to."""
        if not connected or self._receiver.held is not None:
            self._since = None
            return
        now = self._monotonic()
        if self._since is None:
            self._since = now
        lacks = self._receiver.lacks
        if now - self._since >= WAIT_SECONDS and lacks != self._reported:
            self._reported = lacks
            self._emit(
                "warning",
                message=f"waiting for a model for {now - self._since:.0f} s: {lacks}; is an aggregator running there "
                "(same --root and task), and may this device read the topic? `asyncfedkd doctor` checks the broker",
            )
