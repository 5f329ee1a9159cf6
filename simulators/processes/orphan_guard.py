"""Ends the given processes when whoever holds the other end of the pipe is gone, however it went.

Run as a script of its own, on the standard library alone. Reads lines `+pid` and `-pid` from its standard input; at the
end of the input it sends SIGTERM to those that are left, and SIGKILL to those that are still there after a while. So
even a demo that is killed by force leaves nobody behind.
"""

import os
import signal
import sys
import time
from collections.abc import Iterable

PATIENCE_SECONDS = 3.0


def left_at_the_end(lines: Iterable[str]) -> set[int]:
    """The processes that were given and not taken back."""
    held: set[int] = set()
    for line in lines:
        pid = int(line[1:])
        if line.startswith("+"):
            held.add(pid)
        else:
            held.discard(pid)
    return held


def end(pids: set[int], *, patience_seconds: float = PATIENCE_SECONDS) -> None:
    """Asks each to end, and then makes it."""
    left = {pid for pid in pids if _send(pid, signal.SIGTERM)}
    deadline = time.monotonic() + patience_seconds
    while left and time.monotonic() < deadline:
        time.sleep(0.05)
        left = {pid for pid in left if _send(pid, 0)}
    for pid in left:
        _send(pid, signal.SIGKILL)


def _send(pid: int, number: int) -> bool:
    """Whether there was somebody to send it to."""
    try:
        os.kill(pid, number)
    except OSError:
        return False
    return True


if __name__ == "__main__":
    for ignored in (signal.SIGINT, signal.SIGTERM):
        signal.signal(ignored, signal.SIG_IGN)
    end(left_at_the_end(sys.stdin))
