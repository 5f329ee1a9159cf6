"""How far the intake is: one line that is redrawn in a terminal, a line now and then elsewhere."""

import os
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from typing import TextIO

TERMINAL_SECONDS, LINE_SECONDS = 0.2, 30.0
"""Chosen: between two updates in a terminal, and between two lines elsewhere."""
COLUMNS = 79


class FilmProgress:
    """Counts files; time left is estimated from the films that had to be read, not from those in the cache."""

    def __init__(
        self, total: int, *, stream: TextIO | None = None, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._total, self._clock = total, clock
        self._stream = sys.stderr if stream is None else stream
        # What stands in for standard error, as under a live view, takes whole lines only.
        self._drawn = self._stream.isatty() and (stream is not None or self._stream is sys.__stderr__)
        self._began = self._said = clock()
        self._reading = 0.0
        self._read = 0
        self._shown = False
        self._done = 0
        self._drawn_columns = 0

    def now(self) -> float:
        """The time, for `count`'s `read_seconds`."""
        return self._clock()

    def count(self, done: int, *, read_seconds: float | None) -> None:
        """Records that `done` files are done; `read_seconds`: how long the newest took to read, None: it was cached."""
        if read_seconds is not None:
            self._reading += read_seconds
            self._read += 1
        now, self._done = self._clock(), done
        if now - self._said >= (TERMINAL_SECONDS if self._drawn else LINE_SECONDS):
            self._said, self._shown = now, True
            self._write(self._line(done, now))

    def end(self) -> None:
        """Says how many files are done, if anything was said before, and leaves the cursor on a line of its own."""
        if self._shown:
            self._write(self._line(self._done, self._clock()), end="\n")

    def _line(self, done: int, now: float) -> str:
        line = f"films: {done:,} of {self._total:,} files after {duration(now - self._began)}"
        if self._read and done < self._total:
            line += f", at most {duration(self._reading / self._read * (self._total - done))} left"
        return line[: self._columns()] if self._drawn else line

    def _columns(self) -> int:
        """Of the terminal, but one: in the last one the cursor would go on to the next line."""
        try:
            columns = os.get_terminal_size(self._stream.fileno()).columns
        except OSError:
            columns = 0
        return max(1, columns - 1) if columns else COLUMNS

    def _write(self, line: str, end: str = "") -> None:
        text = f"{line}\n"
        if self._drawn:
            columns, self._drawn_columns = min(self._drawn_columns, self._columns()), len(line)
            text = f"\r{line:<{columns}}{end}"
        with suppress(OSError):  # standard error may be closed, which must not end the intake
            self._stream.write(text)
            self._stream.flush()


def duration(seconds: float) -> str:
    """For example `42 s`, `7 min` or `3.5 h`."""
    if seconds < 90:  # noqa: PLR2004 — seconds
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"  # noqa: PLR2004 — seconds
