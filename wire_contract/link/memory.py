"""The Link without a network: a broker in memory, for tests and for simulations in virtual time.

It is deterministic and has no threads: everything happens inside the calls of its users, in their order. A link whose
connection was lost reconnects when its user calls it the next time. Faults that real brokers and networks show can be
injected: lost connections, lost state, refused clients, outages, wills.
"""

import threading
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from wire_contract.errors import LinkError, PayloadTooLarge
from wire_contract.limits import KIB, MIB
from wire_contract.link.event_queue import EventQueue
from wire_contract.link.mqtt_rules import check_topic, matches, packet_bytes
from wire_contract.link.outgoing import OutgoingMessage, OutgoingQueue
from wire_contract.link.protocol import Connected, Delivery, Disconnected, Event, QoS, TopicFilters, Will
from wire_contract.link.subscriptions import Subscriptions
from wire_contract.link.traffic import Traffic, TrafficCounter

_MESSAGE_IDS = 65_535


@dataclass
class _Session:
    """What the broker keeps for one client, connected or not."""

    subscriptions: dict[str, QoS] = field(default_factory=dict)
    waiting: deque[Delivery] = field(default_factory=deque)
    in_flight: dict[int, Delivery] = field(default_factory=dict)
    last_mid: int = 0

    def next_mid(self) -> int:
        while True:
            self.last_mid = self.last_mid % _MESSAGE_IDS + 1
            if self.last_mid not in self.in_flight:
                return self.last_mid


class MemoryBroker:
    """The part of a broker that the contract needs: MQTT 3.1.1, QoS 0 and 1, retained messages, durable sessions,
    wills.
    """

    def __init__(self, *, packet_bytes_max: int = MIB - KIB) -> None:
        self.packet_bytes_max = packet_bytes_max
        self.retained: dict[str, bytes] = {}
        self.running = True
        self.lock = threading.RLock()
        self._sessions: dict[str, _Session] = {}
        self._connections: dict[str, MemoryLink] = {}
        self._refused: set[str] = set()
        self._blocked: set[str] = set()

    # Fault injection.

    def stop(self, *, lose_state: bool = False) -> None:
        """As if killed: no wills are published. Sessions and retained messages are lost only if `lose_state`."""
        with self.lock:
            self.running = False
            for link in tuple(self._connections.values()):
                self._disconnect(link, "the broker was stopped")
            if lose_state:
                self._sessions.clear()
                self.retained.clear()

    def start(self) -> None:
        self.running = True

    def drop(self, client_id: str) -> None:
        """The connection is lost and the will is published. The link reconnects when its user calls it the next
        time.
        """
        with self.lock:
            link = self._connections.get(client_id)
            if link is not None:
                self._disconnect(link, "the connection was lost")
                if link.will is not None:
                    self.publish(link.will.topic, link.will.payload, retain=True)

    def block(self, client_id: str) -> None:
        """The connection is lost, and the link cannot reconnect until `unblock`: its device has no network."""
        with self.lock:
            self._blocked.add(client_id)
            self.drop(client_id)

    def unblock(self, client_id: str) -> None:
        self._blocked.discard(client_id)

    def refuse(self, client_id: str) -> None:
        """From now on the client is refused, as with a wrong password."""
        with self.lock:
            self._refused.add(client_id)
            self.drop(client_id)

    def accept(self, client_id: str) -> None:
        self._refused.discard(client_id)

    # Called by links, with the lock held.

    def connect(self, link: "MemoryLink") -> str | None:
        """Connects a link and delivers what its session holds; returns why not, or None."""
        if not self.running or link.client_id in self._blocked:
            return "cannot be reached"
        if link.client_id in self._refused:
            return "refused the connection: Not authorized"
        before = self._connections.get(link.client_id)
        if before is not None:
            self._disconnect(before, "another program connected with the same client id")
        known = link.client_id in self._sessions
        session = self._sessions.setdefault(link.client_id, _Session())
        self._connections[link.client_id] = link
        link.connected(session_present=known)
        for mid, delivery in session.in_flight.items():
            session.in_flight[mid] = replace(delivery, duplicate=True)
            link.deliver(session.in_flight[mid])
        for topic_filter, qos in link.subscriptions.take_all():
            self.subscribe(link.client_id, topic_filter, qos)
        self._flow(link.client_id)
        return None

    def subscribe(self, client_id: str, topic_filter: str, qos: QoS = 1) -> None:
        """Retained messages are delivered, even if they were before."""
        self._sessions[client_id].subscriptions[topic_filter] = qos
        for topic, payload in self.retained.items():
            if matches(topic_filter, topic):
                self._hand_out(client_id, Delivery(topic, payload, retained=True), qos)

    def unsubscribe(self, client_id: str, topic_filter: str) -> None:
        """Messages that are already queued are still delivered."""
        self._sessions[client_id].subscriptions.pop(topic_filter, None)

    def is_refused(self, client_id: str) -> bool:
        return client_id in self._refused

    def goodbye(self, link: "MemoryLink") -> None:
        """Disconnects without publishing the will."""
        if self._connections.get(link.client_id) is link:
            del self._connections[link.client_id]

    def publish(self, topic: str, payload: bytes, *, retain: bool = False) -> None:
        with self.lock:
            if retain and payload:
                self.retained[topic] = payload
            elif retain:
                self.retained.pop(topic, None)
            for client_id, session in self._sessions.items():
                asked = [qos for name, qos in session.subscriptions.items() if matches(name, topic)]
                if asked:
                    self._hand_out(client_id, Delivery(topic, payload), max(asked))

    def ack(self, client_id: str, mid: int) -> None:
        session = self._sessions.get(client_id)
        if session is not None and session.in_flight.pop(mid, None) is not None:
            self._flow(client_id)

    def _hand_out(self, client_id: str, delivery: Delivery, qos: QoS) -> None:
        """QoS 1: queued in the session. QoS 0: delivered at once, before anything queued, or not at all."""
        if qos == 1:
            self._sessions[client_id].waiting.append(delivery)
            self._flow(client_id)
        elif client_id in self._connections:
            self._connections[client_id].deliver(delivery)

    def _flow(self, client_id: str) -> None:
        """Delivers to a connected client as much as its Receive Maximum allows."""
        link, session = self._connections.get(client_id), self._sessions[client_id]
        while link is not None and session.waiting and len(session.in_flight) < link.receive_maximum:
            mid = session.next_mid()
            session.in_flight[mid] = replace(session.waiting.popleft(), mid=mid)
            link.deliver(session.in_flight[mid])

    def _disconnect(self, link: "MemoryLink", reason: str) -> None:
        del self._connections[link.client_id]
        link.disconnected(reason)


