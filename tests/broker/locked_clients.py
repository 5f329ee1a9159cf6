"""Clients of a mosquitto with the production file, and what tests ask of them."""

import socket
import ssl
from collections.abc import Iterator, Sequence

import pytest

from tests.broker.locked import LockedBroker, MakeLink
from tests.broker.relay import Relay
from tests.broker.rights import NAMES, TASK
from tests.wire_contract.link.link_contract import PATIENCE_SECONDS, deliveries, gather
from wire_contract.link.mqtt import MqttLink
from wire_contract.link.mqtt_settings import Tls
from wire_contract.link.protocol import Connected, Delivery, Disconnected, Event
from wire_contract.topics import DEFAULT_ROOT, Kind, build


def topic(kind: Kind, **parts: str | int) -> str:
    return build(kind, root=DEFAULT_ROOT, task=TASK, **parts)


MODEL = topic("model")


def until(link: MqttLink, payload: bytes) -> list[Delivery]:
    """What comes up to this payload, and it."""
    return deliveries(gather(link, lambda events: any(one.payload == payload for one in deliveries(events))))


def refused(link: MqttLink) -> str:
    """Why there is no connection; fails if there is one."""
    events = gather(link, lambda events: any(isinstance(event, Connected | Disconnected) for event in events))
    assert not any(isinstance(event, Connected) for event in events), "it was let in"
    return next(event.reason for event in events if isinstance(event, Disconnected))


def alert(locked: LockedBroker, tls: Tls) -> str:
    """What the broker says to a certificate. With TLS 1.3 it comes after the handshake; paho does not pass it on."""
    with (
        socket.create_connection(("127.0.0.1", locked.port)) as peer,
        pytest.raises(ssl.SSLError) as caught,
        tls.context().wrap_socket(peer, server_hostname="127.0.0.1") as connection,
    ):
        connection.recv(1)
    return str(caught.value)


def let_in(link: MqttLink) -> Sequence[Event]:
    return gather(link, lambda events: any(isinstance(event, Connected) for event in events))


def send(link: MqttLink, topic: str, payload: bytes, *, retain: bool = False) -> None:
    """Until the broker has answered, whatever it answers."""
    link.publish(topic, payload, retain=retain).wait(PATIENCE_SECONDS)


@pytest.fixture
def line(locked: LockedBroker) -> Iterator[Relay]:
    """To the broker; `close` ends a connection without a goodbye, and it does not come back."""
    relay = Relay(locked.port)
    yield relay
    relay.close()


@pytest.fixture
def everybody(locked: LockedBroker, link: MakeLink, request: pytest.FixtureRequest) -> dict[str, MqttLink]:
    """All names, each subscribed to all there is, and all subscriptions known to the broker."""
    protocol = getattr(request, "param", "5")
    links = {name: link(locked.settings(name, protocol=protocol, subscriptions=("#", "$SYS/#"))) for name in NAMES}
    send(links["aggregator"], MODEL, b"begin", retain=True)
    for one in links.values():
        until(one, b"begin")
    return links
