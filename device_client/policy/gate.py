"""One policy over time: asks it now and then, and tells when something begins and ends to wait for it."""

import re
from collections.abc import Callable, Sequence
from typing import Literal

from device_client.events import Emit

What = Literal["upload", "training"]
LOOK_SECONDS = 1.0
"""A policy is asked at most so often: a battery is not read between two batches."""

_FIGURES = re.compile(r"\d+(\.\d+)?")


class Gate:
    """Whether one thing may happen. Tells of changed reasons, not of each look."""

    def __init__(
        self, what: What, unmet: Callable[[], Sequence[str]], *, monotonic: Callable[[], float], emit: Emit
    ) -> None:
        self._what = what
        self._unmet = unmet
        self._monotonic = monotonic
        self._emit = emit
        self._looked_at: float | None = None
        self._reasons: tuple[str, ...] = ()
        self._told: frozenset[str] = frozenset()

    def is_open(self, *further: str) -> bool:
        """Whether nothing stands against it, neither the policy nor `further` reasons (each one line)."""
        now = self._monotonic()
        if self._looked_at is None or now - self._looked_at >= LOOK_SECONDS:
            self._looked_at, self._reasons = now, tuple(self._unmet())
        reasons = (*self._reasons, *further)
        # A battery level that creeps up is no news; a reason more or less is.
        kinds = frozenset(_FIGURES.sub("#", reason) for reason in reasons)
        if kinds != self._told:
            if kinds:
                self._emit("held", what=self._what, reasons=list(reasons))
            else:
                self._emit("released", what=self._what)
            self._told = kinds
        return not reasons
