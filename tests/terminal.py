"""A program in a real pseudo-terminal, and the screen that a person would see when it has ended."""

import fcntl
import os
import pty
import select
import signal
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self, TypeVar

import pyte

HOUSE = Path(__file__).parents[1]
T = TypeVar("T")
READ_BYTES = 1 << 16
END_SECONDS_MAX = 30.0
"""For a program that was told to end."""


@dataclass(frozen=True, kw_only=True)
class Ended:
    """How it ended."""

    code: int
    screen: Sequence[str]
    """The lines that are visible at the end, without what scrolled off."""
    output: str
    """All that was written, escape sequences included."""

    @property
    def text(self) -> str:
        return "\n".join(self.screen)


class Terminal:
    """A terminal of so many columns and rows with one `python …` in it.

    Unlike a pipe it has a size, echoes, and makes programs draw.
    """

    def __init__(
        self,
        arguments: Sequence[str],
        *,
        columns: int = 100,
        rows: int = 30,
        cores: frozenset[int] | None = None,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        """`cores`: the only ones that the program and those it starts may use."""
        self._screen = pyte.Screen(columns, rows)
        self._stream = pyte.ByteStream(self._screen)
        self._output = bytearray()
        self._master, slave = pty.openpty()
        fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))
        pinned = ["taskset", "--cpu-list", ",".join(map(str, sorted(cores)))] if cores else []
        inherited = {name: value for name, value in os.environ.items() if name not in {"COLUMNS", "LINES", "NO_COLOR"}}
        self.process = subprocess.Popen(
            ["setsid", "--ctty", *pinned, sys.executable, *arguments],  # or Ctrl-C would be a letter
            cwd=HOUSE,
            env=inherited | {"TERM": "xterm-256color", "LC_ALL": "C.UTF-8"} | dict(environment or {}),
            stdin=slave,
            stdout=slave,
            stderr=slave,
        )
        os.close(slave)

    @property
    def screen(self) -> list[str]:
        """What is visible now."""
        self._read(0.0)
        return [line.rstrip() for line in self._screen.display]

    def until(self, word: str, *, seconds_max: float) -> None:
        """Returns once `word` is on the screen."""
        deadline = time.monotonic() + seconds_max
        while word not in "\n".join(self.screen):
            assert time.monotonic() < deadline, f"no {word!r} within {seconds_max:g} s:\n" + "\n".join(self.screen)
            assert self._read(0.1), f"it ended without {word!r}:\n" + "\n".join(self.screen)

    def type(self, keys: str) -> None:
        """As from the keyboard; Ctrl-C is the letter 3."""
        os.write(self._master, keys.encode())

    def found(self, look: Callable[[], T | None], *, seconds_max: float) -> T:
        """What `look` finds, as soon as it finds something, while the program runs."""
        deadline = time.monotonic() + seconds_max
        while (thing := look()) is None:
            assert time.monotonic() < deadline, f"not found within {seconds_max:g} s:\n" + "\n".join(self.screen)
            assert self._read(0.05), "it ended before:\n" + "\n".join(self.screen)
        return thing

    def ended(self, *, seconds_max: float) -> Ended:
        """Waits for the end."""
        deadline = time.monotonic() + seconds_max
        while self._read(0.2):
            if time.monotonic() > deadline:
                self.close()
                raise AssertionError(f"it did not end within {seconds_max:g} s:\n" + "\n".join(self.screen))
        code = self.process.wait(END_SECONDS_MAX)
        return Ended(code=code, screen=self.screen, output=self._output.decode(errors="replace"))

    def close(self) -> None:
        """Ends the program if it still runs."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            try:
                self.process.wait(END_SECONDS_MAX)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
        if self._master >= 0:
            os.close(self._master)
            self._master = -1

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _read(self, seconds: float) -> bool:
        """Takes in what was written; False once nobody can write any more."""
        if self._master < 0:
            return False
        while select.select([self._master], [], [], seconds)[0]:
            try:
                data = os.read(self._master, READ_BYTES)
            except OSError:  # EIO: the last program that had the terminal has ended
                return False
            if not data:
                return False
            self._output += data
            self._stream.feed(data)
            seconds = 0.0
        return True
