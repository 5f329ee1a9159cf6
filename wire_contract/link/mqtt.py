"""The Link over MQTT, by paho-mqtt. The only module that imports paho.

One thread per link does everything that touches paho; `publish`, `ack` and `receive` only queue and wake it. So

- paho's callbacks only queue, and an exception in one ends the thread, which `receive` reports;
- when the event queue is full, the socket is no longer read: the broker keeps the rest and nothing is lost, while the
  thread goes on writing and sending pings. This happens only with a broker that sends more than was asked for (MQTT
  3.1.1 cannot ask). Acknowledgements of publications then wait too, and a user that does not call `receive` for two
  keepalives loses the connection, but not the messages: they are delivered again;
- an acknowledgement never reaches a newer connection, where its message id may mean another message;
- sockets are waited for with epoll, not with paho's `select()`, which silently fails for descriptors above 1023.

`shared_state.py` has what the threads share, `network_thread.py` the thread, `dialing.py` opens the connections.
"""

import logging
import random
import ssl
import time
from collections.abc import Callable, Mapping, Sequence
from threading import current_thread
from typing import Any

import paho.mqtt.client as paho
from paho.mqtt.enums import CallbackAPIVersion, MQTTErrorCode, MQTTProtocolVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties
from paho.mqtt.reasoncodes import ReasonCode
from paho.mqtt.subscribeoptions import SubscribeOptions

from wire_contract.link.mqtt_rules import RECEIVE_MAXIMUM_MAX
from wire_contract.link.mqtt_settings import MqttSettings, Tls, host_headers
from wire_contract.link.network_thread import TICK_SECONDS, NetworkThread, Open
from wire_contract.link.outgoing import OutgoingMessage
from wire_contract.link.protocol import Connected, Delivery, Event, QoS
from wire_contract.link.shared_state import IN_FLIGHT_MAX, STALLED_SECONDS, LinkState
from wire_contract.link.traffic import Traffic
from wire_contract.program.repeat_filter import RepeatFilter
from wire_contract.transport.dialing import CONNECT_SECONDS_MAX
from wire_contract.transport.reconnect import REFUSALS, TAKEN_OVER, UNSUPPORTED_PROTOCOL, ConnectionAttempt

__all__ = ["STALLED_SECONDS", "MqttLink", "MqttSettings", "Tls"]

log = logging.getLogger(__name__)

_CHANCE = random.Random()  # noqa: S311 - spreads attempts to reconnect, no secret

SERVER_LIMITS = ("SessionExpiryInterval", "ReceiveMaximum", "MaximumPacketSize", "MaximumQoS", "RetainAvailable")
"""Limits that an MQTT 5 broker may state in its CONNACK."""
ENDINGS = {"Keep alive timeout": "the broker does not answer"}
"""Texts of paho that need another wording."""
LOST = "Unspecified error"
"""Text of paho for a connection that ended without a DISCONNECT; the socket may know more."""


