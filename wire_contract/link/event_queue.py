"""Events of a link, queued for the one thread that handles them."""

import threading
import time
from collections import deque
from collections.abc import Sequence

from wire_contract.link.protocol import Disconnected, Event


class EventQueue:
    """A queue that its writer keeps bounded: `put` neither blocks nor drops, and the writer checks `has_room` before it
    reads more from the network.

    So backpressure reaches the broker, nothing is lost, and the writer never blocks here.
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
                self._events.pop()  # days without a broker become one event, with the latest reason
            self._events.append(event)
            self._arrived.notify_all()

    def take(self, count: int, timeout_seconds: float) -> Sequence[Event]:
        """Takes up to `count` events; waits at most `timeout_seconds` for the first."""
        with self._arrived:
            if not self._events and timeout_seconds > 0:
                deadline = time.monotonic() + min(timeout_seconds, threading.TIMEOUT_MAX)
                while not self._events and not self._closed and (left := deadline - time.monotonic()) > 0:
                    self._arrived.wait(left)
            return [self._events.popleft() for _ in range(min(count, len(self._events)))]

    def close(self) -> None:
        """Wakes whoever waits, and lets nobody wait from now on."""
        with self._arrived:
            self._closed = True
            self._arrived.notify_all()
