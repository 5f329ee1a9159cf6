"""Where time comes from. Code that decides takes a clock as an argument, so that tests control the time."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime


def local_time() -> datetime:
    """Wall-clock time with its time zone.

    The zone is read again at each call: a device may travel, or be configured after its program started.
    """
    if hasattr(time, "tzset"):
        time.tzset()
    return datetime.now().astimezone()


@dataclass(frozen=True)
class Clock:
    """The kinds of time that the programs need; by default, the system's."""

    monotonic: Callable[[], float] = time.monotonic
    """Seconds that never go backwards: for delays and timeouts."""
    unix: Callable[[], float] = time.time
    """Unix seconds: for what is stored, published or logged."""
    local: Callable[[], datetime] = local_time
    """Wall-clock time with its zone: for quiet hours and expiry dates."""

    def unix_ns(self) -> int:
        """Unix nanoseconds, as InfluxDB has them; as exact as `unix`, which is better than a microsecond."""
        return round(self.unix() * 1e9)


SYSTEM_CLOCK = Clock()
