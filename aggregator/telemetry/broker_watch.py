"""Receives presence and the broker's $SYS statistics, with a connection and a thread of its own.

The aggregator's own session is durable: while it is offline, $SYS and presence messages would be queued with the
updates, and displace them when the queue is full. If the broker refuses this connection or its filters, only these
figures are missing.
"""

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from threading import Event, Thread

from aggregator.telemetry.lines import Point, Value
from aggregator.telemetry.schema import BATTERY, DISCARDED
from wire_contract.codec import decode
from wire_contract.errors import DecodeError, LinkError, TopicError
from wire_contract.link.protocol import Connected, Delivery, Disconnected, Link
from wire_contract.message_fields import OTHER
from wire_contract.messages import Presence
from wire_contract.program.repeat_filter import RepeatFilter
from wire_contract.topics import parse, shard_of, topic_filter

log = logging.getLogger(__name__)

SYS_SECONDS = 10.0
"""Mosquitto's default interval (sys_interval)."""
RECEIVE_SECONDS_MAX = 0.5
"""A stop request is noticed at most this late."""
DELIVERIES_MAX = 256
"""The link's Receive Maximum, so one turn takes all that has arrived."""
CLOSE_SECONDS_MAX = 2.0
"""Chosen: several turns of the thread; statistics are not worth a longer stop."""
SESSION_SECONDS = 0
"""MQTT 5: the session ends with its connection."""

SYS_FIELDS: Mapping[str, str] = {
    "$SYS/broker/publish/messages/dropped": "dropped_messages_total",
    "$SYS/broker/store/messages/bytes": "store_bytes",
    "$SYS/broker/store/messages/count": "store_messages",
    "$SYS/broker/retained messages/count": "retained_messages",
    "$SYS/broker/clients/connected": "clients_connected",
    "$SYS/broker/clients/disconnected": "clients_disconnected",
    "$SYS/broker/clients/total": "clients_total",
    "$SYS/broker/subscriptions/count": "subscriptions",
    "$SYS/broker/messages/received": "received_messages_total",
    "$SYS/broker/messages/sent": "sent_messages_total",
    "$SYS/broker/bytes/received": "received_bytes_total",
    "$SYS/broker/bytes/sent": "sent_bytes_total",
    "$SYS/broker/heap/current": "heap_bytes",
    "$SYS/broker/uptime": "uptime_seconds",
}
"""mosquitto's topics."""
_DIGITS_MAX = 18
"""Every number of 18 digits fits a signed 64-bit integer; not every one of 19."""


def filters(*, root: str, task: str) -> tuple[str, ...]:
    """Topic filters of this connection."""
    return (topic_filter("presence", root=root, task=task), *SYS_FIELDS)


class Sightings:
    """Converts messages to points. No I/O."""

    def __init__(self, *, root: str, shard: int, shards: int) -> None:
        self._root = root
        self._shard, self._shards = shard, shards
        self._broker: dict[str, Value] = {}

    def take(self, delivery: Delivery) -> Point | None:
        """The point for a presence message; $SYS values are kept until `broker` is called."""
        field = SYS_FIELDS.get(delivery.topic)
        if field is not None:
            number = delivery.payload.partition(b" ")[0]  # the uptime is "5 seconds"
            if number.isdigit() and len(number) <= _DIGITS_MAX:
                self._broker[field] = int(number)
            return None
        try:
            topic = parse(delivery.topic, root=self._root)
            if topic.kind != "presence" or shard_of(topic.device, self._shards) != self._shard:
                return None
            presence = decode(delivery.payload, Presence)
        except (TopicError, DecodeError):
            return None
        if presence.status == OTHER:  # a status of a newer release that the schema does not know
            return None
        fields: dict[str, Value] = {
            "device": topic.device,
            "firmware": presence.firmware,
            "role": presence.capability.get("role", ""),
            "retained": delivery.retained,
        }
        with suppress(KeyError, ValueError):
            fields[BATTERY] = float(presence.capability[BATTERY])
        if presence.capability.get(DISCARDED):
            fields[DISCARDED] = presence.capability[DISCARDED]
        return Point("fedkd_presence", (presence.status,), fields)

    def broker(self) -> Point | None:
        """The $SYS values since the last call."""
        said, self._broker = self._broker, {}
        return Point("fedkd_broker", (), said) if said else None


class BrokerWatch:
    """A thread that receives until it is closed."""

    def __init__(
        self,
        link: Link,
        sightings: Sightings,
        record: Callable[[Sequence[Point]], None],
        *,
        filters: Sequence[str],
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        """Args:
        link: made without subscriptions (those which it is made with must not be refused), and is closed here.
        """
        self._link = link
        self._sightings = sightings
        self._record = record
        self._filters = filters
        self._monotonic = monotonic
        self._broker_at = monotonic() + SYS_SECONDS
        self._told = RepeatFilter(monotonic)
        self._stop = Event()
        self._thread = Thread(target=self._run, name="telemetry broker watch", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Ends the thread, which closes the link."""
        self._stop.set()
        self._thread.join(CLOSE_SECONDS_MAX)

    def turn(self) -> None:
        """Takes the messages that have arrived.

        Raises:
            LinkError: the link has died.
        """
        points: list[Point] = []
        for event in self._link.receive(count=DELIVERIES_MAX, timeout_seconds=RECEIVE_SECONDS_MAX):
            if isinstance(event, Delivery):
                point = self._sightings.take(event)
                if point is not None:
                    points.append(point)
                self._link.ack(event)
            elif isinstance(event, Connected):
                self._told.resolve()
            elif isinstance(event, Disconnected) and self._told.passes(event.reason):
                log.warning("telemetry has no presence and $SYS: %s", event.reason)
        now = self._monotonic()
        if now >= self._broker_at:
            self._broker_at = now + SYS_SECONDS
            broker = self._sightings.broker()
            points += [broker] if broker is not None else []
        if points:
            self._record(points)

    def _run(self) -> None:
        try:
            for topic_filter in self._filters:
                self._link.subscribe(topic_filter)
            while not self._stop.is_set():
                self.turn()
            for topic_filter in self._filters:  # nothing must be queued if the session outlives its connection
                self._link.unsubscribe(topic_filter)
        except LinkError as error:
            log.warning("telemetry has no presence and $SYS: %s", error)
        finally:
            self._link.close()
