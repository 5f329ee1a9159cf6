"""When to subscribe to the model topic again. Decides only.

Manifests are received at QoS 0, so the broker may silently drop one under load or for a slow client. It sends the
retained manifest with every subscription. So after a time without any manifest a device subscribes again, and as long
as that brings nothing new, less and less often.
"""

from collections.abc import Callable

SILENCE_SECONDS = 600.0
"""The first interval; each further one is twice as long. Ten minutes without a manifest are normal between versions."""
SILENCE_SECONDS_MAX = 4 * 60 * 60.0
"""The longest interval. Intervals are drawn up to twice as long, so a missed manifest is noticed within eight hours."""


class ResubscriptionTimer:
    """For one subscription. Times are of the monotonic clock, in seconds."""

    def __init__(self, now: float, *, uniform: Callable[[float, float], float]) -> None:
        """`uniform` draws a number evenly between two, so that a fleet does not subscribe all at once."""
        self._uniform = uniform
        self._silence_seconds = SILENCE_SECONDS
        self._until = self._next_time(now)

    def heard(self, now: float, *, news: bool) -> None:
        """A manifest arrived; `news`: the device did not have it yet."""
        if news:
            self._silence_seconds = SILENCE_SECONDS
        self._until = self._next_time(now)

    def is_due(self, now: float) -> bool:
        """Whether to subscribe now. If so, the next interval begins."""
        if now < self._until:
            return False
        self._silence_seconds = min(2 * self._silence_seconds, SILENCE_SECONDS_MAX)
        self._until = self._next_time(now)
        return True

    def _next_time(self, now: float) -> float:
        return now + self._silence_seconds * self._uniform(1.0, 2.0)
