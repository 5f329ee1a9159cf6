"""Waits until a connection is readable or writable, or the thread is woken. Works above file descriptor 1023."""

import selectors
from typing import Any, Self

from wire_contract.transport.wakeup import Wakeup


class Poller:
    """For one connection, until it ends."""

    def __init__(self, connection: Any, wakeup: Wakeup) -> None:
        self._connection = connection
        self._wakeup = wakeup
        self._registered = 0
        self._selector = selectors.DefaultSelector()

    def __enter__(self) -> Self:
        self._selector.register(self._wakeup, selectors.EVENT_READ)
        return self

    def __exit__(self, *_: object) -> None:
        self._selector.close()

    def wait(self, seconds: float, *, read: bool, write: bool) -> tuple[bool, bool]:
        """Returns whether the connection is readable and writable, as far as was asked for."""
        self._register(selectors.EVENT_READ * read | selectors.EVENT_WRITE * write)
        buffered = read and _is_buffered(self._connection)
        ready = {key.fileobj: mask for key, mask in self._selector.select(0 if buffered else seconds)}
        if self._wakeup in ready:
            self._wakeup.clear()
        mask = ready.get(self._connection, 0)
        return buffered or bool(mask & selectors.EVENT_READ), bool(mask & selectors.EVENT_WRITE)

    def _register(self, wanted: int) -> None:
        before, self._registered = self._registered, wanted
        if wanted == before:
            return
        if not wanted:
            self._selector.unregister(self._connection)
        elif before:
            self._selector.modify(self._connection, wanted)
        else:
            self._selector.register(self._connection, wanted)


def _is_buffered(connection: Any) -> bool:
    """Whether TLS or WebSocket has data that it already read from the socket, which no selector sees."""
    pending = getattr(connection, "pending", None)
    return pending is not None and pending() > 0
