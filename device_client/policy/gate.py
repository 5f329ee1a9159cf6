"""Checks conditions now and then, and reports when uploading or training starts or stops waiting for them."""

import re
from collections.abc import Callable, Sequence
from typing import Literal

from device_client.events import Emit

What = Literal["upload", "training"]
CHECK_SECONDS = 1.0
"""Shortest time between two checks, so that the battery is not read between any two batches."""

_FIGURES = re.compile(r"\d+(\.\d+)?")


class Gate:
    """Whether one activity is allowed. Reports changes of the reasons, not every check."""

    def __init__(
        self, what: What, unmet: Callable[[], Sequence[str]], *, monotonic: Callable[[], float], emit: Emit
    ) -> None:
        self._what = what
        self._unmet = unmet
        self._monotonic = monotonic
        self._emit = emit
        self._checked_at: float | None = None
        self._reasons: tuple[str, ...] = ()
        self._reported: frozenset[str] = frozenset()

    def is_open(self, *further: str) -> bool:
        """Whether it is allowed: all conditions are met and there are no `further` reasons to wait (each one line)."""
        now = self._monotonic()
        if self._checked_at is None or now - self._checked_at >= CHECK_SECONDS:
            self._checked_at, self._reasons = now, tuple(self._unmet())
        reasons = (*self._reasons, *further)
        # Compared without figures: a slowly rising battery level is not reported, another reason is.
        kinds = frozenset(_FIGURES.sub("#", reason) for reason in reasons)
        if kinds != self._reported:
            if kinds:
                self._emit("held", what=self._what, reasons=list(reasons))
            else:
                self._emit("released", what=self._what)
            self._reported = kinds
        return not reasons
