"""The interface between the programs and a broker: subscribe, publish, receive, acknowledge. Nothing else of MQTT is
visible above it.

A link reconnects by itself, for ever, and keeps a durable session. It never calls its user: what happens is queued as
events, which the one thread that decides takes in batches, at its own pace.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

QoS = Literal[0, 1]
"""QoS of a subscription. At 1, the broker queues messages for the durable session and sends each until it is
acknowledged. At 0, it sends each once, and only to connected clients: nothing is queued for absent clients, nothing
needs an acknowledgement, and nothing waits behind a backlog. Retained messages are delivered either way."""

TopicFilters = Sequence[str] | Mapping[str, QoS]
"""What a link subscribes to when it starts: at QoS 1, unless a mapping gives another."""


@dataclass(frozen=True, slots=True)
class Delivery:
    """One message from the broker, which delivers it again until it is acknowledged (QoS 1)."""

    topic: str
    payload: bytes
    retained: bool = False
    """The broker had stored it; it was not published just now."""
    duplicate: bool = False
    """The DUP flag: the broker may have delivered it before."""
    mid: int = 0
    """MQTT message id; 0: delivered at QoS 0, nothing to acknowledge."""
    epoch: int = 0
    """Number of the connection it arrived on; an acknowledgement is valid only on that connection."""


@dataclass(frozen=True, slots=True)
class Connected:
    """A connection is established and the subscriptions were sent.

    The broker may have lost its state, so what must be retained there is published again on each of these.
    """

    epoch: int
    session_present: bool


@dataclass(frozen=True, slots=True)
class Disconnected:
    """A connection ended or could not be established; the link tries again by itself."""

    reason: str
    """One line, for people."""
    refused: bool = False
    """The broker rejected the connection (password, authorisation, client id): trying again will not help."""


Event = Delivery | Connected | Disconnected


@dataclass(frozen=True, slots=True)
class Will:
    """The broker publishes it, retained, when the connection ends without a DISCONNECT."""

    topic: str
    payload: bytes


class PendingPublish(Protocol):
    """A message on its way to the broker."""

    def wait(self, timeout_seconds: float) -> bool:
        """Waits until the broker has acknowledged it (PUBACK); returns whether it has. The broker may still lose it."""


class Link(Protocol):
    """One client of a broker. All methods but `close` may be called from any thread."""

    def publish(self, topic: str, payload: bytes, *, retain: bool = False) -> PendingPublish:
        """Publishes at QoS 1; without a connection, the message is kept until there is one.

        Raises:
            PayloadTooLarge: the broker would refuse the packet; nothing was sent.
            LinkError: the link is closed, or its outgoing queue is full.
        """

    def subscribe(self, topic_filter: str, *, qos: QoS = 1) -> None:
        """Subscribes from now on, across reconnections. Retained messages are delivered, even if they were before.

        If the broker refuses the filter, it is logged and dropped. If it refuses one of the filters that the link was
        created with, the link closes the connection instead.

        Raises:
            LinkError: the filter is invalid, or the link is closed.
        """

    def unsubscribe(self, topic_filter: str) -> None:
        """Ends a subscription. Messages that the broker has sent or queued by then are still delivered.

        Raises:
            LinkError: the link is closed.
        """

    def receive(self, *, count: int, timeout_seconds: float) -> Sequence[Event]:
        """Returns up to `count` events; waits at most `timeout_seconds` for the first one, and for no other.

        Raises:
            LinkError: the link's own thread has died; the program should exit and be restarted.
        """

    def ack(self, delivery: Delivery) -> None:
        """Acknowledges a message. One of an earlier connection is ignored: the broker delivers it again."""

    def close(self) -> None:
        """Sends what is queued, for a bounded time, then disconnects and stops."""
