"""Publications that wait for the broker's acknowledgement. They outlive connections, and changes of MQTT's version."""

import threading
from collections import deque
from collections.abc import Callable

from wire_contract.errors import LinkError


class OutgoingMessage:
    """One message. Satisfies `PendingPublish`."""

    __slots__ = ("_accepted", "_done", "payload", "retain", "topic")

    def __init__(self, topic: str, payload: bytes, *, retain: bool) -> None:
        self.topic = topic
        self.payload = payload
        self.retain = retain
        self._accepted = False
        self._done = threading.Event()

    def wait(self, timeout_seconds: float) -> bool:
        """Waits until the broker has acknowledged it. False at once if it never will: refused, or the link was
        closed.
        """
        return self._done.wait(timeout_seconds) and self._accepted

    @property
    def is_settled(self) -> bool:
        """Whether it was acknowledged, refused or abandoned."""
        return self._done.is_set()

    def settle(self, *, accepted: bool) -> None:
        self._accepted = accepted
        self._done.set()


class OutgoingQueue:
    """A bounded queue that keeps order and never has more messages in flight than the broker accepts.

    `add` and `close` may be called from any thread; all other methods from one thread only.
    """

    def __init__(self, capacity: int) -> None:
        self._capacity = capacity
        self._changed = threading.Condition()
        self._waiting: deque[OutgoingMessage] = deque()
        self._in_flight: dict[int, OutgoingMessage] = {}
        self._closed = False

    def add(self, message: OutgoingMessage) -> None:
        """Raises:
        LinkError: the queue is full or closed.
        """
        with self._changed:
            if self._closed:
                raise LinkError(f"{message.topic}: not published, the link is closed")
            if len(self._waiting) + len(self._in_flight) >= self._capacity:
                raise LinkError(
                    f"{message.topic}: not published, {self._capacity} messages already wait for the broker"
                )
            self._waiting.append(message)

    def send(self, in_flight_max: int, publish: Callable[[OutgoingMessage], int | None]) -> None:
        """Calls `publish` for messages that may be in flight now. It returns the message id, or None: not now."""
        with self._changed:
            while self._waiting and len(self._in_flight) < in_flight_max:
                mid = publish(self._waiting[0])
                if mid is None:
                    return
                self._in_flight[mid] = self._waiting.popleft()

    def reject(self, refuse: Callable[[OutgoingMessage], str | None]) -> list[str]:
        """Removes waiting messages that can never be sent; `refuse` says why. Returns the reasons."""
        with self._changed:
            reasons = []
            for message in tuple(self._waiting):
                reason = refuse(message)
                if reason is not None:
                    self._waiting.remove(message)
                    message.settle(accepted=False)
                    reasons.append(reason)
            self._changed.notify_all()
            return reasons

    def in_flight(self) -> tuple[OutgoingMessage, ...]:
        return tuple(self._in_flight.values())

    def acknowledged(self, mid: int) -> OutgoingMessage | None:
        """The broker has answered; the caller settles the message. None: the message id is unknown."""
        with self._changed:
            message = self._in_flight.pop(mid, None)
            self._changed.notify_all()
            return message

    def take_back(self) -> None:
        """The connection ended: messages in flight are sent again, first and in their order."""
        with self._changed:
            self._waiting.extendleft(reversed(self._in_flight.values()))
            self._in_flight.clear()

    def close(self, patience_seconds: float) -> None:
        """Accepts no more, and waits until everything is acknowledged, for `patience_seconds` at most."""
        with self._changed:
            self._closed = True
            self._changed.wait_for(lambda: not self._waiting and not self._in_flight, patience_seconds)

    def abandon(self) -> None:
        """Nothing is sent any more: settles all messages as not accepted."""
        with self._changed:
            self._closed = True
            for message in (*self._in_flight.values(), *self._waiting):
                message.settle(accepted=False)
            self._in_flight.clear()
            self._waiting.clear()
            self._changed.notify_all()
