"""Where time comes from. Whatever decides is given a clock, so that a test turns hours in no time."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime


@dataclass(frozen=True)
class Clock:
    """The three kinds of time a device needs."""

    monotonic: Callable[[], float]
    """Seconds that never go back: for waiting."""
    unix: Callable[[], float]
    """Unix seconds: for what is kept across restarts, and for event lines."""
    local: Callable[[], datetime]
    """Wall time with its zone: for quiet hours and expiry."""


def _local() -> datetime:
    if hasattr(time, "tzset"):
        time.tzset()  # the zone is read once otherwise, and a device travels, or is set up after its program started
    return datetime.now().astimezone()


SYSTEM_CLOCK = Clock(time.monotonic, time.time, _local)