class MqttLink:
    """Connects at once, and reconnects for ever, in a thread of its own; `receive` reports what happens."""

    def __init__(
        self,
        settings: MqttSettings,
        *,
        uniform: Callable[[float, float], float] = _CHANCE.uniform,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Raises:
        LinkError: the password file or the TLS files cannot be used.
        """
        self._settings = settings
        self._state = LinkState(settings, clock)

        def make_client(v5: bool) -> _PahoMqttClient:
            return _PahoMqttClient(settings, self._state, v5=v5, clock=clock)

        self._thread = NetworkThread(settings, self._state, make_client, uniform=uniform, clock=clock).thread
        self._thread.start()

    @property
    def traffic(self) -> Traffic:
        return self._state.traffic.snapshot

    @property
    def waiting(self) -> int:
        """Events that were not received yet."""
        return len(self._state.events)

    @property
    def granted(self) -> Mapping[str, int]:
        """Limits that an MQTT 5 broker stated at the last connect, by MQTT's names, such as `SessionExpiryInterval`.

        A limit that is missing is as the client requested, or there is none.
        """
        return self._state.granted

    def publish(self, topic: str, payload: bytes, *, retain: bool = False) -> OutgoingMessage:
        return self._state.publish(topic, payload, retain=retain)

    def subscribe(self, topic_filter: str, *, qos: QoS = 1) -> None:
        self._state.subscribe(topic_filter, qos)

    def unsubscribe(self, topic_filter: str) -> None:
        self._state.unsubscribe(topic_filter)

    def receive(self, *, count: int, timeout_seconds: float) -> Sequence[Event]:
        return self._state.receive(count, timeout_seconds)

    def ack(self, delivery: Delivery) -> None:
        self._state.ack(delivery)

    def close(self) -> None:
        self._state.close()
        if current_thread() is not self._thread:
            self._thread.join(self._settings.close_seconds_max + TICK_SECONDS)


class _PahoClient(paho.Client):
    """paho over connections that were opened by `dialing`; paho itself would wait for each dead address in turn."""

    dial: Open

    def _create_socket_connection(self) -> Any:
        return self.dial()

    def _ssl_wrap_socket(self, tcp_sock: Any) -> Any:
        return tcp_sock  # has TLS already


class _PahoMqttClient:
    """An `MqttClient` by paho, whose clients have a fixed version of MQTT."""

    def __init__(self, settings: MqttSettings, state: LinkState, *, v5: bool, clock: Callable[[], float]) -> None:
        self._settings = settings
        self._state = state
        self._v5 = v5
        self._clock = clock
        self.attempt = ConnectionAttempt()
        self.packets_read = 0
        self._asked: dict[int, tuple[str, ...]] = {}  # filters by the message id of their SUBSCRIBE
        self._left: dict[int, list[str]] = {}  # by the message id of their UNSUBSCRIBE
        self._refusals = RepeatFilter()
        self._client = self._make_client()

    def open(self, dial: Open, *, password: str | None) -> Any:
        self._client.dial = dial
        self._client.username_pw_set(self._settings.username, password)
        self._client.reconnect()
        return self._client.socket()

    def is_over(self, connection: Any) -> bool:
        return self._client.socket() is not connection

    def wants_to_write(self) -> bool:
        return self._client.want_write()

    def read(self) -> None:
        self._client.loop_read()

    def write(self) -> None:
        self._client.loop_write()

    def keep_alive(self) -> None:
        self._client.loop_misc()

    def say_goodbye(self) -> None:
        self._client.disconnect()

    def hang_up(self) -> None:
        connection = self._client.socket()
        if connection is not None:
            connection.close()

    def hand_over(self) -> None:
        """Passes to paho what users have queued; paho never holds more than may be in flight."""
        client, state = self._client, self._state
        if not state.established:
            return
        while (mid := state.next_ack()) is not None:
            client.ack(mid, 1)
        changes = state.subscriptions.take_changes()
        self._subscribe([(name, qos) for name, qos in changes if qos is not None])
        unwanted = [topic_filter for topic_filter, qos in changes if qos is None]
        if unwanted:
            _, left_mid = client.unsubscribe(unwanted)
            if left_mid is not None:
                self._left[left_mid] = unwanted

        def publish(message: OutgoingMessage) -> int | None:
            info = client.publish(message.topic, message.payload, qos=1, retain=message.retain)
            # A full queue here means that the message id is still in use, 65,535 messages later.
            return None if info.rc == MQTTErrorCode.MQTT_ERR_QUEUE_SIZE else info.mid

        state.outgoing.send(state.in_flight_max, publish)

    def _make_client(self) -> _PahoClient:
        settings = self._settings
        client = _PahoClient(
            CallbackAPIVersion.VERSION2,
            client_id=settings.client_id,
            clean_session=None if self._v5 else settings.clean_start,
            protocol=MQTTProtocolVersion.MQTTv5 if self._v5 else MQTTProtocolVersion.MQTTv311,
            transport=settings.transport,
            reconnect_on_failure=False,  # else paho falls back to MQTT 3.1 by itself
            manual_ack=True,
        )
        client.connect_timeout = CONNECT_SECONDS_MAX
        client.max_inflight_messages = IN_FLIGHT_MAX
        if settings.tls is not None:  # paho only needs to know that there is TLS
            client.tls_set_context(ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT))
        if settings.transport == "websockets":
            client.ws_set_options(settings.websocket_path, host_headers(settings))
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
        # A durable session never begins with a clean start, even the first time: mosquitto 2.0 would not persist it.
        client.connect_async(
            settings.host,
            settings.port,
            settings.keepalive_seconds,
            clean_start=settings.clean_start,
            properties=properties,
        )
        return client

    def _on_connect(
        self, _: paho.Client, __: Any, flags: paho.ConnectFlags, reason: ReasonCode, properties: Properties | None
    ) -> None:
        attempt, state = self.attempt, self._state
        attempt.answered = True
        if reason.is_failure:
            attempt.ending = f"refused the connection: {reason}"
            attempt.refused = reason.value in REFUSALS
            attempt.unsupported = reason.value == UNSUPPORTED_PROTOCOL
            return
        attempt.established_at = self._clock()
        self._refusals.resolve()
        state.in_flight_max = min(IN_FLIGHT_MAX, getattr(properties, "ReceiveMaximum", RECEIVE_MAXIMUM_MAX))
        state.server_packet_bytes_max = getattr(properties, "MaximumPacketSize", None)
        state.granted = {name: getattr(properties, name) for name in SERVER_LIMITS if hasattr(properties, name)}
        self._fit_to_the_broker()
        # On every connect, whatever session_present says: the broker may have lost subscriptions without knowing it.
        self._asked.clear()
        self._left.clear()
        self._subscribe(state.subscriptions.take_all())
        state.events.put(Connected(state.begin_epoch(), session_present=flags.session_present))

    def _fit_to_the_broker(self) -> None:
        """Applies the broker's limits to what was queued before they were known, and to what paho would resend."""
        outgoing = self._state.outgoing
        in_flight = outgoing.in_flight()
        if len(in_flight) > self._state.in_flight_max or any(
            self._state.is_too_large(message) for message in in_flight
        ):
            self._client.drop_out_messages()
            outgoing.take_back()
        for reason in outgoing.reject(self._state.is_too_large):
            log.error("not published: %s", reason)

    def _subscribe(self, filters: Sequence[tuple[str, QoS]]) -> None:
        if filters:
            asked: list[Any] = [(name, SubscribeOptions(qos=qos) if self._v5 else qos) for name, qos in filters]
            _, mid = self._client.subscribe(asked)
            if mid is not None:
                self._asked[mid] = tuple(name for name, _ in filters)

    def _on_subscribe(
        self, client: paho.Client, _: Any, mid: int, reasons: list[ReasonCode], ___: Properties | None
    ) -> None:
        answers = zip(self._asked.pop(mid, ()), reasons, strict=False)
        refused = {topic_filter: reason for topic_filter, reason in answers if reason.is_failure}
        fatal = [f"{name} ({reason})" for name, reason in refused.items() if name in self._settings.subscriptions]
        if fatal:
            self.attempt.ending = f"refused the subscription to {', '.join(fatal)}"
            self.attempt.refused = True
            client.disconnect()  # a link that receives nothing must not look healthy
            return
        for topic_filter, reason in refused.items():
            self._state.subscriptions.forget(topic_filter)
            log.warning("%s refused the subscription to %s: %s", self._settings.address, topic_filter, reason)

    def _on_unsubscribe(
        self, _: paho.Client, __: Any, mid: int, ___: list[ReasonCode], ____: Properties | None
    ) -> None:
        self._state.subscriptions.left(self._left.pop(mid, ()))

    def _on_message(self, client: paho.Client, _: Any, message: paho.MQTTMessage) -> None:
        self.packets_read += 1
        if self._state.closing:
            return  # not acknowledged: it is delivered again
        try:
            topic = message.topic
        except UnicodeDecodeError:
            log.warning("%s: a message whose topic is not UTF-8 was discarded", self._settings.address)
            client.ack(message.mid, message.qos)
            return
        payload = bytes(message.payload)
        self._state.traffic.received(len(payload))
        self._state.events.put(
            Delivery(
                topic,
                payload,
                retained=message.retain,
                duplicate=message.dup,
                mid=message.mid,
                epoch=self._state.epoch,
            )
        )

    def _on_publish(self, _: paho.Client, __: Any, mid: int, reason: ReasonCode, ___: Properties | None) -> None:
        self.packets_read += 1
        message = self._state.outgoing.acknowledged(mid)
        if message is None:
            return
        if reason.is_failure:
            refusal = f"{message.topic}: the broker refused the message: {reason}"
            if self._refusals.passes(refusal):  # it refuses the same messages each time
                log.warning("%s", refusal)
        else:
            self._state.traffic.sent(len(message.payload))
        message.settle(accepted=not reason.is_failure)

    def _on_disconnect(self, _: paho.Client, __: Any, ___: Any, reason: ReasonCode, ____: Properties | None) -> None:
        text = str(reason)
        if reason.value == TAKEN_OVER:
            self.attempt.taken_over = True
        elif self.attempt.ending is None and text != LOST:
            self.attempt.ending = ENDINGS.get(text, f"ended the connection: {reason}")


def _leave_writing_to_the_loop(*_: Any) -> None:
    """With this callback, paho only queues packets, instead of writing them within the call that made them."""
