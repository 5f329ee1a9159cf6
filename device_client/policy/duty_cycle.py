"""The share of time that a device spends computing while it trains: it keeps a wearable cool, and simulates slow
devices.
"""

from collections.abc import Callable


class DutyCycle:
    """Measures computing time, and gives the rest that a duty cycle requires (0 < share of time spent computing ≤
    1).
    """

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
        """Computing pauses now. Returns when it may continue, on the monotonic clock."""
        now = self._monotonic()
        return now + (now - self._computing_since) * self._rest_per_second

    def resume(self, *, held_seconds: float) -> None:
        """Computing continues; for `held_seconds` of the pause the policy did not allow training."""
        self._held_seconds += held_seconds
        self._computing_since = self._monotonic()

    @property
    def seconds(self) -> float:
        """Length of the round so far, including rests, without the time that the policy did not allow training."""
        return self._monotonic() - self._began - self._held_seconds
