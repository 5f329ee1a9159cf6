"""The contract over real brokers, and what only a network can do."""

import contextlib
import re
import socket
import ssl
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.broker.conftest import AmqttPorts
from tests.broker.mosquitto import Mosquitto, free_port, program
from tests.broker.relay import Relay
from tests.conftest import MakeMosquitto
from tests.wire_contract.link_contract import (
    PATIENCE_SECONDS,
    UP,
    LinkContract,
    World,
    connection,
    deliveries,
    gather,
    listening,
    messages,
    publish,
)
from wire_contract import dialing, link_thread, mqtt_link
from wire_contract.errors import LinkError, PayloadTooLarge
from wire_contract.link import Connected, Disconnected, Event, Will
from wire_contract.link_thread import TICK_SECONDS
from wire_contract.mqtt_link import STALLED_SECONDS, MqttLink, MqttSettings, Tls

MakeLink = Callable[..., MqttLink]


@pytest.fixture
def make_link() -> Iterator[MakeLink]:
    """Links that come back at once, and that are closed with the test."""
    made: list[MqttLink] = []

    def make(port: int, *, client_id: str = "device", uniform: Any = None, clock: Any = None, **more: Any) -> MqttLink:
        settings = MqttSettings(
            **{"host": "127.0.0.1", "port": port, "client_id": client_id, "reconnect_delay_max_seconds": 0.05, **more}
        )
        sources = {"uniform": uniform, "clock": clock}
        made.append(MqttLink(settings, **{name: source for name, source in sources.items() if source is not None}))
        return made[-1]

    yield make
    for link in made:
        link.close()


class MqttWorld(World):
    """Each link has its own line to the broker, so that it alone can be cut."""

    bounds_unacknowledged = False

    def __init__(self, broker: Mosquitto, make_link: MakeLink, protocol: str) -> None:
        self.broker = broker
        self._make_link = make_link
        self._protocol = protocol
        self._lines: dict[str, Relay] = {}

    def link(self, client_id: str, *subscriptions: str, will: Will | None = None, **settings: int) -> MqttLink:
        line = self._lines.setdefault(client_id, Relay(self.broker.port))
        return self._make_link(
            line.port,
            client_id=client_id,
            subscriptions=subscriptions,
            will=will,
            protocol=self._protocol,
            **settings,
        )

    def cut(self, client_id: str) -> None:
        self._lines[client_id].cut()

    def stop(self, *, lose_state: bool) -> None:
        if lose_state:
            self.broker.kill()
            self.broker.forget()
        else:
            self.broker.stop()

    def start(self) -> None:
        self.broker.start()

    def close(self) -> None:
        for line in self._lines.values():
            line.close()


@pytest.fixture(params=["5", "3.1.1", "auto"])
def world(request: pytest.FixtureRequest, mosquitto: Mosquitto, make_link: MakeLink) -> Iterator[MqttWorld]:
    world = MqttWorld(mosquitto, make_link, request.param)
    yield world
    world.close()


class TestMqttLink(LinkContract):
    pass


def times(kind: type[Event], events: list[Event]) -> int:
    """How many of that kind; one look may find several."""
    return sum(isinstance(event, kind) for event in events)


def is_disconnected(events: list[Event]) -> bool:
    return any(isinstance(event, Disconnected) for event in events)


def refusal(link: MqttLink) -> str:
    events = gather(link, lambda events: any(isinstance(event, Disconnected) and event.refused for event in events))
    return next(event.reason for event in events if isinstance(event, Disconnected) and event.refused)


@pytest.mark.parametrize(("protocol", "shown"), [("5", "p5"), ("3.1.1", "p2"), ("auto", "p5")])
def test_it_speaks_the_version_it_is_told(
    mosquitto: Mosquitto, make_link: MakeLink, monkeypatch: pytest.MonkeyPatch, protocol: str, shown: str
) -> None:
    monkeypatch.setattr(link_thread, "PROBE_SECONDS_MAX", PATIENCE_SECONDS)  # a busy broker is not an old one
    connection(make_link(mosquitto.port, protocol=protocol))
    assert f"as device ({shown}, c0," in mosquitto.log  # c0: no clean session, from the first time on