class MemoryLink:
    """A Link to a MemoryBroker. `receive` returns only what is queued, and never blocks."""

    def __init__(
        self,
        broker: MemoryBroker,
        client_id: str,
        *,
        subscriptions: TopicFilters = (),
        will: Will | None = None,
        receive_maximum: int = 256,
        outgoing_messages_max: int = 10_000,
    ) -> None:
        self.client_id = client_id
        self.subscriptions = Subscriptions(subscriptions)
        self.will = will
        self.receive_maximum = receive_maximum
        self._broker = broker
        self._events = EventQueue(receive_maximum)
        self._outgoing = OutgoingQueue(outgoing_messages_max)
        self._traffic = TrafficCounter()
        self._epoch = 0
        self._is_connected = False
        self._is_closed = False
        self._publications = 0
        self._failure: str | None = None
        with broker.lock:
            self._turn()

    @property
    def traffic(self) -> Traffic:
        return self._traffic.snapshot

    @property
    def waiting(self) -> int:
        """Events that were not received yet."""
        return len(self._events)

    def publish(self, topic: str, payload: bytes, *, retain: bool = False) -> OutgoingMessage:
        check_topic(topic)
        size = packet_bytes(topic, payload)
        if size > self._broker.packet_bytes_max:
            raise PayloadTooLarge(topic, size_bytes=size, limit_bytes=self._broker.packet_bytes_max)
        message = OutgoingMessage(topic, payload, retain=retain)
        with self._broker.lock:
            self._outgoing.add(message)
            self._turn()
        return message

    def subscribe(self, topic_filter: str, *, qos: QoS = 1) -> None:
        self._check_open()
        with self._broker.lock:
            self.subscriptions.add(topic_filter, qos)
            self._turn()

    def unsubscribe(self, topic_filter: str) -> None:
        self._check_open()
        with self._broker.lock:
            self.subscriptions.remove(topic_filter)
            self._turn()

    def receive(self, *, count: int, timeout_seconds: float) -> Sequence[Event]:
        """Returns up to `count` events that are queued; `timeout_seconds` is ignored."""
        _ = timeout_seconds
        with self._broker.lock:
            if self._failure is not None:
                raise LinkError(f"the link of {self.client_id} has died: {self._failure}")
            self._check_open()
            self._turn()
            return self._events.take(count, 0)

    def ack(self, delivery: Delivery) -> None:
        with self._broker.lock:
            if self._is_connected and delivery.epoch == self._epoch:
                self._broker.ack(self.client_id, delivery.mid)

    def close(self) -> None:
        with self._broker.lock:
            if not self._is_closed:
                self._turn()
                self._is_closed = True
                self._is_connected = False
                self._outgoing.abandon()
                self._broker.goodbye(self)

    def die(self, reason: str = "an exception in its thread") -> None:
        """A fault: as if the link's own thread had died. The connection is lost and the will is published."""
        with self._broker.lock:
            self._failure = reason
            self._outgoing.abandon()
            self._broker.drop(self.client_id)

    # Called by the broker, with its lock held.

    def connected(self, *, session_present: bool) -> None:
        self._epoch += 1
        self._is_connected = True
        self._events.put(Connected(self._epoch, session_present))

    def disconnected(self, reason: str) -> None:
        self._is_connected = False
        self._outgoing.take_back()
        self._events.put(Disconnected(f"broker in memory: {reason}"))

    def deliver(self, delivery: Delivery) -> None:
        self._traffic.received(len(delivery.payload))
        self._events.put(replace(delivery, epoch=self._epoch))

    def _check_open(self) -> None:
        if self._is_closed:
            raise LinkError(f"the link of {self.client_id} is closed")

    def _turn(self) -> None:
        """What the thread of a real link would do in the meantime."""
        if self._is_closed or self._failure is not None:
            return
        if not self._is_connected:
            reason = self._broker.connect(self)
            if reason is not None:
                refused = self._broker.is_refused(self.client_id) and self._broker.running
                self._events.put(Disconnected(f"broker in memory: {reason}", refused=refused))
                return
        changes = self.subscriptions.take_changes()
        for topic_filter, qos in changes:
            if qos is None:
                self._broker.unsubscribe(self.client_id, topic_filter)
            else:
                self._broker.subscribe(self.client_id, topic_filter, qos)
        self.subscriptions.left(topic_filter for topic_filter, _ in changes)
        sent: list[tuple[int, OutgoingMessage]] = []

        def publish(message: OutgoingMessage) -> int:
            self._publications += 1
            sent.append((self._publications, message))
            return self._publications

        self._outgoing.send(_MESSAGE_IDS, publish)
        for mid, message in sent:
            self._broker.publish(message.topic, message.payload, retain=message.retain)
            self._traffic.sent(len(message.payload))
            self._outgoing.acknowledged(mid)
            message.settle(accepted=True)
