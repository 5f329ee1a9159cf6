"""What only a network can do: TLS, WebSockets, names that do not resolve, lines that fall silent."""

import contextlib
import socket
import ssl
import subprocess
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.broker.conftest import AmqttPorts
from tests.broker.link.conftest import MakeLink, is_disconnected
from tests.broker.mosquitto import Mosquitto, program
from tests.broker.relay import Relay
from tests.conftest import MakeMosquitto
from tests.wire_contract.link.link_contract import PATIENCE_SECONDS, UP, connection, gather, messages, publish
from wire_contract.link import network_thread
from wire_contract.link.mqtt import MqttSettings, Tls
from wire_contract.link.mqtt_settings import host_headers
from wire_contract.link.network_thread import TICK_SECONDS
from wire_contract.transport import dialing


@pytest.fixture
def certificates(tmp_path: Path) -> Path:
    """An authority, and a certificate for 127.0.0.1 that it signed; files ca.pem, broker.pem, broker.key."""

    def openssl(*arguments: str) -> None:
        subprocess.run([program("openssl"), *arguments], cwd=tmp_path, check=True, capture_output=True)

    key = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
    openssl("req", "-x509", *key, "-keyout", "ca.key", "-out", "ca.pem", "-subj", "/CN=test authority", "-days", "2")
    openssl("req", *key, "-keyout", "broker.key", "-out", "broker.csr", "-subj", "/CN=broker")
    (tmp_path / "names").write_text("subjectAltName=IP:127.0.0.1\n")
    signing = ["-CA", "ca.pem", "-CAkey", "ca.key", "-CAcreateserial", "-extfile", "names", "-days", "2"]
    openssl("x509", "-req", "-in", "broker.csr", "-out", "broker.pem", *signing)
    return tmp_path


def test_tls_with_an_authority_of_ones_own(
    make_mosquitto: MakeMosquitto, make_link: MakeLink, certificates: Path
) -> None:
    files = {"cafile": "ca.pem", "certfile": "broker.pem", "keyfile": "broker.key"}
    broker = make_mosquitto(
        lines=[*(f"{name} {certificates / file}" for name, file in files.items()), "require_certificate true"]
    )
    broker.start()
    tls = Tls(
        ca_file=certificates / "ca.pem",
        certificate_file=certificates / "broker.pem",
        key_file=certificates / "broker.key",
    )
    link = make_link(broker.port, tls=tls, subscriptions=(UP + "+",))
    connection(link)
    large = bytes(range(256)) * 2_000  # many TLS records
    for number in range(5):
        link.publish(f"{UP}{number}", large)
    assert [delivery.payload == large for delivery in messages(link, 5)] == [True] * 5
    stranger = make_link(broker.port, client_id="stranger", tls=Tls())
    said = "the certificate of the broker is signed by an unknown authority; give the authority's certificate with"
    assert said in str(gather(stranger, is_disconnected))


def test_two_messages_in_one_tls_record_both_come(
    scripted_broker: Callable[..., int], make_link: MakeLink, certificates: Path
) -> None:
    """TLS has read the second one from the socket, so that no selector tells of it."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificates / "broker.pem", certificates / "broker.key")

    def send_both(peer: ssl.SSLSocket, _: bytes) -> None:
        peer.sendall(b"\x20\x02\x00\x00" + b"\x30\x04\x00\x01t1" + b"\x30\x04\x00\x01t2")
        peer.recv(4096)

    port = scripted_broker(send_both, context)
    link = make_link(port, protocol="3.1.1", keepalive_seconds=600, tls=Tls(ca_file=certificates / "ca.pem"))
    assert [delivery.payload for delivery in messages(link, 2)] == [b"1", b"2"]


def test_websockets(amqtt_ports: AmqttPorts, make_link: MakeLink) -> None:
    login = {"username": "device", "password": "secret", "protocol": "3.1.1"}
    link = make_link(amqtt_ports.websockets, transport="websockets", subscriptions=(UP + "+",), **login)
    publish(link, *range(30))
    assert sorted(int(delivery.payload) for delivery in messages(link, 30)) == list(range(30))


def test_a_name_with_many_dead_addresses_leads_to_the_one_that_lives(
    mosquitto: Mosquitto, make_link: MakeLink, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each alone takes ten seconds, and twelve of them would be taken for a dead thread."""
    with contextlib.ExitStack() as stack:
        found = []
        for _ in range(12):
            full = stack.enter_context(socket.create_server(("127.0.0.1", 0), backlog=0))
            for _ in range(2):
                filling = stack.enter_context(socket.socket())
                filling.setblocking(False)
                filling.connect_ex(full.getsockname())
            found.append(full.getsockname())
        found.append(("127.0.0.1", mosquitto.port))
        addresses = [(socket.AF_INET, socket.SOCK_STREAM, 6, "", address) for address in found]
        monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: addresses)
        assert not is_disconnected(connection(make_link(1883, host="many.example")))