def test_it_waits_for_a_broker_that_is_not_there_yet(make_mosquitto: MakeMosquitto, make_link: MakeLink) -> None:
    broker = make_mosquitto()
    link = make_link(broker.port)
    sent = link.publish(f"{UP}1", b"1")
    (event,) = gather(link, is_disconnected)
    assert event == Disconnected(f"broker 127.0.0.1:{broker.port}: cannot be reached: Connection refused")
    broker.start()
    connection(link)
    assert sent.wait(PATIENCE_SECONDS)


@pytest.mark.parametrize("protocol", ["5", "3.1.1", "auto"])
def test_a_wrong_password_is_a_refusal(make_mosquitto: MakeMosquitto, make_link: MakeLink, protocol: str) -> None:
    broker = make_mosquitto(users={"device": "secret"})
    broker.start()
    assert "refused the connection: Not authorized" in refusal(
        make_link(broker.port, protocol=protocol, username="device", password="wrong")
    )
    connection(make_link(broker.port, protocol=protocol, username="device", password="secret"))


def test_auto_finds_that_amqtt_speaks_only_3_1_1(amqtt_ports: AmqttPorts, make_link: MakeLink) -> None:
    link = make_link(amqtt_ports.mqtt, username="device", password="secret", subscriptions=(UP + "+",))
    assert not is_disconnected(connection(link)), "the detour over MQTT 5 is nobody's business"
    publish(link, 1, 2)
    assert [delivery.payload for delivery in messages(link, 2)] == [b"1", b"2"]


