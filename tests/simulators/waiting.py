"""Waiting for what other threads and processes do, as short as it takes."""

import threading
from collections.abc import Callable


def eventually(is_so: Callable[[], bool], *, seconds_max: float = 20.0) -> None:
    """Returns as soon as it is so; fails when it is not in time."""
    pause = threading.Event()
    for _ in range(int(seconds_max / 0.01)):
        if is_so():
            return
        pause.wait(0.01)
    raise AssertionError(f"not so within {seconds_max:g} s")
