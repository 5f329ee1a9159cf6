"""Mosquitto with the production file: real clients do everything that is allowed, and try everything that is not.

mosquitto answers a forbidden publication as if it had taken it (only MQTT 5 is told), and takes every subscription. So
a test shows that nothing arrived where it could be read, and waits for something that does arrive behind it.
"""

import socket
import ssl
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest

from aggregator.enrolment.authority import Authority
from tests.broker.locked import Bench, LockedBroker, MakeLink, bench, link, locked, now
from tests.broker.locked_clients import MODEL, alert, everybody, let_in, line, refused, send, topic, until
from tests.broker.relay import Relay
from tests.broker.rights import NAMES, TASK, may_read, may_write, places
from tests.wire_contract.link.link_contract import PATIENCE_SECONDS, deliveries, gather
from wire_contract.link.mqtt import MqttLink
from wire_contract.link.mqtt_settings import MqttSettings, Tls
from wire_contract.link.protocol import Connected, Disconnected, Will
from wire_contract.topics import DEFAULT_ROOT, topic_filter

__all__ = ["bench", "everybody", "line", "link", "locked"]
pytestmark = [
    pytest.mark.broker,
    # When a TLS handshake fails, paho leaves the socket to the garbage collector.
    pytest.mark.filterwarnings("ignore:.*socket:pytest.PytestUnraisableExceptionWarning"),
    pytest.mark.filterwarnings("ignore:.*SSLSocket:pytest.PytestUnraisableExceptionWarning"),
]


@pytest.mark.parametrize("everybody", ["5", "3.1.1"], indirect=True)
def test_every_name_writes_and_reads_what_the_contract_says_and_nothing_else(everybody: dict[str, MqttLink]) -> None:
    tried = [(writer, place) for writer in NAMES for place in places()]
    publications = [
        everybody[writer].publish(place.topic, f"{writer} {place.topic}".encode()) for writer, place in tried
    ]
    for publication in publications:
        publication.wait(PATIENCE_SECONDS)
    send(everybody["aggregator"], MODEL, b"end")
    for reader in NAMES:
        got = {one.payload.decode() for one in until(everybody[reader], b"end") if not one.topic.startswith("$SYS")}
        allowed = {f"{w} {place.topic}" for w, place in tried if may_write(w, place) and may_read(reader, place)}
        assert got - {"begin", "end"} == allowed, reader


def test_the_figures_of_the_broker_are_for_the_aggregator_only(locked: LockedBroker, link: MakeLink) -> None:
    aggregator = link(locked.settings("aggregator"))
    send(aggregator, MODEL, b"end", retain=True)
    aggregator.close()
    for name in NAMES:
        one = link(locked.settings(name, subscriptions=("$SYS/broker/version", MODEL)))
        came = {delivery.topic for delivery in until(one, b"end")}
        assert ("$SYS/broker/version" in came) == name.startswith("aggregator"), name
        one.close()


def test_a_device_cannot_publish_as_another(everybody: dict[str, MqttLink]) -> None:
    for kind in ("presence", "evaluation"):
        send(everybody["watch-1"], topic(kind, device="watch-2"), b"forged", retain=True)  # type: ignore[arg-type]
    send(everybody["watch-1"], topic("evaluation", device="watch-1"), b"forged")
    send(everybody["watch-1"], topic("update", shard=0, device="watch-2"), b"forged")
    send(everybody["watch-1"], topic("update", shard=0, device="watch-1"), b"own")
    assert b"forged" not in {one.payload for one in until(everybody["aggregator"], b"own")}


def test_a_device_cannot_publish_or_erase_a_model(
    everybody: dict[str, MqttLink], locked: LockedBroker, link: MakeLink
) -> None:
    for place in (MODEL, topic("chunk", version=7, chunk=0), topic("delta", version=7), topic("aggregator", shard=0)):
        send(everybody["watch-1"], place, b"forged", retain=True)
        send(everybody["watch-1"], place, b"", retain=True)
    send(everybody["aggregator"], MODEL, b"end")
    for reader in ("watch-2", "viewer"):
        assert [one.payload for one in until(everybody[reader], b"end")] == [b"end"]
    everybody["aggregator-1"].close()
    late = link(locked.settings("aggregator-1", subscriptions=(MODEL,)))
    # The last one: what the session before had not acknowledged may come first.
    assert until(late, b"begin")[-1].retained, "the model of the aggregator is still there"


def test_a_device_cannot_read_the_receipts_of_another(everybody: dict[str, MqttLink]) -> None:
    everybody["watch-1"].subscribe(topic("receipt", device="watch-2"))
    everybody["watch-1"].subscribe(topic_filter("receipt", root=DEFAULT_ROOT, task=TASK))
    send(everybody["watch-1"], topic("presence", device="watch-1"), b"after the subscriptions")
    send(everybody["aggregator"], topic("receipt", device="watch-2"), b"private")
    send(everybody["aggregator"], topic("receipt", device="watch-1"), b"own")
    # Perhaps twice, as two filters fit.
    assert {one.payload for one in until(everybody["watch-1"], b"own")} == {b"own"}
    until(everybody["watch-2"], b"private")


