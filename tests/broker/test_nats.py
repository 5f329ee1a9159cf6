"""nats-server with the file of broker_config/ and the users that enrolment writes: what mosquitto refuses, it refuses.

It speaks MQTT 3.1.1 only, says no to a subscription, and takes a forbidden publication as if it were allowed.
"""

from collections.abc import Iterator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest

from tests.broker.locked import Bench, MakeLink, bench, link, now
from tests.broker.locked_clients import let_in, refused, send, until
from tests.broker.nats import Nats
from tests.broker.relay import Relay
from tests.broker.rights import NAMES, TASK, may_read, may_write, places
from tests.wire_contract.link.link_contract import deliveries, gather
from wire_contract.link.mqtt_settings import Tls
from wire_contract.link.protocol import Disconnected, Will
from wire_contract.topics import DEFAULT_ROOT, build

__all__ = ["bench", "link"]

pytestmark = [
    pytest.mark.broker,
    # When a TLS handshake fails, paho leaves the socket to the garbage collector.
    pytest.mark.filterwarnings("ignore:.*socket:pytest.PytestUnraisableExceptionWarning"),
    pytest.mark.filterwarnings("ignore:.*SSLSocket:pytest.PytestUnraisableExceptionWarning"),
]

MODEL = build("model", root=DEFAULT_ROOT, task=TASK)
UPDATE = build("update", root=DEFAULT_ROOT, task=TASK, shard=0, device="watch-1")


@pytest.fixture
def nats(tmp_path: Path, bench: Bench) -> Iterator[Nats]:
    """A running one."""
    server = Nats(tmp_path / "nats", bench)
    server.start()
    yield server
    server.stop()


def test_every_name_writes_and_reads_what_the_contract_says_and_nothing_else(nats: Nats, link: MakeLink) -> None:
    everybody = {name: link(nats.settings(name, subscriptions=(MODEL,))) for name in NAMES}
    for one in everybody.values():
        let_in(one)
        for place in places():
            if place.topic != MODEL:
                one.subscribe(place.topic)
        one.subscribe("#")
        one.subscribe("$MQTT/sub/#")
        # A connection's packets are worked off in their order: its subscriptions are known when this is answered.
        send(one, "fedkd/v1/nobody", b"")
    send(everybody["aggregator"], MODEL, b"begin", retain=True)
    for one in everybody.values():
        until(one, b"begin")
    tried = [(writer, place) for writer in NAMES for place in places()]
    for writer, place in tried:
        send(everybody[writer], place.topic, f"{writer} {place.topic}".encode())
    for reader in NAMES:
        allowed = {f"{w} {place.topic}" for w, place in tried if may_write(w, place) and may_read(reader, place)}
        send(everybody["aggregator"], MODEL, b"end")
        events = gather(
            everybody[reader],
            lambda events, allowed=allowed: (  # type: ignore[misc]
                {b"end"} | {one.encode() for one in allowed} <= {one.payload for one in deliveries(events)}
            ),
        )
        got = {one.payload.decode() for one in deliveries(events)}
        assert got - {"begin", "end"} == allowed, reader


def test_a_device_does_all_that_it_needs(nats: Nats, link: MakeLink) -> None:
    presence, receipt = (
        build(kind, root=DEFAULT_ROOT, task=TASK, device="watch-1") for kind in ("presence", "receipt")
    )
    aggregator = link(nats.settings("aggregator", subscriptions=(UPDATE, presence)))
    send(aggregator, MODEL, b"model", retain=True)
    line = Relay(nats.port)
    device = link(
        nats.settings("watch-1", port=line.port, subscriptions=(MODEL, receipt), will=Will(presence, b"offline"))
    )
    assert until(device, b"model")[0].retained
    send(device, presence, b"online", retain=True)
    until(aggregator, b"online")
    send(device, UPDATE, b"update")
    until(aggregator, b"update")
    send(aggregator, receipt, b"receipt")
    until(device, b"receipt")
    line.close()
    until(aggregator, b"offline")


def test_a_name_with_a_dot_has_its_own_topics(nats: Nats, link: MakeLink) -> None:
    nats.bench.enrol("watch.1")
    nats.reload()
    topic = build("update", root=DEFAULT_ROOT, task=TASK, shard=0, device="watch.1")
    aggregator = link(nats.settings("aggregator", subscriptions=(topic,)))
    send(aggregator, MODEL, b"the subscription is known")
    device = link(nats.settings("watch.1", client_id="without-a-dot"))
    send(device, topic, b"update")
    until(aggregator, b"update")


def test_a_will_cannot_forge_the_presence_of_another(nats: Nats, link: MakeLink) -> None:
    presence = {name: build("presence", root=DEFAULT_ROOT, task=TASK, device=name) for name in ("watch-1", "watch-2")}
    aggregator = link(nats.settings("aggregator", subscriptions=tuple(presence.values())))
    send(aggregator, MODEL, b"the subscription is known")
    for will in (Will(presence["watch-2"], b"forged"), Will(presence["watch-1"], b"own will")):
        line = Relay(nats.port)
        device = link(nats.settings("watch-1", port=line.port, will=will))
        let_in(device)
        line.close()
        gather(device, lambda events: any(isinstance(event, Disconnected) for event in events))
        device.close()
    assert [one.payload for one in until(aggregator, b"own will")] == [b"own will"]


def test_strangers_do_not_come_in(nats: Nats, link: MakeLink, tmp_path: Path) -> None:
    authorities = Tls(ca_file=nats.bench.folder / "broker" / "ca.pem")
    nats.bench.enrol("sleeper", at=lambda: now() - timedelta(days=3), days=1)
    nats.reload()
    foreign = replace(Bench(tmp_path / "foreign").tls("aggregator"), ca_file=authorities.ca_file)
    for tls in (authorities, nats.bench.tls("sleeper"), foreign, None):
        refused(link(nats.settings("watch-1", tls=tls)))
    refused(link(nats.settings("watch-1", tls=authorities, username="CN=aggregator", password="any")))
    let_in(link(nats.settings("watch-1")))


def test_a_revoked_name_is_thrown_out_by_a_reload(nats: Nats, link: MakeLink) -> None:
    standing = link(nats.settings("watch-1"))
    let_in(standing)
    nats.bench.revoke("watch-1")
    nats.reload()
    gather(standing, lambda events: any(isinstance(event, Disconnected) and event.refused for event in events))
    let_in(link(nats.settings("watch-2")))


def test_a_client_id_takes_over_a_session_but_not_its_messages(nats: Nats, link: MakeLink) -> None:
    """A limit of NATS: its sessions belong to client ids, whoever comes with them. It does not leak what they hold."""
    receipt = build("receipt", root=DEFAULT_ROOT, task=TASK, device="watch-1")
    victim = link(nats.settings("watch-1", subscriptions=(receipt,)))
    send(victim, UPDATE, b"the subscription is known")
    victim.close()
    aggregator = link(nats.settings("aggregator"))
    send(aggregator, receipt, b"private")
    robber = link(nats.settings("watch-2", client_id="fedkd:watch-1", subscriptions=(MODEL,)))
    for end in (b"end", b"another end"):
        send(aggregator, MODEL, end, retain=True)
        assert b"private" not in {one.payload for one in until(robber, end)}
        send(aggregator, receipt, b"private")
