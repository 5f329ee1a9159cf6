"""Subscriptions, flow control and reconnecting, as only a real broker or a scripted one shows them."""

import re
import socket
import threading
import time
from collections.abc import Callable

import pytest

from tests.broker.link.conftest import MakeLink, is_disconnected, times
from tests.broker.mosquitto import Mosquitto, free_port
from tests.conftest import MakeMosquitto
from tests.wire_contract.link.link_contract import (
    PATIENCE_SECONDS,
    UP,
    connection,
    deliveries,
    gather,
    listening,
    messages,
    publish,
)
from wire_contract.errors import LinkError
from wire_contract.link.mqtt import STALLED_SECONDS
from wire_contract.link.protocol import Connected, Disconnected, Event, Will


def test_it_waits_for_a_broker_that_is_not_there_yet(make_mosquitto: MakeMosquitto, make_link: MakeLink) -> None:
    broker = make_mosquitto()
    link = make_link(broker.port)
    sent = link.publish(f"{UP}1", b"1")
    (event,) = gather(link, is_disconnected)
    assert event == Disconnected(f"broker 127.0.0.1:{broker.port}: cannot be reached: Connection refused")
    broker.start()
    connection(link)
    assert sent.wait(PATIENCE_SECONDS)


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

    link._state.events.put = full_memory  # type: ignore[method-assign]
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
