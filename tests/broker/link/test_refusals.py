"""What a broker refuses, and what a link says about it."""

import socket
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.broker.conftest import AmqttPorts
from tests.broker.link.conftest import MakeLink, is_disconnected, refusal
from tests.broker.mosquitto import Mosquitto
from tests.conftest import MakeMosquitto
from tests.wire_contract.link.link_contract import PATIENCE_SECONDS, UP, connection, gather
from wire_contract.errors import PayloadTooLarge


@pytest.mark.parametrize("protocol", ["5", "3.1.1", "auto"])
def test_a_wrong_password_is_a_refusal(make_mosquitto: MakeMosquitto, make_link: MakeLink, protocol: str) -> None:
    broker = make_mosquitto(users={"device": "secret"})
    broker.start()
    assert "refused the connection: Not authorized" in refusal(
        make_link(broker.port, protocol=protocol, username="device", password="wrong")
    )
    connection(make_link(broker.port, protocol=protocol, username="device", password="secret"))


def test_amqtt_refuses_a_wrong_password(amqtt_ports: AmqttPorts, make_link: MakeLink) -> None:
    assert "refused the connection" in refusal(
        make_link(amqtt_ports.mqtt, protocol="3.1.1", username="device", password="wrong")
    )


def test_a_refused_subscription_is_a_refusal(scripted_broker: Callable[..., int], make_link: MakeLink) -> None:
    def deny(peer: socket.socket, _: bytes) -> None:
        peer.sendall(b"\x20\x02\x00\x00")
        subscribe = peer.recv(4096)
        peer.sendall(b"\x90\x03" + subscribe[2:4] + b"\x80")
        peer.recv(4096)

    link = make_link(scripted_broker(deny), protocol="3.1.1", subscriptions=("secret/+",))
    assert "refused the subscription to secret/+" in refusal(link)


def test_a_message_that_the_access_list_forbids_is_reported(
    make_mosquitto: MakeMosquitto, make_link: MakeLink, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    access = tmp_path / "access"
    access.write_text("topic readwrite mine/#\n")
    broker = make_mosquitto(lines=[f"acl_file {access}"])
    broker.start()
    link = make_link(broker.port, protocol="5")
    assert link.publish("mine/1", b"").wait(PATIENCE_SECONDS)
    for _ in range(3):
        assert not link.publish("yours/1", b"").wait(PATIENCE_SECONDS)
    assert [record.getMessage() for record in caplog.records if record.levelname == "WARNING"] == [
        "yours/1: the broker refused the message: Not authorized"
    ]


def test_it_keeps_the_limits_that_a_broker_of_mqtt_5_names(
    make_mosquitto: MakeMosquitto, make_link: MakeLink, caplog: pytest.LogCaptureFixture
) -> None:
    broker = make_mosquitto(lines=["max_packet_size 1000", "max_inflight_messages 3"])
    link = make_link(broker.port, protocol="5")
    too_large = link.publish(f"{UP}0", bytes(2_000))  # nobody knows the limit yet
    small = link.publish(f"{UP}1", bytes(900))
    broker.start()
    connection(link)
    assert small.wait(PATIENCE_SECONDS)
    assert not too_large.wait(PATIENCE_SECONDS)
    assert "over the broker's limit of 1000" in caplog.text
    with pytest.raises(PayloadTooLarge, match="limit of 1000"):
        link.publish(f"{UP}1", bytes(1_000))
    assert link._state.in_flight_max == 3


def test_two_programs_with_one_client_id_are_told(scripted_broker: Callable[..., int], make_link: MakeLink) -> None:
    """Mosquitto 2.0.11 says nothing and hangs up; others send what MQTT 5 has for it."""

    def take_over(peer: socket.socket, _: bytes) -> None:
        peer.sendall(b"\x20\x03\x00\x00\x00" + b"\xe0\x01\x8e")
        peer.recv(4096)

    link = make_link(scripted_broker(take_over), protocol="5")
    assert "another program connected with the same client id, user or certificate (client id device)" in str(
        gather(link, is_disconnected)
    )


@pytest.mark.parametrize("protocol", ["3.1.1", "5"])
def test_two_programs_with_one_client_id_find_out_even_if_the_broker_only_hangs_up(
    mosquitto: Mosquitto, make_link: MakeLink, protocol: str
) -> None:
    """As mosquitto 2.0.11 does in both versions."""
    pair = [make_link(mosquitto.port, protocol=protocol) for _ in range(2)]

    gather(pair[0], lambda events: "another program uses the same client id" in str(events))
    assert all(link._thread.is_alive() for link in pair)
