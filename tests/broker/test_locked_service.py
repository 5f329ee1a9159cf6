"""Mosquitto with the production file does all that is allowed: devices work, sessions wait over a restart."""

from pathlib import Path

import pytest

from tests.aggregator import synthetic
from tests.broker.locked import LockedBroker, MakeLink, bench, link, locked
from tests.broker.locked_clients import MODEL, let_in, line, send, topic, until
from tests.broker.relay import Relay
from tests.broker.rights import TASK
from tests.e2e.aggregator_process import AggregatorProcess
from tests.wire_contract.link.link_contract import deliveries, gather
from wire_contract import codec
from wire_contract.link.mqtt import MqttLink
from wire_contract.link.protocol import Will
from wire_contract.messages import Manifest, Receipt
from wire_contract.topics import DEFAULT_ROOT, build, topic_filter

__all__ = ["bench", "line", "link", "locked"]
pytestmark = [
    pytest.mark.broker,
    # When a TLS handshake fails, paho leaves the socket to the garbage collector.
    pytest.mark.filterwarnings("ignore:.*socket:pytest.PytestUnraisableExceptionWarning"),
    pytest.mark.filterwarnings("ignore:.*SSLSocket:pytest.PytestUnraisableExceptionWarning"),
]


def test_a_device_does_all_that_it_needs(locked: LockedBroker, link: MakeLink, line: Relay) -> None:
    presence, receipt = topic("presence", device="watch-1"), topic("receipt", device="watch-1")
    aggregator = link(
        locked.settings(
            "aggregator", subscriptions=(topic("update", shard=0, device="watch-1"), presence, "$SYS/broker/version")
        )
    )
    let_in(aggregator)
    for kind, parts in (("chunk", {"version": 7, "chunk": 0}), ("delta", {"version": 7}), ("model", {})):
        send(aggregator, topic(kind, **parts), kind.encode(), retain=True)  # type: ignore[arg-type]
    device = link(
        locked.settings(
            "watch-1",
            port=line.port,
            subscriptions=(MODEL, receipt, topic("delta", version=7), topic("chunk", version=7, chunk=0)),
            will=Will(presence, b"offline"),
        )
    )
    came = gather(device, lambda events: len(deliveries(events)) >= 3)
    assert {one.payload for one in deliveries(came)} == {b"model", b"delta", b"chunk"}
    send(device, presence, b"online", retain=True)
    send(device, topic("update", shard=0, device="watch-1"), b"update")
    assert [one.payload for one in until(aggregator, b"update") if not one.topic.startswith("$SYS")] == [
        b"online",
        b"update",
    ]
    send(aggregator, receipt, b"receipt")
    until(device, b"receipt")
    line.close()
    until(aggregator, b"offline")
    late = link(locked.settings("viewer", subscriptions=(presence,)))
    assert until(late, b"offline")[0].retained


def test_what_was_sent_to_an_absent_aggregator_waits_over_a_restart(locked: LockedBroker, link: MakeLink) -> None:
    updates = topic_filter("update", root=DEFAULT_ROOT, task=TASK)
    settings = locked.settings("aggregator", subscriptions=(updates, MODEL))
    first = link(settings)
    send(first, MODEL, b"here", retain=True)
    until(first, b"here")
    first.close()
    device = link(locked.settings("watch-1"))
    for number in range(1_500):  # above the default of max_queued_messages
        device.publish(topic("update", shard=0, device="watch-1"), b"%d" % number)
    send(device, topic("update", shard=0, device="watch-1"), b"last")
    device.close()
    locked.restart()
    again = link(settings)
    came = [one.payload for one in until(again, b"last") if one.topic != MODEL]
    assert came == [*(b"%d" % number for number in range(1_500)), b"last"]


@pytest.mark.e2e
def test_the_real_aggregator_answers_a_device(locked: LockedBroker, link: MakeLink, tmp_path: Path) -> None:
    tls = locked.bench.tls("aggregator")
    settings = {
        "--task": synthetic.TASK,
        "--broker": f"mqtts://127.0.0.1:{locked.port}",
        "--tls-ca": tls.ca_file,
        "--tls-certificate": tls.certificate_file,
        "--tls-key": tls.key_file,
        "--ledger": tmp_path / "ledger.sqlite3",
        "--initial-model": synthetic.write_initial_model(tmp_path / "initial.safetensors"),
        "--updates-per-version": 1,
        "--devices-min": 1,
    }
    process = AggregatorProcess(tmp_path / "aggregator.log", [str(word) for pair in settings.items() for word in pair])
    try:
        own = {"root": synthetic.ROOT, "task": synthetic.TASK}
        model, receipt = build("model", **own), build("receipt", **own, device="watch-1")
        device = link(locked.settings("watch-1", subscriptions=(model, receipt)))
        manifest = codec.decode(next_on(device, model), Manifest)
        update = synthetic.SyntheticDevice("watch-1").payload(
            base_version=manifest.version, base_digest=manifest.digest
        )
        send(device, build("update", **own, shard=0, device="watch-1"), update)
        assert codec.decode(next_on(device, receipt), Receipt).outcome == "merged"
        assert process.stop() == 0
    finally:
        process.kill()


def next_on(link: MqttLink, topic: str) -> bytes:
    """The payload of the next message there."""
    events = gather(link, lambda events: any(one.topic == topic for one in deliveries(events)), count=1)
    return next(one.payload for one in deliveries(events) if one.topic == topic)