def test_a_look_up_that_hangs_is_no_dead_thread(make_link: MakeLink, monkeypatch: pytest.MonkeyPatch) -> None:
    answer = threading.Event()
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: answer.wait(PATIENCE_SECONDS) or [])
    monkeypatch.setattr(dialing, "LOOKUP_SECONDS_MAX", 0.0)
    link = make_link(1883, host="slow.example")
    moved = link._state._moved_at
    assert "the name slow.example could not be looked up" in str(gather(link, is_disconnected))
    assert link._state._moved_at > moved
    answer.set()


@pytest.mark.parametrize(
    ("host", "family", "shown"), [("::1", socket.AF_INET6, "[::1]"), ("127.0.0.1", socket.AF_INET, "127.0.0.1")]
)
def test_a_websocket_names_its_host_as_http_wants_it(
    make_link: MakeLink, host: str, family: socket.AddressFamily, shown: str
) -> None:
    with socket.create_server((host, 0), family=family) as listener:
        port = listener.getsockname()[1]
        make_link(port, host=host, transport="websockets", protocol="3.1.1", close_seconds_max=0)
        listener.settimeout(PATIENCE_SECONDS)
        peer, _ = listener.accept()
        with peer:
            lines = peer.recv(4096).decode().split("\r\n")
    assert f"Host: {shown}:{port}" in lines
    assert f"Origin: http://{shown}:{port}" in lines


def test_a_zone_is_for_the_socket_and_not_for_the_header() -> None:
    settings = MqttSettings.from_url("ws://[fe80::1%25eth0]:80/mqtt", client_id="d")
    assert settings.host == "fe80::1%eth0"
    assert settings.address == "[fe80::1%eth0]:80"
    assert host_headers(settings)({"Upgrade": "websocket"}) == {
        "Upgrade": "websocket",
        "Host": "[fe80::1]",
        "Origin": "http://[fe80::1]",
    }


def test_a_silent_line_is_not_silent_for_longer_than_the_keepalive(mosquitto: Mosquitto, make_link: MakeLink) -> None:
    """A proxy that ends connections after three seconds of silence never has to."""
    line = Relay(mosquitto.port, idle_seconds_max=3.0)
    link = make_link(line.port, keepalive_seconds=1)
    connection(link)
    pings = mosquitto.log.count("Received PINGREQ from device")
    gather(link, lambda _: mosquitto.log.count("Received PINGREQ from device") >= pings + 5)
    assert mosquitto.log.count("New client connected") == 1
    line.close()
    assert MqttSettings(host="h", client_id="d").keepalive_seconds + TICK_SECONDS < 30


def test_a_websocket_handshake_that_trickles_is_given_up(
    scripted_broker: Callable[..., int], make_link: MakeLink, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Byte by byte it could go on for longer than a link's thread may stand still."""
    monkeypatch.setattr(network_thread, "ANSWER_SECONDS_MAX", 0.2)

    def trickle(peer: socket.socket, _: bytes) -> None:
        while True:
            peer.sendall(b"x")
            time.sleep(0.01)

    link = make_link(scripted_broker(trickle), transport="websockets", protocol="3.1.1")
    assert "cannot be reached: the handshake takes too long" in str(gather(link, is_disconnected))
