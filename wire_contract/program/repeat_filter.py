"""Suppresses repeated log lines: days of the same problem are logged once, and a different problem is logged again."""

import time
from collections.abc import Callable

AGAIN_SECONDS = 60.0
"""At least this long between two lines of the same text, if problems alternate."""


class RepeatFilter:
    """For one connection, or another thing that fails repeatedly. Not thread-safe."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._last: str | None = None
        self._heard: dict[str, float] = {}

    def passes(self, text: str) -> bool:
        """Whether to log `text`: it differs from the last one, and was not logged within `AGAIN_SECONDS`."""
        now = self._clock()
        self._heard = {heard: at for heard, at in self._heard.items() if now - at < AGAIN_SECONDS}
        if text == self._last or text in self._heard:
            return False
        self._last = text
        self._heard[text] = now
        return True

    @property
    def is_unresolved(self) -> bool:
        """Whether a problem was logged that was not resolved since."""
        return self._last is not None

    def resolve(self) -> None:
        """The problem is over: whatever comes next is logged."""
        self._last = None
        self._heard.clear()
