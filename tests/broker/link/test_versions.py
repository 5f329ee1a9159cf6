"""Which version of MQTT a link speaks, and how `auto` finds it."""

import socket
from collections.abc import Callable

import pytest

from tests.broker.conftest import AmqttPorts
from tests.broker.link.conftest import MakeLink, is_disconnected, times
from tests.broker.mosquitto import Mosquitto
from tests.wire_contract.link.link_contract import PATIENCE_SECONDS, UP, connection, gather, messages, publish
from wire_contract.link import network_thread
from wire_contract.link.protocol import Connected


@pytest.mark.parametrize(("protocol", "shown"), [("5", "p5"), ("3.1.1", "p2"), ("auto", "p5")])
def test_it_speaks_the_version_it_is_told(
    mosquitto: Mosquitto, make_link: MakeLink, monkeypatch: pytest.MonkeyPatch, protocol: str, shown: str
) -> None:
    monkeypatch.setattr(network_thread, "PROBE_SECONDS_MAX", PATIENCE_SECONDS)  # a busy broker is not an old one
    connection(make_link(mosquitto.port, protocol=protocol))
    assert f"as device ({shown}, c0," in mosquitto.log  # c0: no clean session, from the first time on


def test_auto_finds_that_amqtt_speaks_only_3_1_1(amqtt_ports: AmqttPorts, make_link: MakeLink) -> None:
    link = make_link(amqtt_ports.mqtt, username="device", password="secret", subscriptions=(UP + "+",))
    assert not is_disconnected(connection(link)), "the detour over MQTT 5 is nobody's business"
    publish(link, 1, 2)
    assert [delivery.payload for delivery in messages(link, 2)] == [b"1", b"2"]


def test_auto_does_not_hurry_the_older_version(
    mosquitto: Mosquitto, make_link: MakeLink, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A slow broker gets no answer to MQTT 5 out in time, and must be let in with what comes after it."""
    monkeypatch.setattr(network_thread, "PROBE_SECONDS_MAX", -1.0)
    assert not is_disconnected(connection(make_link(mosquitto.port)))
    assert "as device (p2, c0," in mosquitto.log


def test_auto_takes_a_hang_up_for_a_no_and_remembers_what_worked(
    scripted_broker: Callable[..., int], make_link: MakeLink
) -> None:
    versions: list[int] = []

    def hang_up_on_5(peer: socket.socket, connect: bytes) -> None:
        versions.append(connect[connect.index(b"MQTT") + 4])
        if versions[-1] == 4:
            peer.sendall(b"\x20\x02\x00\x00")  # CONNACK; then the line is cut

    link = make_link(scripted_broker(hang_up_on_5))
    gather(link, lambda events: times(Connected, events) >= 3)
    assert versions[:4] == [5, 4, 4, 4]
