"""Waiting for what other threads and processes do, as short as it takes."""

import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

PATIENCE_SECONDS = 60.0
"""Only a failing test waits so long, on however busy a machine."""


def eventually(is_so: Callable[[], bool], *, seconds_max: float = PATIENCE_SECONDS) -> None:
    """Returns as soon as it is so; fails when it is not in time."""
    pause = threading.Event()
    deadline = time.monotonic() + seconds_max
    while not is_so():
        assert time.monotonic() < deadline, f"not so within {seconds_max:g} s"
        pause.wait(0.01)


@contextmanager
def ended(process: subprocess.Popen[Any]) -> Iterator[None]:
    """It does not outlive the block, however that is left; a `Popen` would wait for it, and the test with it."""
    try:
        yield
    finally:
        process.kill()
