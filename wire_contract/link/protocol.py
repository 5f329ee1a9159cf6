"""The seam between the programs and a broker: subscribe, publish, receive, acknowledge. No more of MQTT is seen above.

A link reconnects by itself, for ever, and keeps a durable session. It never calls its user: what happens is queued
as events, which the one thread that decides takes in batches at its own pace.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

QoS = Literal[0, 1]
"""QoS of a subscription. At 1 the broker keeps what comes for the durable session and sends it until it is
acknowledged. At 0 it sends once, to whoever is connected: nothing piles up for who is away, nothing needs an
acknowledgement, and nothing waits behind a backlog. Retained messages come either way.
"""

TopicFilters = Sequence[str] | Mapping[str, QoS]
"""What a link listens to from its start: at QoS 1, unless a mapping says otherwise."""


@dataclass(frozen=True, slots=True)
class Delivery:
    """One message from the broker. Until it is acknowledged the broker keeps it and delivers it again."""

    topic: str
    payload: bytes
    retained: bool = False
    """It was kept by the broker, not published just now."""
    duplicate: bool = False
    """The broker says it may have delivered it before (DUP)."""
    mid: int = 0
    """0: it came at QoS 0, and there is nothing to acknowledge."""
    """0: it came at QoS 0, and there is nothing to acknowledge."""
    epoch: int = 0
    """The connection it came on; acknowledgements belong to one connection."""


@dataclass(frozen=True, slots=True)
class Connected:
    """A connection stands and the subscriptions were sent. What must be there after a broker lost its state is
    published again on each of these.
    """

    epoch: int
    session_present: bool


@dataclass(frozen=True, slots=True)
class Disconnected:
    """A connection ended or could not be made; the link tries again by itself."""

    reason: str
    """One line for a person."""
    refused: bool = False
    """The broker answered and said no (password, not authorised, client id): trying again will not help."""


Event = Delivery | Connected | Disconnected


@dataclass(frozen=True, slots=True)
class Will:
    """Published by the broker, retained, when the connection ends without a goodbye."""

    topic: str
    payload: bytes


class Publication(Protocol):
    """A message on its way to the broker."""

    def wait(self, timeout_seconds: float) -> bool:
        """Whether the broker has it (PUBACK), waiting so long at most. It may still lose it."""


class Link(Protocol):
    """One client of a broker. All but `close` may be called from any thread."""

    def publish(self, topic: str, payload: bytes, *, retain: bool = False) -> Publication:
        """Sends at QoS 1, or keeps it until a connection stands.

        Raises:
            PayloadTooLarge: the broker would refuse the packet; nothing was sent.
            LinkError: the link is closed, or its outgoing queue is full.
        """

    def subscribe(self, topic_filter: str, *, qos: QoS = 1) -> None:
        """From now on, over reconnections too. What the broker has retained there comes, even if it came before.

        A filter that the broker refuses is forgotten, with a line in the log. Those that the link was made with are
        not: it does without the connection then.

        Raises:
            LinkError: nobody can subscribe to this filter, or the link is closed.
        """

    def unsubscribe(self, topic_filter: str) -> None:
        """No longer. What the broker has sent or queued by then still comes.

        Raises:
            LinkError: the link is closed.
        """

    def receive(self, *, count: int, timeout_seconds: float) -> Sequence[Event]:
        """Up to `count` events; waits for the first so long at most, never for more.

        Raises:
            LinkError: the link's own thread has died; the program should end and be started again.
        """

    def ack(self, delivery: Delivery) -> None:
        """Tells the broker to forget the message. Of an older connection: nothing happens, it comes again."""

    def close(self) -> None:
        """Says goodbye and stops; sends what is queued first, for a bounded time."""
