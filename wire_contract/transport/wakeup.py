"""Lets other threads wake a thread that waits for sockets (the self-pipe trick)."""

import contextlib
import selectors
import socket


class Wakeup:
    """Register it with a selector, for reading."""

    def __init__(self) -> None:
        self._reader, self._writer = socket.socketpair()
        self._reader.setblocking(False)
        self._writer.setblocking(False)
        self._set = False

    def fileno(self) -> int:
        return self._reader.fileno()

    def set(self) -> None:
        if not self._set:  # one byte, however often it is called
            self._set = True
            with contextlib.suppress(OSError):  # full: the thread wakes anyway; closed: there is no thread left
                self._writer.send(b"\0")

    def clear(self) -> None:
        """Call it before checking what is to be done, so that no wakeup is lost."""
        with contextlib.suppress(BlockingIOError):
            self._reader.recv(4096)
        self._set = False

    def wait(self, seconds: float) -> None:
        with selectors.DefaultSelector() as selector:
            selector.register(self, selectors.EVENT_READ)
            if selector.select(seconds):
                self.clear()

    def close(self) -> None:
        self._reader.close()
        self._writer.close()