def test_auto_does_not_hurry_the_older_version(
    mosquitto: Mosquitto, make_link: MakeLink, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A slow broker gets no answer to MQTT 5 out in time, and must be let in with what comes after it."""
    monkeypatch.setattr(link_thread, "PROBE_SECONDS_MAX", -1.0)
    assert not is_disconnected(connection(make_link(mosquitto.port)))
    assert "as device (p2, c0," in mosquitto.log


def test_amqtt_refuses_a_wrong_password(amqtt_ports: AmqttPorts, make_link: MakeLink) -> None:
    assert "refused the connection" in refusal(
        make_link(amqtt_ports.mqtt, protocol="3.1.1", username="device", password="wrong")
    )


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


def test_a_refused_subscription_is_a_refusal(scripted_broker: Callable[..., int], make_link: MakeLink) -> None:
    def deny(peer: socket.socket, _: bytes) -> None:
        peer.sendall(b"\x20\x02\x00\x00")
        subscribe = peer.recv(4096)
        peer.sendall(b"\x90\x03" + subscribe[2:4] + b"\x80")
        peer.recv(4096)

    link = make_link(scripted_broker(deny), protocol="3.1.1", subscriptions=("secret/+",))
    assert "refused the subscription to secret/+" in refusal(link)


def test_it_subscribes_even_when_the_broker_claims_to_know_it(
    scripted_broker: Callable[..., int], make_link: MakeLink
) -> None:
    """A broker that was restored from an older state does."""
    subscribed: list[bytes] = []

    def claim(peer: socket.socket, _: bytes) -> None:
        peer.sendall(b"\x20\x02\x01\x00")
        subscribed.append(peer.recv(4096))

    link = make_link(scripted_broker(claim), protocol="3.1.1", subscriptions=("mine/+",))
    events = gather(link, lambda events: times(Disconnected, events) >= 2)
    assert all(event.session_present for event in events if isinstance(event, Connected))
    assert [packet[0] for packet in subscribed[:2]] == [0x82, 0x82]


def test_it_unsubscribes_again_when_it_was_not_answered(
    scripted_broker: Callable[..., int], make_link: MakeLink
) -> None:
    """The session may have the subscription still."""
    unsubscribes: list[int] = []
    """Of each connection."""

    def hang_up_on_an_unsubscribe(peer: socket.socket, _: bytes) -> None:
        unsubscribes.append(0)
        peer.sendall(b"\x20\x02\x01\x00")
        while head := peer.recv(2):
            rest = peer.recv(head[1])
            match head[0]:
                case 0xA2:  # UNSUBSCRIBE
                    unsubscribes[-1] += 1
                    if len(unsubscribes) == 2:
                        peer.sendall(b"\xb0\x02" + rest[:2])
                    return
                case 0x32:  # PUBLISH
                    peer.sendall(b"\x40\x02" + rest[3:5])

    link = make_link(scripted_broker(hang_up_on_an_unsubscribe), protocol="3.1.1", subscriptions=("mine/+",))
    connection(link)
    link.unsubscribe("earlier/+")
    for _ in range(2):
        connection(link)
    assert link.publish("t", b"").wait(PATIENCE_SECONDS)
    assert unsubscribes == [1, 1, 0]


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
    assert link._desk.in_flight_max == 3


def test_no_more_is_in_flight_than_the_broker_takes(scripted_broker: Callable[..., int], make_link: MakeLink) -> None:
    """Nor after a reconnect, when paho alone would send all that waits."""
    received: list[bytes] = []

    def never_acknowledge(peer: socket.socket, _: bytes) -> None:
        peer.sendall(b"\x20\x06\x00\x00\x03\x21\x00\x02")  # CONNACK, Receive Maximum 2
        stream = b""
        try:
            while data := peer.recv(4096):
                stream += data
                if stream.count(b"message") >= 2:
                    peer.settimeout(0.3)  # for what must not come
        except TimeoutError:
            received.append(stream)

    link = make_link(scripted_broker(never_acknowledge), protocol="5", close_seconds_max=0)
    for number in range(5):
        link.publish("t", b"message %d" % number)
    gather(link, lambda events: times(Disconnected, events) >= 2)
    assert [stream.count(b"message") for stream in received[:2]] == [2, 2]
    assert [received[1][0] & 0x08, b"message 0" in received[1]] == [0x08, True]  # DUP


def test_a_user_that_stays_away_loses_the_connection_but_no_message(mosquitto: Mosquitto, make_link: MakeLink) -> None:
    aggregator = make_link(
        mosquitto.port,
        client_id="aggregator",
        subscriptions=(UP + "+",),
        protocol="3.1.1",
        receive_maximum=5,
        keepalive_seconds=1,
    )
    listening(aggregator)
    before = len(mosquitto.log)
    publish(make_link(mosquitto.port), *range(50))
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not re.search("aggregator (has exceeded timeout|closed)", mosquitto.log[before:]):
        assert time.monotonic() < deadline, mosquitto.log
        aggregator.traffic  # noqa: B018 — the user does anything but receive
        time.sleep(0.02)
    assert aggregator.traffic.messages_in < 15, "more is read than fits"
    got = gather(aggregator, lambda events: len({delivery.payload for delivery in deliveries(events)}) == 50)
    assert is_disconnected(got)


def test_an_exception_in_a_callback_is_told_and_the_will_is_done(mosquitto: Mosquitto, make_link: MakeLink) -> None:
    watcher = make_link(mosquitto.port, client_id="watcher", subscriptions=("presence",))
    listening(watcher, "presence")
    link = make_link(mosquitto.port, subscriptions=(UP + "+",), will=Will("presence", b"offline"))
    listening(link)

    def full_memory(event: Event) -> None:
        _ = event
        raise MemoryError("pretended")

    link._desk.events.put = full_memory  # type: ignore[method-assign]
    publish(watcher, 1)
    with pytest.raises(LinkError, match=r"has died: MemoryError\('pretended'\)"):
        messages(link, 1)
    with pytest.raises(LinkError, match="closed"):
        link.publish(f"{UP}1", b"")
    assert messages(watcher, 1)[0].payload == b"offline"


def test_a_thread_that_does_not_move_is_taken_for_dead(mosquitto: Mosquitto, make_link: MakeLink) -> None:
    now = [0.0]

    def clock() -> float:
        return now[0] if threading.current_thread() is threading.main_thread() else 0.0  # the link's own stands still

    link = make_link(mosquitto.port, clock=clock)
    connection(link)
    now[0] = STALLED_SECONDS + 1
    with pytest.raises(LinkError, match="has not moved for 121 s"):
        link.receive(count=1, timeout_seconds=0)


def test_delays_are_drawn_from_ranges_that_grow_to_the_maximum(make_link: MakeLink) -> None:
    ranges: list[tuple[float, float]] = []

    def draw(low: float, high: float) -> float:
        ranges.append((low, high))
        return 0.0

    link = make_link(free_port(), uniform=draw, reconnect_delay_seconds=0.5, reconnect_delay_max_seconds=3)
    deadline = time.monotonic() + PATIENCE_SECONDS
    while len(ranges) < 5:
        link.receive(count=9, timeout_seconds=0.05)
        assert time.monotonic() < deadline
    assert ranges[:5] == [(0, 0.5), (0, 1.0), (0, 2.0), (0, 3), (0, 3)]


def test_the_broker_is_told_how_much_may_be_unacknowledged(mosquitto: Mosquitto, make_link: MakeLink) -> None:
    aggregator = make_link(
        mosquitto.port, client_id="aggregator", subscriptions=(UP + "+",), receive_maximum=5, protocol="5"
    )
    connection(aggregator)
    publish(aggregator, *range(20))  # its own: the broker has seen the subscription first
    assert len(messages(aggregator, 5, ack=False)) == 5
    publish(aggregator, 20)
    assert mosquitto.log.count("Sending PUBLISH to aggregator") == 5


def test_two_programs_with_one_client_id_are_told(scripted_broker: Callable[..., int], make_link: MakeLink) -> None:
    """Mosquitto 2.0.11 says nothing and hangs up; others send what MQTT 5 has for it."""

    def take_over(peer: socket.socket, _: bytes) -> None:
        peer.sendall(b"\x20\x03\x00\x00\x00" + b"\xe0\x01\x8e")
        peer.recv(4096)

    link = make_link(scripted_broker(take_over), protocol="5")
    assert "another program connected with the same client id, user or certificate (client id device)" in str(
        gather(link, is_disconnected)
    )


def test_it_works_past_the_1024th_file(mosquitto: Mosquitto, make_link: MakeLink) -> None:
    """Where select() ends."""
    held = [socket.socket() for _ in range(1_100)]
    try:
        link = make_link(mosquitto.port)
        connection(link)
        publish(link, 1)
    finally:
        for one in held:
            one.close()


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
    moved = link._desk._moved_at
    assert "the name slow.example could not be looked up" in str(gather(link, is_disconnected))
    assert link._desk._moved_at > moved
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
    assert mqtt_link._with_host(settings)({"Upgrade": "websocket"}) == {
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


@pytest.mark.parametrize("protocol", ["3.1.1", "5"])
def test_two_programs_with_one_client_id_find_out_even_if_the_broker_only_hangs_up(
    mosquitto: Mosquitto, make_link: MakeLink, protocol: str
) -> None:
    """As mosquitto 2.0.11 does in both versions."""
    pair = [make_link(mosquitto.port, protocol=protocol) for _ in range(2)]

    gather(pair[0], lambda events: "another program uses the same client id" in str(events))
    assert all(link._thread.is_alive() for link in pair)


def test_a_websocket_handshake_that_trickles_is_given_up(
    scripted_broker: Callable[..., int], make_link: MakeLink, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Byte by byte it could go on for longer than a link's thread may stand still."""
    monkeypatch.setattr(link_thread, "ANSWER_SECONDS_MAX", 0.2)

    def trickle(peer: socket.socket, _: bytes) -> None:
        while True:
            peer.sendall(b"x")
            time.sleep(0.01)

    link = make_link(scripted_broker(trickle), transport="websockets", protocol="3.1.1")
    assert "cannot be reached: the handshake takes too long" in str(gather(link, is_disconnected))
