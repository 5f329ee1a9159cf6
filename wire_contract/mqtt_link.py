"""The Link over MQTT, on paho-mqtt. The only module that knows paho.

One thread of the link's own does all that touches paho; `publish`, `ack` and `receive` only queue and wake it. So

- paho's callbacks do nothing but queue, and an exception in one ends the thread in sight of `receive`;
- when the queue of events is full, nothing more is read from the socket: the broker keeps the rest, none is lost, and
  the thread goes on writing and sending pings. That takes a broker that sends more than was asked for (MQTT 3.1.1
  cannot ask); then acknowledgements of publications wait too, and a user that stays away longer than two keepalives
  loses the connection, but not the messages: they come again;
- an acknowledgement can never slip onto a newer connection, where its message id may mean another message;
- file descriptors are waited for with epoll, not with paho's `select()`, which is silently dead past number 1023.
"""

import logging
import random
import selectors
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from threading import Lock, Thread, current_thread
from typing import Any

import paho.mqtt.client as paho
from paho.mqtt.enums import CallbackAPIVersion, MQTTErrorCode, MQTTProtocolVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties
from paho.mqtt.reasoncodes import ReasonCode
from paho.mqtt.subscribeoptions import SubscribeOptions

from wire_contract.attempts import ENDINGS, REFUSALS, UNSUPPORTED_PROTOCOL, Attempt, Rests
from wire_contract.errors import LinkError, PayloadTooLarge
from wire_contract.event_queue import EventQueue
from wire_contract.link import Connected, Delivery, Disconnected, Event, Quality
from wire_contract.mqtt_rules import RECEIVE_MAXIMUM_MAX, check_topic, packet_bytes
from wire_contract.mqtt_settings import MqttSettings, Tls
from wire_contract.outgoing import Outgoing, OutgoingQueue
from wire_contract.subscriptions import Subscriptions
from wire_contract.traffic import Traffic, TrafficCounter
from wire_contract.wakeup import Wakeup

__all__ = ["MqttLink", "MqttSettings", "Tls"]

log = logging.getLogger(__name__)

_CHANCE = random.Random()  # noqa: S311 - spreads attempts, guards nothing

IN_FLIGHT_MAX = 100
"""Publications sent and not yet acknowledged; fewer where an MQTT 5 broker's Receive Maximum says so."""
TICK_SECONDS = 1.0
"""The thread moves at least so often, but for a connect under way."""
READS_MAX = 64
"""Packets read before acknowledgements and publications have their turn."""
CONNECT_SECONDS_MAX = 10.0
"""For TCP and TLS, and then for the broker's answer."""
PROBE_SECONDS_MAX = 3.0
"""For the first answer to MQTT 5, if it may be unknown there: some read its CONNECT wrongly and wait for the rest."""
SERVER_LIMITS = ("SessionExpiryInterval", "ReceiveMaximum", "MaximumPacketSize", "MaximumQoS", "RetainAvailable")
"""What an MQTT 5 broker may say of them in its CONNACK."""
STALLED_SECONDS = 120.0
"""A thread that has not moved for so long is taken for dead; a name look-up and a few addresses take less."""
QUEUE_FACTOR = 2
"""The queue holds so many times the Receive Maximum: a broker that keeps to it never makes reading stop, and with it
the acknowledgements of what this side publishes."""


