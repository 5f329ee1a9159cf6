"""How hard a device works while it trains: a wearable must stay cool, and a slow device can be played by a fast one."""

from collections.abc import Callable


class DutyCycle:
    """Measures computing, and says how long to rest for a duty cycle (share of time spent computing, 0 < d ≤ 1)."""

    def __init__(self, duty_cycle: float, *, monotonic: Callable[[], float]) -> None:
        assert 0 < duty_cycle <= 1, duty_cycle
        self._rest_per_second = 1.0 / duty_cycle - 1.0
        self._monotonic = monotonic
        self._began = self._computing_since = monotonic()
        self._held_seconds = 0.0

    def begin(self) -> None:
        """A round begins."""
        self._began = self._computing_since = self._monotonic()
        self._held_seconds = 0.0

    def rest_until(self) -> float:
        """Computing has paused now; when it may go on, on the monotonic clock."""
        now = self._monotonic()
        return now + (now - self._computing_since) * self._rest_per_second

    def resume(self, *, held_seconds: float) -> None:
        """Computing goes on, after so many seconds that the policy held it."""
        self._held_seconds += held_seconds
        self._computing_since = self._monotonic()

    @property
    def seconds(self) -> float:
        """Of this round so far, rests included, but not what the policy held."""
        return self._monotonic() - self._began - self._held_seconds
