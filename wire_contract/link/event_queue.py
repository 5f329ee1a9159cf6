"""What happened on a link, waiting for the one thread that decides."""

import threading
import time
from collections import deque
from collections.abc import Sequence

from wire_contract.link.protocol import Disconnected, Event


class EventQueue:
    """Bounded by its writer: `put` neither blocks nor drops, and who puts asks `has_room` before it reads more.

    So what does not fit stays on the network, and the broker feels it; nothing is lost and no thread waits here.
    """

    def __init__(self, capacity: int) -> None:
        self._capacity = capacity
        self._events: deque[Event] = deque()
        self._arrived = threading.Condition()
        self._closed = False

    @property
    def has_room(self) -> bool:
        return len(self._events) < self._capacity

    def __len__(self) -> int:
        return len(self._events)

    def put(self, event: Event) -> None:
        with self._arrived:
            if isinstance(event, Disconnected) and self._events and isinstance(self._events[-1], Disconnected):
                self._events.pop()  # days without a broker are one event, the newest reason
            self._events.append(event)
            self._arrived.notify_all()

    def take(self, count: int, timeout_seconds: float) -> Sequence[Event]:
        """Up to `count` events; waits for the first one so long at most."""
        with self._arrived:
            if not self._events and timeout_seconds > 0:
                deadline = time.monotonic() + min(timeout_seconds, threading.TIMEOUT_MAX)
                while not self._events and not self._closed and (left := deadline - time.monotonic()) > 0:
                    self._arrived.wait(left)
            return [self._events.popleft() for _ in range(min(count, len(self._events)))]

    def close(self) -> None:
        """Nobody waits here any more."""
        with self._arrived:
            self._closed = True
            self._arrived.notify_all()
