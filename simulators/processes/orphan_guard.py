"""Stops registered processes when their parent is gone, even if the parent was killed by SIGKILL.

Runs as a separate script with only the standard library. It reads lines `+pid` and `-pid` from standard input; at the
end of the input (the parent's end of the pipe is closed) it sends SIGTERM to the registered processes, and SIGKILL to
those that are still running after `PATIENCE_SECONDS`.
"""

import os
import signal
import sys
import time
from collections.abc import Iterable

PATIENCE_SECONDS = 3.0
"""Chosen, not measured: time for a device to finish a batch and close its files. Shorter than `STOP_SECONDS_MAX` (8 s),
because the run has failed already and its ports should be free for the next one."""


def left_at_the_end(lines: Iterable[str]) -> set[int]:
    """The processes that were registered and not unregistered."""
    held: set[int] = set()
    for line in lines:
        pid = int(line[1:])
        if line.startswith("+"):
            held.add(pid)
        else:
            held.discard(pid)
    return held


def end(pids: set[int], *, patience_seconds: float = PATIENCE_SECONDS) -> None:
    """Sends SIGTERM to each, and SIGKILL to those that are still running after a while."""
    left = {pid for pid in pids if _send(pid, signal.SIGTERM)}
    deadline = time.monotonic() + patience_seconds
    while left and time.monotonic() < deadline:
        time.sleep(0.05)
        left = {pid for pid in left if _send(pid, 0)}
    for pid in left:
        _send(pid, signal.SIGKILL)


def _send(pid: int, number: int) -> bool:
    """Whether the process exists."""
    try:
        os.kill(pid, number)
    except OSError:
        return False
    return True


if __name__ == "__main__":
    for ignored in (signal.SIGINT, signal.SIGTERM):
        signal.signal(ignored, signal.SIG_IGN)
    end(left_at_the_end(sys.stdin))
