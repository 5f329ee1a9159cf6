"""One line on standard error, and another one now and then, for work that takes longer than a moment."""

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from threading import Event, Thread

FIRST_SECONDS = 2.0
"""Chosen: what takes less needs no explanation."""
EVERY_SECONDS = 5.0
"""Chosen: rare enough for a log file, often enough to see that the work goes on."""


class Progress:
    """How far the work is; the worker counts, and the line shows it."""

    def __init__(self, what: str) -> None:
        self.what = what
        self.done = 0
        self.total = 0
        self.unit = ""

    def count(self, done: int, total: int, unit: str) -> None:
        """Records that `done` of `total` files (or another `unit`) are done."""
        self.done, self.total, self.unit = done, total, unit

    def line(self, seconds: float) -> str:
        """For example: `reading recordings/: 12 of 40 files after 7 s`."""
        counted = f"{self.done:,} of {self.total:,} {self.unit} " if self.total else "still working "
        return f"{self.what}: {counted}after {seconds:.0f} s"


def _print(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


@contextmanager
def slow_work(
    what: str,
    *,
    first_seconds: float = FIRST_SECONDS,
    every_seconds: float = EVERY_SECONDS,
    say: Callable[[str], None] = _print,
) -> Iterator[Progress]:
    """Runs the body; says on standard error that it takes long, if it does.

    Args:
        what: begins each line, such as "reading recordings/".
        first_seconds: the first line comes after this time; work that takes less says nothing.
        every_seconds: time between further lines.
        say: prints one line.
    """
    progress, ended, started = Progress(what), Event(), time.monotonic()

    def watch() -> None:
        pause = first_seconds
        while not ended.wait(pause):
            say(progress.line(time.monotonic() - started))
            pause = every_seconds

    watcher = Thread(target=watch, name="slow work", daemon=True)
    watcher.start()
    try:
        yield progress
    finally:
        ended.set()
        watcher.join()