def test_a_device_cannot_forge_a_receipt(everybody: dict[str, MqttLink]) -> None:
    for name in ("watch-1", "watch-2"):
        send(everybody["watch-1"], topic("receipt", device=name), b"forged")
    send(everybody["aggregator"], MODEL, b"end")
    for name in ("watch-1", "watch-2"):
        assert [one.payload for one in until(everybody[name], b"end")] == [b"end"]


def test_a_device_cannot_read_updates_presence_or_evaluations(everybody: dict[str, MqttLink]) -> None:
    send(everybody["watch-1"], topic("update", shard=0, device="watch-1"), b"secret")
    send(everybody["watch-1"], topic("presence", device="watch-1"), b"secret")
    send(everybody["evaluator"], topic("evaluation", device="evaluator"), b"secret")
    send(everybody["aggregator"], MODEL, b"end")
    assert [one.payload for one in until(everybody["watch-2"], b"end")] == [b"end"]


def test_a_will_cannot_forge_the_presence_of_another(
    everybody: dict[str, MqttLink], locked: LockedBroker, link: MakeLink, line: Relay
) -> None:
    everybody["watch-1"].close()
    forged = Will(topic("presence", device="watch-2"), b"forged")
    forger = link(locked.settings("watch-1", port=line.port, will=forged))
    said = gather(forger, lambda events: any(isinstance(event, Connected | Disconnected) for event in events))
    assert isinstance(said[0], Connected), "mosquitto 2.0 looks at a will when it sends it"
    line.close()
    gather(forger, lambda events: any(isinstance(event, Disconnected) for event in events))
    forger.close()
    second = Relay(locked.port)
    own = Will(topic("presence", device="watch-1"), b"own will")
    let_in(link(locked.settings("watch-1", port=second.port, will=own)))
    second.close()
    assert b"forged" not in {one.payload for one in until(everybody["aggregator"], b"own will")}


def test_a_user_name_does_not_change_who_a_certificate_is(
    everybody: dict[str, MqttLink], locked: LockedBroker, link: MakeLink
) -> None:
    everybody["watch-1"].close()
    liar = link(locked.settings("watch-1", username="aggregator", password="any"))
    send(liar, MODEL, b"forged", retain=True)
    send(liar, topic("update", shard=0, device="watch-1"), b"own")
    until(everybody["aggregator"], b"own")
    send(everybody["aggregator"], MODEL, b"end")
    assert b"forged" not in {one.payload for one in until(everybody["viewer"], b"end")}


@pytest.mark.parametrize("client_id", ["{}", "fedkd:{}"])
def test_a_client_id_does_not_take_over_the_session_of_another(
    everybody: dict[str, MqttLink], locked: LockedBroker, link: MakeLink, client_id: str
) -> None:
    for name in ("watch-1", "viewer"):
        everybody[name].close()  # the robbers have their names
    robbers = [
        link(locked.settings("watch-1", client_id=client_id.format("watch-2"))),
        link(locked.browser("viewer", locked.bench.password("viewer"), client_id=client_id.format("aggregator"))),
    ]
    for robber in robbers:
        let_in(robber)
    send(robbers[0], topic("update", shard=0, device="watch-1"), b"update")
    send(everybody["aggregator"], topic("receipt", device="watch-2"), b"still here")
    for victim, payload in (("watch-2", b"still here"), ("aggregator", b"update")):
        events = gather(
            everybody[victim],
            lambda events, payload=payload: any(one.payload == payload for one in deliveries(events)),  # type: ignore[misc]
        )
        assert not any(isinstance(event, Connected | Disconnected) for event in events), victim


def test_a_viewer_reads_over_websockets_and_writes_nothing(
    everybody: dict[str, MqttLink], locked: LockedBroker, link: MakeLink
) -> None:
    everybody["viewer"].close()
    viewer = link(locked.browser("viewer", locked.bench.password("viewer"), subscriptions=("#",)))
    assert until(viewer, b"begin")[0].topic == MODEL
    for place in places():
        send(viewer, place.topic, b"forged", retain=True)
    for sender, kind in (("watch-1", "presence"), ("evaluator", "evaluation")):
        send(everybody[sender], topic(kind, device=sender), b"own")  # type: ignore[arg-type]
    send(everybody["watch-1"], topic("update", shard=0, device="watch-1"), b"secret")
    send(everybody["aggregator"], topic("receipt", device="watch-1"), b"secret")
    send(everybody["aggregator"], topic("aggregator", shard=0), b"status")
    send(everybody["aggregator"], MODEL, b"end")
    assert [one.payload for one in until(viewer, b"end")] == [b"own", b"own", b"status", b"end"]
    for name in ("watch-1", "watch-2", "aggregator-1"):
        assert b"forged" not in {one.payload for one in until(everybody[name], b"end")}, name


