"""Publications on their way to a broker, kept until it acknowledges them: they outlive connections and protocols."""

import threading
from collections import deque
from collections.abc import Callable

from wire_contract.errors import LinkError


class OutgoingMessage:
    """One message. Satisfies `Publication`."""

    __slots__ = ("_accepted", "_done", "payload", "retain", "topic")

    def __init__(self, topic: str, payload: bytes, *, retain: bool) -> None:
        self.topic = topic
        self.payload = payload
        self.retain = retain
        self._accepted = False
        self._done = threading.Event()

    def wait(self, timeout_seconds: float) -> bool:
        """Whether the broker has it. False at once if it never will: refused, or the link was closed."""
        return self._done.wait(timeout_seconds) and self._accepted

    @property
    def is_settled(self) -> bool:
        """Whether it is known by now what became of it."""
        return self._done.is_set()

    def settle(self, *, accepted: bool) -> None:
        self._accepted = accepted
        self._done.set()


class OutgoingQueue:
    """In the order of `add`, bounded, and with only so many in flight as the broker takes.

    Any thread adds and waits; one thread does the rest.
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
        """Gives `publish` what may be in flight now. It answers with the message id, or None for: not now."""
        with self._changed:
            while self._waiting and len(self._in_flight) < in_flight_max:
                mid = publish(self._waiting[0])
                if mid is None:
                    return
                self._in_flight[mid] = self._waiting.popleft()

    def reject(self, refuse: Callable[[OutgoingMessage], str | None]) -> list[str]:
        """Throws out what waits and can never be sent. Returns the reasons."""
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
        """The broker has answered; the caller finishes the message. None: this message id was not of ours."""
        with self._changed:
            message = self._in_flight.pop(mid, None)
            self._changed.notify_all()
            return message

    def take_back(self) -> None:
        """What is in flight is sent again, first and in its order."""
        with self._changed:
            self._waiting.extendleft(reversed(self._in_flight.values()))
            self._in_flight.clear()

    def close(self, patience_seconds: float) -> None:
        """Takes no more, and waits so long at most until all is acknowledged."""
        with self._changed:
            self._closed = True
            self._changed.wait_for(lambda: not self._waiting and not self._in_flight, patience_seconds)

    def abandon(self) -> None:
        """Nobody sends any more; who waits is told."""
        with self._changed:
            self._closed = True
            for message in (*self._in_flight.values(), *self._waiting):
                message.settle(accepted=False)
            self._in_flight.clear()
            self._waiting.clear()
            self._changed.notify_all()
