"""One connection for all lines of a task.

A broker that goes by the certificate's name allows one connection per name, so a connection for each line would need a
certificate for each. Each line gets a link of its own here, which carries the messages of its topics.
"""

import logging
from collections import deque
from collections.abc import Sequence

from wire_contract.link.protocol import Connected, Delivery, Event, Link, PendingPublish, QoS

log = logging.getLogger(__name__)


class SharedLink:
    """Distributes what one link receives. Used by one thread."""

    def __init__(self, link: Link, *, root: str) -> None:
        """`root`: of all topics."""
        self._link = link
        self._root = root
        self._lines: dict[str, LineLink] = {}
        self._connected: Connected | None = None

    def of(self, line: str) -> "LineLink":
        """A link for the line with this name. If there is a connection, it begins with the event of it."""
        made = LineLink(self, self._link)
        if self._connected is not None:
            # To this line it is new: the session does not have its subscriptions yet.
            made.put(Connected(self._connected.epoch, session_present=False))
        self._lines[line] = made
        return made

    def remove(self, line: str) -> None:
        """The line is not served any more."""
        del self._lines[line]

    def receive(self, *, count: int, timeout_seconds: float) -> None:
        """Receives events and gives each to its line."""
        for event in self._link.receive(count=count, timeout_seconds=timeout_seconds):
            if isinstance(event, Delivery):
                self._deliver(event)
                continue
            self._connected = event if isinstance(event, Connected) else None
            for line in self._lines.values():
                line.put(event)

    def _deliver(self, delivery: Delivery) -> None:
        name = delivery.topic.removeprefix(f"{self._root}/").partition("/")[0]
        line = self._lines.get(name)
        if line is not None:
            line.put(delivery)
            return
        # From a subscription that an earlier process left in the session. Devices send again what has no receipt.
        log.warning("ignored a message on %s: this aggregator does not serve line %s", delivery.topic, name)
        self._link.ack(delivery)


class LineLink:
    """The link of one line (`link.protocol.Link`); the connection belongs to all of them."""

    def __init__(self, shared: SharedLink, link: Link) -> None:
        self._shared = shared
        self._link = link
        self._events: deque[Event] = deque()

    def put(self, event: Event) -> None:
        """Adds an event for this line."""
        self._events.append(event)

    def receive(self, *, count: int, timeout_seconds: float) -> Sequence[Event]:
        if not self._events:
            self._shared.receive(count=count, timeout_seconds=timeout_seconds)
        return [self._events.popleft() for _ in range(min(count, len(self._events)))]

    def publish(self, topic: str, payload: bytes, *, retain: bool = False) -> PendingPublish:
        return self._link.publish(topic, payload, retain=retain)

    def subscribe(self, topic_filter: str, *, qos: QoS = 1) -> None:
        self._link.subscribe(topic_filter, qos=qos)

    def unsubscribe(self, topic_filter: str) -> None:
        self._link.unsubscribe(topic_filter)

    def ack(self, delivery: Delivery) -> None:
        self._link.ack(delivery)

    def close(self) -> None:
        """Does nothing: whoever made the connection closes it."""