def test_nobody_comes_in_without_a_certificate(locked: LockedBroker, link: MakeLink) -> None:
    authorities = Tls(ca_file=locked.bench.folder / "broker" / "ca.pem")
    assert "certificate required" in alert(locked, authorities)
    for more in ({}, {"username": "aggregator", "password": "any"}):
        refused(link(locked.settings("watch-1", tls=authorities, **more)))


def test_nobody_comes_in_unencrypted(locked: LockedBroker, link: MakeLink) -> None:
    for port in (locked.port, locked.websockets_port):
        refused(link(locked.settings("watch-1", port=port, tls=None)))


def test_old_tls_is_refused(locked: LockedBroker) -> None:
    for port in (locked.port, locked.websockets_port):
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        context.set_ciphers("ALL:@SECLEVEL=0")
        with pytest.warns(DeprecationWarning, match="TLSv1"):
            context.minimum_version, context.maximum_version = ssl.TLSVersion.TLSv1, ssl.TLSVersion.TLSv1_1
        with socket.create_connection(("127.0.0.1", port)) as peer, pytest.raises(ssl.SSLError, match="alert"):
            context.wrap_socket(peer)


def test_an_expired_certificate_is_refused(locked: LockedBroker, link: MakeLink) -> None:
    locked.bench.enrol("sleeper", at=lambda: now() - timedelta(days=3), days=1)
    assert "certificate expired" in alert(locked, locked.bench.tls("sleeper"))
    refused(link(locked.settings("sleeper")))


def test_a_certificate_of_another_authority_is_refused(locked: LockedBroker, link: MakeLink, tmp_path: Path) -> None:
    foreign = Bench(tmp_path / "foreign")
    for name in ("watch-1", "aggregator"):
        tls = replace(foreign.tls(name), ca_file=locked.bench.folder / "broker" / "ca.pem")
        assert "unknown ca" in alert(locked, tls) or "decrypt error" in alert(locked, tls)
        refused(link(locked.settings(name, tls=tls)))


def test_the_certificate_of_the_broker_is_none_for_a_client(locked: LockedBroker, link: MakeLink) -> None:
    folder = locked.bench.folder / "broker"
    own = Tls(ca_file=folder / "ca.pem", certificate_file=folder / "broker.pem", key_file=folder / "broker.key")
    assert "unsupported certificate" in alert(locked, own)
    refused(link(locked.settings("watch-1", tls=own)))


def test_a_device_cannot_pass_for_the_broker(bench: Bench, link: MakeLink) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(bench.out / "watch-2.pem", bench.out / "watch-2.key")
    with socket.create_server(("127.0.0.1", 0)) as listener:
        victim = link(
            MqttSettings(
                host="127.0.0.1", port=listener.getsockname()[1], client_id="v", tls=bench.tls("watch-1"), protocol="5"
            )
        )
        peer, _ = listener.accept()
        with peer, pytest.raises(ssl.SSLError):
            context.wrap_socket(peer, server_side=True)
        assert "the certificate of the broker is not one for a server" in refused(victim)


def test_a_revoked_certificate_is_refused_after_a_reload(locked: LockedBroker, link: MakeLink) -> None:
    standing = link(locked.settings("watch-2", subscriptions=(MODEL,)))
    aggregator = link(locked.settings("aggregator"))
    let_in(standing)
    locked.bench.revoke("watch-2")
    locked.reload()
    assert "certificate revoked" in alert(locked, locked.bench.tls("watch-2"))
    refused(link(locked.settings("watch-2")))
    let_in(link(locked.settings("watch-1")))
    # What stands, stands; docs/security.md says so.
    send(aggregator, MODEL, b"still", retain=True)
    until(standing, b"still")
    locked.restart()
    events = gather(standing, lambda events: sum(isinstance(event, Disconnected) for event in events) >= 3)
    assert not any(isinstance(event, Connected) for event in events)


def test_a_list_that_has_ended_locks_everybody_out_until_it_is_renewed(locked: LockedBroker, link: MakeLink) -> None:
    with Authority(locked.bench.folder, now=lambda: now() - timedelta(days=3)) as authority:
        authority.renew_list(days=1)
    locked.reload()
    for name in ("watch-1", "aggregator"):
        refused(link(locked.settings(name)))
    with Authority(locked.bench.folder, now=now) as authority:
        authority.renew_list(days=None)
    locked.reload()
    let_in(link(locked.settings("watch-1")))


def test_a_browser_needs_its_password(locked: LockedBroker, link: MakeLink) -> None:
    for name, password in (("viewer", "wrong"), ("aggregator", "any"), ("nobody", "any"), ("viewer", None)):
        refused(link(locked.browser(name, password)))
    anonymous = replace(locked.browser("viewer", None), username=None)
    refused(link(anonymous))
    let_in(link(locked.browser("viewer", locked.bench.password("viewer"))))


def test_a_revoked_password_is_refused_after_a_reload(locked: LockedBroker, link: MakeLink) -> None:
    password = locked.bench.password("viewer")
    first = link(locked.browser("viewer", password))
    let_in(first)
    first.close()
    locked.bench.revoke("viewer")
    locked.reload()
    refused(link(locked.browser("viewer", password)))