class MqttLink:
    """Connects at once and for ever, in a thread of its own; `receive` tells what comes of it."""

    def __init__(
        self,
        settings: MqttSettings,
        *,
        uniform: Callable[[float, float], float] = _CHANCE.uniform,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Raises:
        LinkError: the TLS files cannot be used.
        """
        self._settings = settings
        self._clock = clock
        self._tls = settings.tls_context()
        self._events = EventQueue(QUEUE_FACTOR * settings.receive_maximum)
        self._outgoing = OutgoingQueue(settings.outgoing_messages_max)
        self._subscriptions = Subscriptions(settings.subscriptions)
        self._traffic = TrafficCounter()
        self._wakeup = Wakeup()

        self._ack_lock = Lock()
        self._acks: deque[int] = deque()
        self._epoch = 0
        self._established = False
        self._server_packet_bytes_max: int | None = None
        self._granted: Mapping[str, int] = {}
        self._closing = False  # nothing more is taken, in or out
        self._stopping = False  # the thread says goodbye
        self._failure: BaseException | None = None
        self._moved_at = clock()
        self._reading_paused = False

        # What follows belongs to the thread.
        self._in_flight_max = IN_FLIGHT_MAX
        self._attempt = Attempt()
        self._rests = Rests(
            shortest_seconds=settings.reconnect_delay_seconds,
            longest_seconds=settings.reconnect_delay_max_seconds,
            uniform=uniform,
            clock=clock,
        )
        self._asked: dict[int, tuple[str, ...]] = {}  # message id of a SUBSCRIBE to its filters
        self._left: dict[int, list[str]] = {}  # the same of an UNSUBSCRIBE
        self._packets_read = 0
        self._v5 = settings.protocol != "3.1.1"
        self._protocol_settled = settings.protocol != "auto"
        self._thread = Thread(target=self._run, name=f"mqtt {settings.client_id}", daemon=True)
        self._thread.start()

    # What the user calls, from any thread.

    @property
    def traffic(self) -> Traffic:
        return self._traffic.snapshot

    @property
    def waiting(self) -> int:
        """Events that nobody has taken yet."""
        return len(self._events)

    @property
    def granted(self) -> Mapping[str, int]:
        """What an MQTT 5 broker said of its limits when it last let us in, under MQTT's own names, such as
        `SessionExpiryInterval`. What it left out is as the client asked, or unlimited.
        """
        return self._granted

    def publish(self, topic: str, payload: bytes, *, retain: bool = False) -> Outgoing:
        check_topic(topic)
        self._check_size(topic, payload)
        message = Outgoing(topic, payload, retain=retain)
        self._outgoing.add(message)
        self._wakeup.set()
        return message

    def subscribe(self, topic_filter: str, *, quality: Quality = 1) -> None:
        self._check_open()
        self._subscriptions.add(topic_filter, quality)
        self._wakeup.set()

    def unsubscribe(self, topic_filter: str) -> None:
        self._check_open()
        self._subscriptions.remove(topic_filter)
        self._wakeup.set()

    def receive(self, *, count: int, timeout_seconds: float) -> Sequence[Event]:
        self._check_alive()
        events = self._events.take(count, timeout_seconds)
        if self._reading_paused:
            self._wakeup.set()
        if not events:
            self._check_alive()
        return events

    def ack(self, delivery: Delivery) -> None:
        with self._ack_lock:
            if not self._established or delivery.epoch != self._epoch or not delivery.mid:
                return
            self._acks.append(delivery.mid)
        self._wakeup.set()

    def close(self) -> None:
        self._closing = True
        self._wakeup.set()
        self._outgoing.close(self._settings.close_seconds_max)
        self._stopping = True
        self._wakeup.set()
        if current_thread() is not self._thread:
            self._thread.join(self._settings.close_seconds_max + TICK_SECONDS)

    def _check_alive(self) -> None:
        if self._failure is not None:
            raise LinkError(f"the link to {self._settings.address} has died: {self._failure!r}") from self._failure
        self._check_open()
        still_seconds = self._clock() - self._moved_at
        if still_seconds > STALLED_SECONDS:
            raise LinkError(f"the link to {self._settings.address} has not moved for {still_seconds:.0f} s")

    def _check_open(self) -> None:
        if self._closing:
            raise LinkError(f"the link to {self._settings.address} is closed")

    def _check_size(self, topic: str, payload: bytes) -> None:
        limit = self._settings.packet_bytes_max
        if self._server_packet_bytes_max is not None:
            limit = min(limit, self._server_packet_bytes_max)
        size = packet_bytes(topic, payload)
        if size > limit:
            raise PayloadTooLarge(topic, size_bytes=size, limit_bytes=limit)

    # The thread.

    def _run(self) -> None:
        client = self._make_client()
        try:
            while not self._stopping:
                client = self._live_once(client)
        except BaseException as failure:  # noqa: BLE001 — whatever it is, `receive` tells it
            self._outgoing.abandon()  # first: who knows of the failure can publish no more
            self._failure = failure
        finally:
            _hang_up(client)
            self._end_epoch()
            self._outgoing.abandon()
            self._events.close()
            self._wakeup.close()

    def _live_once(self, client: paho.Client) -> paho.Client:
        """One connection, from the attempt to the rest after it. Returns the client for the next one."""
        self._rest_until(lambda: self._events.has_room or self._closing)
        self._attempt = attempt = Attempt()
        try:
            client.reconnect()
        except (OSError, ValueError) as error:  # ValueError: a host name that cannot be one
            reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
            attempt.ending = f"cannot be reached: {reason}"
        else:
            attempt.reached = True
            self._converse(client)
        _hang_up(client)
        self._end_epoch()
        if self._stopping:
            return client
        if self._speaks_another_version(attempt):
            self._v5 = not self._v5
            self._outgoing.take_back()
            client = self._make_client()  # paho has one protocol for life
            if not self._v5:
                log.info("%s does not speak MQTT 5, trying 3.1.1", self._settings.address)
                return client
        ending = attempt.ending or ENDINGS["Unspecified error"]
        self._events.put(Disconnected(f"broker {self._settings.address}: {ending}", refused=attempt.refused))
        deadline = time.monotonic() + self._rests.after(attempt)
        self._rest_until(lambda: time.monotonic() >= deadline, deadline)
        return client

    def _converse(self, client: paho.Client) -> None:
        """Until the connection ends."""
        connection = client.socket()
        is_probe = self._v5 and not self._protocol_settled
        answer_until = time.monotonic() + (PROBE_SECONDS_MAX if is_probe else CONNECT_SECONDS_MAX)
        goodbye_until: float | None = None
        registered = 0
        with selectors.DefaultSelector() as selector:
            selector.register(self._wakeup, selectors.EVENT_READ)
            while connection is not None and client.socket() is connection:
                self._moved_at = self._clock()
                if not self._attempt.answered and time.monotonic() > answer_until:
                    self._attempt.ending = "does not answer as an MQTT broker"
                    return
                if goodbye_until is None:
                    self._hand_over(client)
                    if self._stopping:
                        goodbye_until = time.monotonic() + TICK_SECONDS
                        client.disconnect()
                elif time.monotonic() > goodbye_until:
                    return
                reads = self._may_read()
                wanted = selectors.EVENT_READ * reads | selectors.EVENT_WRITE * client.want_write()
                _register(selector, connection, registered, wanted)
                registered = wanted
                buffered = reads and _is_buffered(connection)
                ready = {key.fileobj: mask for key, mask in selector.select(0 if buffered else TICK_SECONDS)}
                if self._wakeup in ready:
                    self._wakeup.clear()
                if buffered or ready.get(connection, 0) & selectors.EVENT_READ:
                    self._read(client)
                if ready.get(connection, 0) & selectors.EVENT_WRITE:
                    client.loop_write()
                client.loop_misc()

    def _read(self, client: paho.Client) -> None:
        """All that is there, within bounds; paho reads one packet at a time."""
        for _ in range(READS_MAX):
            before = self._packets_read
            client.loop_read()
            if self._packets_read == before or not self._events.has_room or client.socket() is None:
                return

    def _may_read(self) -> bool:
        self._reading_paused = True  # first, or who makes room just now would not wake us
        self._reading_paused = not self._events.has_room and not self._closing
        return not self._reading_paused

    def _hand_over(self, client: paho.Client) -> None:
        """Gives paho what the user's threads have queued; paho itself never holds more than may be in flight."""
        if not self._established:
            return
        while self._acks:
            client.ack(self._acks.popleft(), 1)
        changes = self._subscriptions.take_changes()
        self._subscribe(client, [(name, quality) for name, quality in changes if quality is not None])
        unwanted = [topic_filter for topic_filter, quality in changes if quality is None]
        if unwanted:
            _, mid = client.unsubscribe(unwanted)
            if mid is not None:
                self._left[mid] = unwanted

        def publish(message: Outgoing) -> int | None:
            info = client.publish(message.topic, message.payload, qos=1, retain=message.retain)
            # A full queue means here that the message id is still in use, 65,535 messages later.
            return None if info.rc == MQTTErrorCode.MQTT_ERR_QUEUE_SIZE else info.mid

        self._outgoing.send(self._in_flight_max, publish)

    def _rest_until(self, over: Callable[[], bool], deadline: float | None = None) -> None:
        """But not when the link is closed."""
        while not over() and not self._stopping:
            self._moved_at = self._clock()
            self._reading_paused = True  # who makes room wakes us
            self._wakeup.wait(TICK_SECONDS if deadline is None else min(TICK_SECONDS, deadline - time.monotonic()))
        self._moved_at = self._clock()

    def _end_epoch(self) -> None:
        with self._ack_lock:
            self._established = False
            self._acks.clear()

    def _speaks_another_version(self, attempt: Attempt) -> bool:
        """Some brokers say so; some only hang up on a CONNECT that they do not understand, as one does that is just
        being stopped: that counts only until a version has worked once.
        """
        hung_up = attempt.reached and not attempt.answered and not self._protocol_settled
        return self._settings.protocol == "auto" and (attempt.unsupported or hung_up)

    # paho and its callbacks.

    def _make_client(self) -> paho.Client:
        settings = self._settings
        client = paho.Client(
            CallbackAPIVersion.VERSION2,
            client_id=settings.client_id,
            clean_session=None if self._v5 else settings.clean_start,
            protocol=MQTTProtocolVersion.MQTTv5 if self._v5 else MQTTProtocolVersion.MQTTv311,
            transport=settings.transport,
            reconnect_on_failure=False,  # or paho goes down to MQTT 3.1 by itself
            manual_ack=True,
        )
        client.connect_timeout = CONNECT_SECONDS_MAX
        client.max_inflight_messages = IN_FLIGHT_MAX
        client.username = settings.username
        client.password = settings.password
        if self._tls is not None:
            client.tls_set_context(self._tls)
        if settings.transport == "websockets":
            client.ws_set_options(settings.websocket_path)
        if settings.will is not None:
            client.will_set(settings.will.topic, settings.will.payload, qos=1, retain=True)
        client.on_connect = self._on_connect
        client.on_subscribe = self._on_subscribe
        client.on_unsubscribe = self._on_unsubscribe
        client.on_message = self._on_message
        client.on_publish = self._on_publish
        client.on_disconnect = self._on_disconnect
        client.on_socket_register_write = _leave_writing_to_the_loop
        properties = None
        if self._v5:
            properties = Properties(PacketTypes.CONNECT)  # type: ignore[no-untyped-call] # paho forgot
            properties.SessionExpiryInterval = settings.session_expiry_seconds
            properties.ReceiveMaximum = settings.receive_maximum
        # Never a clean start of a session that shall last, not even the first: mosquitto 2.0 would never persist it.
        client.connect_async(
            settings.host,
            settings.port,
            settings.keepalive_seconds,
            clean_start=settings.clean_start,
            properties=properties,
        )
        return client

    def _on_connect(
        self, client: paho.Client, _: Any, flags: paho.ConnectFlags, reason: ReasonCode, properties: Properties | None
    ) -> None:
        self._attempt.answered = True
        if reason.is_failure:
            self._attempt.ending = f"refused the connection: {reason}"
            self._attempt.refused = reason.value in REFUSALS
            self._attempt.unsupported = reason.value == UNSUPPORTED_PROTOCOL
            return
        self._attempt.established_at = self._clock()
        self._protocol_settled = True
        self._in_flight_max = min(IN_FLIGHT_MAX, getattr(properties, "ReceiveMaximum", RECEIVE_MAXIMUM_MAX))
        self._server_packet_bytes_max = getattr(properties, "MaximumPacketSize", None)
        self._granted = {name: getattr(properties, name) for name in SERVER_LIMITS if hasattr(properties, name)}
        self._fit_to_the_broker(client)
        # On every connect, whatever session_present says: the broker may have lost the subscriptions and not know it.
        self._asked.clear()
        self._left.clear()
        self._subscribe(client, self._subscriptions.take_all())
        with self._ack_lock:
            self._epoch += 1
            self._established = True
        self._events.put(Connected(self._epoch, session_present=flags.session_present))

    def _fit_to_the_broker(self, client: paho.Client) -> None:
        """What was queued before the limits were known, and what paho would send again without a look at them."""

        def refuse(message: Outgoing) -> str | None:
            try:
                self._check_size(message.topic, message.payload)
            except PayloadTooLarge as error:
                return str(error)
            return None

        in_flight = self._outgoing.in_flight()
        if len(in_flight) > self._in_flight_max or any(refuse(message) for message in in_flight):
            client.drop_out_messages()
            self._outgoing.take_back()
        for reason in self._outgoing.reject(refuse):
            log.error("not published: %s", reason)

    def _subscribe(self, client: paho.Client, filters: Sequence[tuple[str, Quality]]) -> None:
        if filters:
            asked: list[Any] = [(name, SubscribeOptions(qos=qos) if self._v5 else qos) for name, qos in filters]
            _, mid = client.subscribe(asked)
            if mid is not None:
                self._asked[mid] = tuple(name for name, _ in filters)

    def _on_subscribe(
        self, client: paho.Client, _: Any, mid: int, reasons: list[ReasonCode], ___: Properties | None
    ) -> None:
        answers = zip(self._asked.pop(mid, ()), reasons, strict=False)
        refused = {topic_filter: reason for topic_filter, reason in answers if reason.is_failure}
        fatal = [f"{name} ({reason})" for name, reason in refused.items() if name in self._settings.subscriptions]
        if fatal:
            self._attempt.ending = f"refused the subscription to {', '.join(fatal)}"
            self._attempt.refused = True
            client.disconnect()  # a link that hears nothing must not look sound
            return
        for topic_filter, reason in refused.items():
            self._subscriptions.forget(topic_filter)
            log.warning("%s refused the subscription to %s: %s", self._settings.address, topic_filter, reason)

    def _on_unsubscribe(
        self, _: paho.Client, __: Any, mid: int, ___: list[ReasonCode], ____: Properties | None
    ) -> None:
        self._subscriptions.left(self._left.pop(mid, ()))

    def _on_message(self, client: paho.Client, _: Any, message: paho.MQTTMessage) -> None:
        self._packets_read += 1
        if self._closing:
            return  # not acknowledged: it comes again
        try:
            topic = message.topic
        except UnicodeDecodeError:
            log.warning("%s: a message whose topic is not UTF-8 was thrown away", self._settings.address)
            client.ack(message.mid, message.qos)
            return
        payload = bytes(message.payload)
        self._traffic.received(len(payload))
        self._events.put(
            Delivery(
                topic,
                payload,
                retained=message.retain,
                duplicate=message.dup,
                mid=message.mid,
                epoch=self._epoch,
            )
        )

    def _on_publish(self, _: paho.Client, __: Any, mid: int, reason: ReasonCode, ___: Properties | None) -> None:
        self._packets_read += 1
        message = self._outgoing.acknowledged(mid)
        if message is None:
            return
        if reason.is_failure:
            log.warning("%s: the broker refused the message: %s", message.topic, reason)
        else:
            self._traffic.sent(len(message.payload))
        message.finish(taken=not reason.is_failure)

    def _on_disconnect(self, _: paho.Client, __: Any, ___: Any, reason: ReasonCode, ____: Properties | None) -> None:
        if self._attempt.ending is None:
            self._attempt.ending = ENDINGS.get(str(reason), f"ended the connection: {reason}")


def _hang_up(client: paho.Client) -> None:
    """Without a goodbye, if the connection still stands: the broker shall publish the will."""
    connection = client.socket()
    if connection is not None:
        connection.close()


def _register(selector: selectors.BaseSelector, connection: Any, before: int, wanted: int) -> None:
    if wanted == before:
        return
    if not wanted:
        selector.unregister(connection)
    elif before:
        selector.modify(connection, wanted)
    else:
        selector.register(connection, wanted)


def _is_buffered(connection: Any) -> bool:
    """What TLS or websockets have already read from the socket, no selector sees."""
    pending = getattr(connection, "pending", None)
    return pending is not None and pending() > 0


def _leave_writing_to_the_loop(*_: Any) -> None:
    """With this callback set, paho queues packets and never writes them in the middle of what asked for them."""
