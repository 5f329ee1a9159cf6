"""When to subscribe to the model once more. Decides only.

Manifests come at QoS 0: the broker may drop one, under load or for a slow client, and says nothing. What it has
retained comes with each subscription. So after a time without any manifest a device asks again; as long as that brings
nothing new, it asks more and more seldom.
"""

from collections.abc import Callable

SILENCE_SECONDS = 600.0
"""The first time; each further one is twice as long."""
SILENCE_SECONDS_MAX = 4 * 60 * 60.0


class ResubscriptionTimer:
    """Of one subscription. Moments are of the monotonic clock, in seconds."""

    def __init__(self, now: float, *, uniform: Callable[[float, float], float]) -> None:
        """`uniform` draws a number evenly between two, so that a fleet does not ask at once."""
        self._uniform = uniform
        self._silence_seconds = SILENCE_SECONDS
        self._until = self._drawn(now)

    def heard(self, now: float, *, news: bool) -> None:
        """A manifest came; `news` unless the device had it already."""
        if news:
            self._silence_seconds = SILENCE_SECONDS
        self._until = self._drawn(now)

    def is_due(self, now: float) -> bool:
        """Whether to ask now. It is not due again for a while."""
        if now < self._until:
            return False
        self._silence_seconds = min(2 * self._silence_seconds, SILENCE_SECONDS_MAX)
        self._until = self._drawn(now)
        return True

    def _drawn(self, now: float) -> float:
        return now + self._silence_seconds * self._uniform(1.0, 2.0)
