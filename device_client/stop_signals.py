"""What SIGTERM and SIGINT do: before a command has started, and afterwards."""

import signal
import sys
from collections.abc import Callable
from types import FrameType
from typing import NoReturn


def on_stop(act: Callable[[], object]) -> None:
    """From now on, SIGTERM and SIGINT call `act`."""

    def handle(_number: int, _frame: FrameType | None) -> None:
        act()

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, handle)


class Stopping:
    """Passes a stop request on to whatever runs at the moment, and remembers it in between."""

    def __init__(self) -> None:
        self._asked = False
        self._act: Callable[[], object] = lambda: None

    def stops(self, act: Callable[[], object]) -> None:
        """From now on a request calls `act`; at once, if there was one before."""
        self._act = act
        if self._asked:
            act()

    def __call__(self) -> None:
        self._asked = True
        self._act()


def end_cleanly_when_stopped() -> None:
    """For commands that run until they are stopped: until `on_stop` is called again, a signal ends them with code 0.

    Nothing has begun yet that could be lost.
    """
    on_stop(lambda: sys.exit(0))


def fail_when_stopped(command: str) -> Callable[[], None]:
    """For commands with a result: stopped by SIGTERM they have failed. Ctrl-C stays as it is."""

    def end(_number: int, _frame: FrameType | None) -> NoReturn:
        sys.exit(f"device_client: {command} was stopped before it was done")

    def handle_from_now_on() -> None:
        signal.signal(signal.SIGTERM, end)

    return handle_from_now_on
