"""Which complaints a person has heard: days of the same one are one line, and a changed one is told again."""

import time
from collections.abc import Callable

AGAIN_SECONDS = 60.0
"""Two causes that take turns are told so often at most, each."""


class RepeatFilter:
    """Of one connection. One thread."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._last: str | None = None
        self._heard: dict[str, float] = {}

    def passes(self, text: str) -> bool:
        """Whether to tell it: it is not what was told last, nor was it told within `AGAIN_SECONDS`."""
        now = self._clock()
        self._heard = {heard: at for heard, at in self._heard.items() if now - at < AGAIN_SECONDS}
        if text == self._last or text in self._heard:
            return False
        self._last = text
        self._heard[text] = now
        return True

    @property
    def is_unresolved(self) -> bool:
        """Whether something was told that has not been mended."""
        return self._last is not None

    def resolve(self) -> None:
        """All is well again; whatever comes next is news."""
        self._last = None
        self._heard.clear()
