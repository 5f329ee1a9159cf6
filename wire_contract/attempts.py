"""What became of one attempt to connect, and how long to rest before the next."""

from collections.abc import Callable
from dataclasses import dataclass

STABLE_SECONDS = 10.0
"""A connection that ended sooner counts as failed, or two programs with one client id would throw each other out at
full speed."""

UNSUPPORTED_PROTOCOL = 0x84
REFUSALS = frozenset({UNSUPPORTED_PROTOCOL, 0x85, 0x86, 0x87, 0x8A, 0x8C})
"""Client id, user name or password, authorisation, ban, method: the same answer will come again."""
ENDINGS = {
    "Unspecified error": "the connection was lost",
    "Keep alive timeout": "the broker does not answer",
    "Session taken over": "another program connected with the same client id",
}
"""What a person is told for what paho says."""


@dataclass
class Attempt:
    """One connection, from the first try on."""

    reached: bool = False
    """Somebody accepted the connection."""
    answered: bool = False
    """…and spoke MQTT: a CONNACK came."""
    unsupported: bool = False
    """…and does not speak this version of it."""
    established_at: float | None = None
    ending: str | None = None
    refused: bool = False


class Rests:
    """Longer ones after each attempt that failed."""

    def __init__(
        self,
        *,
        shortest_seconds: float,
        longest_seconds: float,
        uniform: Callable[[float, float], float],
        clock: Callable[[], float],
    ) -> None:
        self._shortest = shortest_seconds
        self._longest = longest_seconds
        self._uniform = uniform
        self._clock = clock
        self._failed = 0

    def after(self, attempt: Attempt) -> float:
        """Seconds. Full jitter: a fleet that lost its broker does not come back all at once."""
        if attempt.established_at is not None and self._clock() - attempt.established_at >= STABLE_SECONDS:
            self._failed = 0
        widest = min(self._longest, self._shortest * 2**self._failed)
        self._failed = min(self._failed + 1, 32)
        return self._uniform(0, widest)
