"""State that the threads of a link share: what its users have queued, what its own thread has received, and whether
that thread is alive.

Users may be in any thread; "the thread" is the link's own, which does everything that touches the network.
"""

from collections import deque
from collections.abc import Callable, Mapping, Sequence
from threading import Lock

from wire_contract.errors import LinkError, PayloadTooLarge
from wire_contract.link.event_queue import EventQueue
from wire_contract.link.mqtt_rules import check_topic, packet_bytes
from wire_contract.link.mqtt_settings import MqttSettings
from wire_contract.link.outgoing import OutgoingMessage, OutgoingQueue
from wire_contract.link.protocol import Delivery, Event, QoS
from wire_contract.link.subscriptions import Subscriptions
from wire_contract.link.traffic import TrafficCounter
from wire_contract.transport.wakeup import Wakeup

IN_FLIGHT_MAX = 100
"""Publications sent but not yet acknowledged, at most; fewer if an MQTT 5 broker's Receive Maximum is lower. Enough to
fill a slow line, few enough to be sent again quickly."""
QUEUE_FACTOR = 2
"""Capacity of the event queue, in multiples of the Receive Maximum. With a broker that respects it, the queue is never
full, so that reading never stops, and with it the acknowledgements of what this side publishes."""
STALLED_SECONDS = 120.0
"""A thread without a sign of life for this long counts as dead. It gives signs while connecting, too, however many
addresses do not answer."""


class LinkState:
    """The shared state of one link."""

    def __init__(self, settings: MqttSettings, clock: Callable[[], float]) -> None:
        self._settings = settings
        self._clock = clock
        self.events = EventQueue(QUEUE_FACTOR * settings.receive_maximum)
        self.outgoing = OutgoingQueue(settings.outgoing_messages_max)
        self.subscriptions = Subscriptions(settings.subscriptions)
        self.traffic = TrafficCounter()
        self.wakeup = Wakeup()
        self.granted: Mapping[str, int] = {}
        self.server_packet_bytes_max: int | None = None
        self.in_flight_max = IN_FLIGHT_MAX
        self.established = False
        self.epoch = 0
        self.closing = False
        """`close` was called: nothing more is accepted, in either direction."""
        self.stopping = False
        """The thread must disconnect and end."""
        self.failure: BaseException | None = None
        """The exception that ended the thread."""
        self._ack_lock = Lock()
        self._acks: deque[int] = deque()
        self._moved_at = clock()
        self._reading_paused = False

    # What users call.

    def publish(self, topic: str, payload: bytes, *, retain: bool) -> OutgoingMessage:
        check_topic(topic)
        self._check_size(topic, payload)
        message = OutgoingMessage(topic, payload, retain=retain)
        self.outgoing.add(message)
        self.wakeup.set()
        return message

    def subscribe(self, topic_filter: str, qos: QoS) -> None:
        self._check_open()
        self.subscriptions.add(topic_filter, qos)
        self.wakeup.set()

    def unsubscribe(self, topic_filter: str) -> None:
        self._check_open()
        self.subscriptions.remove(topic_filter)
        self.wakeup.set()

    def receive(self, count: int, timeout_seconds: float) -> Sequence[Event]:
        self._check_alive()
        events = self.events.take(count, timeout_seconds)
        if self._reading_paused:
            self.wakeup.set()
        if not events:
            self._check_alive()
        return events

    def ack(self, delivery: Delivery) -> None:
        with self._ack_lock:
            if not self.established or delivery.epoch != self.epoch or not delivery.mid:
                return
            self._acks.append(delivery.mid)
        self.wakeup.set()

    def close(self) -> None:
        """Returns when everything is sent or the time for that is over; then the thread must stop."""
        self.closing = True
        self.wakeup.set()
        self.outgoing.close(self._settings.close_seconds_max)
        self.stopping = True
        self.wakeup.set()

    def _check_alive(self) -> None:
        address = self._settings.address
        if self.failure is not None:
            raise LinkError(f"the link to {address} has died: {self.failure!r}") from self.failure
        self._check_open()
        still_seconds = self._clock() - self._moved_at
        if still_seconds > STALLED_SECONDS:
            raise LinkError(f"the link to {address} has not moved for {still_seconds:.0f} s")

    def _check_open(self) -> None:
        if self.closing:
            raise LinkError(f"the link to {self._settings.address} is closed")

    def _check_size(self, topic: str, payload: bytes) -> None:
        limit = self._settings.packet_bytes_max
        if self.server_packet_bytes_max is not None:
            limit = min(limit, self.server_packet_bytes_max)
        size = packet_bytes(topic, payload)
        if size > limit:
            raise PayloadTooLarge(topic, size_bytes=size, limit_bytes=limit)

    # What the thread calls.

    def is_too_large(self, message: OutgoingMessage) -> str | None:
        """Why the broker would never accept the message; None: it would."""
        try:
            self._check_size(message.topic, message.payload)
        except PayloadTooLarge as error:
            return str(error)
        return None

    def moved(self) -> None:
        """The thread is alive."""
        self._moved_at = self._clock()

    def may_read(self) -> bool:
        """Whether the queue has room for more events; if not, whoever takes events wakes the thread."""
        self._reading_paused = True  # first: whoever makes room right now must wake us
        self._reading_paused = not self.events.has_room and not self.closing
        return not self._reading_paused

    def begin_epoch(self) -> int:
        """A connection is established; returns its number."""
        with self._ack_lock:
            self.epoch += 1
            self.established = True
        return self.epoch

    def end_epoch(self) -> None:
        """The connection ended. Its pending acknowledgements are dropped, as the messages are delivered again."""
        with self._ack_lock:
            self.established = False
            self._acks.clear()

    def next_ack(self) -> int | None:
        """The message id to acknowledge next on this connection."""
        return self._acks.popleft() if self._acks else None

    def rest_until(self, over: Callable[[], bool], *, tick_seconds: float, seconds_left: Callable[[], float]) -> None:
        """Waits until `over` or until the link is closed."""
        while not over() and not self.stopping:
            self.moved()
            self._reading_paused = True  # whoever makes room wakes us
            self.wakeup.wait(max(0.0, min(tick_seconds, seconds_left())))
        self.moved()

    def give_up(self, failure: BaseException | None = None) -> None:
        """The thread ends."""
        self.outgoing.abandon()  # first: after a failure is visible, nothing more can be published
        self.failure = failure or self.failure
