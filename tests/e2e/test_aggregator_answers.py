"""The real program on a real broker: what late joiners get, what bad payloads and repeated updates are answered."""

import os
import struct
import time
from typing import TYPE_CHECKING

import lz4.frame
import pytest
from msgspec import structs

from aggregator.ledger.ledger import Ledger
from aggregator.ledger.reading import read_totals
from device_client.downlink.receiver import ModelReceiver
from tests.aggregator.synthetic import (
    CHUNKED,
    LAYOUT,
    ROOT,
    TASK,
    SyntheticDevice,
    initial_weights,
    newest_weights,
)
from tests.broker.mosquitto import Mosquitto
from tests.e2e.aggregator_process import PATIENCE_SECONDS, Sender, poll, turn_until
from tests.e2e.aggregator_stage import Stage
from wire_contract.codec import decode, encode
from wire_contract.encoding import Float32
from wire_contract.layout import Layout, TensorSpec
from wire_contract.link.mqtt import MqttLink
from wire_contract.link.protocol import Delivery
from wire_contract.messages import Receipt
from wire_contract.publication.manifest import assemble_snapshot
from wire_contract.topics import build, parse

if TYPE_CHECKING:
    from wire_contract.message_fields import RefusalReason

pytestmark = pytest.mark.e2e


@pytest.mark.parametrize("layout", [LAYOUT, CHUNKED], ids=["inline", "chunked"])
def test_a_late_joiner_gets_the_newest_model(stage: Stage, mosquitto: Mosquitto, layout: Layout) -> None:
    stage.port, stage.layout = mosquitto.port, layout
    process = stage.aggregator("--no-model-deltas")
    senders = stage.senders(2, updates=4)
    turn_until(senders, lambda: all(sender.done for sender in senders))
    poll(lambda: read_totals(stage.ledger).waiting == 0, "for the last version")
    newest = read_totals(stage.ledger).version
    assert newest >= 4
    # All of it is at the broker: when it is told to stop, the aggregator waits for that, but not for ever.
    stage.late_joiner(lambda one, chunks: one.version == newest and len(chunks) == 2 * len(one.chunk_digests))
    assert process.stop() == 0
    kept = 2 * len(stage.late_joiner(lambda manifest, _: manifest.version == newest)[0].chunk_digests)
    manifest, chunks = stage.late_joiner(lambda manifest, chunks: manifest.version == newest and len(chunks) == kept)
    parsed = {topic: parse(topic, root=ROOT).parts for topic in chunks}
    assert {int(parts["version"]) for parts in parsed.values()} == ({newest, newest - 1} if kept else set())
    of_newest = {
        int(parsed[topic]["chunk"]): payload
        for topic, payload in chunks.items()
        if int(parsed[topic]["version"]) == newest
    }
    published = assemble_snapshot(manifest, of_newest)
    assert published is not None
    assert published.weights.tobytes() == newest_weights(stage.ledger).tobytes()


def test_a_device_that_follows_has_what_a_late_joiner_gets(stage: Stage, mosquitto: Mosquitto) -> None:
    stage.port, stage.layout = mosquitto.port, CHUNKED
    process = stage.aggregator()
    model = build("model", root=ROOT, task=TASK)
    following = stage.link("following", model)
    downlinks = [(following, ModelReceiver(following, root=ROOT, task=TASK))]
    senders = stage.senders(2, updates=6)
    turn_until(senders, lambda: all(sender.done for sender in senders))
    poll(lambda: read_totals(stage.ledger).waiting == 0, "for the last version")
    newest = read_totals(stage.ledger).version
    late = stage.link("late", model)
    downlinks.append((late, ModelReceiver(late, root=ROOT, task=TASK)))

    def versions() -> list[int]:
        for link, downlink in downlinks:
            for event in link.receive(count=100, timeout_seconds=0.05):
                if isinstance(event, Delivery):
                    downlink.take(parse(event.topic, root=ROOT), event.payload)
                    link.ack(event)
        return [downlink.held.published.version for _, downlink in downlinks if downlink.held is not None]

    poll(lambda: versions() == [newest, newest], "for both to have it")
    assert process.stop() == 0
    with Ledger(stage.ledger, task=TASK) as ledger:
        digest = ledger.newest()[0].digest
    assert [downlink.held and downlink.held.published.digest for _, downlink in downlinks] == [digest, digest]


def bomb(size: int) -> bytes:
    """A sound LZ4 frame header that states `size` bytes of content."""
    header = struct.pack("<BBQ", 0x68, 0x40, size)
    for checksum in range(256):
        payload = b"\x04\x22\x4d\x18" + header + bytes([checksum]) + bytes(8)
        try:
            lz4.frame.get_frame_info(payload)
        except RuntimeError:
            continue
        return payload
    raise AssertionError


def test_bad_payloads_get_a_receipt_with_the_reason_and_the_aggregator_goes_on(
    stage: Stage, mosquitto: Mosquitto
) -> None:
    stage.port = mosquitto.port
    process = stage.aggregator("--update-bytes-max", "4096")
    honest = Sender(mosquitto.port, "device-0", 1)
    stage._senders.append(honest)
    turn_until([honest], lambda: honest.done)
    assert honest.manifest is not None
    hostile = SyntheticDevice("hostile")
    base = {"base_version": honest.manifest.version, "base_digest": honest.manifest.digest}
    foreign = Layout((TensorSpec("other", (2,)),))

    def filled(value: float) -> tuple[Float32, ...]:
        return tuple(Float32(struct.pack("<f", value) * spec.size) for spec in LAYOUT.tensors)

    cases: list[tuple[bytes, RefusalReason]] = [
        (os.urandom(5_000), "too_large"),
        (bomb(2 << 30), "too_large"),
        (bomb(100), "malformed"),
        (b"", "malformed"),
        (b"not an update", "malformed"),
        (hostile.payload(**base)[:-9], "malformed"),
        (hostile.payload(**base, device="device-0"), "malformed"),
        (hostile.payload(**base, task="other"), "malformed"),
        (hostile.payload(**base, tensors=filled(float("nan"))), "not_finite"),
        (hostile.payload(**base, tensors=filled(float("inf"))), "not_finite"),
        (hostile.payload(**base, difference=initial_weights() * 1e6), "norm"),
        (hostile.payload(**base, layout_fingerprint=foreign.fingerprint), "layout"),
        (hostile.payload(**{**base, "base_digest": bytes(32)}), "unknown_base"),
    ]
    link = stage.link("hostile", hostile.receipts)
    poll(lambda: bool(link.receive(count=1, timeout_seconds=0.1)), "for the connection")
    for payload, expected in cases:
        link.publish(hostile.topic, payload)
        receipt = next_receipt(link)
        assert (receipt.outcome, receipt.reason) == ("refused", expected), receipt
        assert receipt.detail
        assert "\n" not in receipt.detail
    assert process.is_running
    more = Sender(mosquitto.port, "device-1", 2)
    stage._senders.append(more)
    turn_until([more], lambda: more.done)
    poll(lambda: read_totals(stage.ledger).waiting == 0, "for the last version")
    assert process.stop() == 0
    totals = read_totals(stage.ledger)
    assert (totals.merged, totals.refused) == (3, len(cases))
    assert "Traceback" not in process.log
    assert len(process.complaints) == len(cases), "one line each"


def next_receipt(link: MqttLink) -> Receipt:
    deadline = time.monotonic() + PATIENCE_SECONDS
    while time.monotonic() < deadline:
        for event in link.receive(count=1, timeout_seconds=0.2):
            if isinstance(event, Delivery):
                link.ack(event)
                return decode(event.payload, Receipt)
    raise AssertionError("no receipt")


def test_what_was_sent_before_and_comes_again_is_a_duplicate(stage: Stage, mosquitto: Mosquitto) -> None:
    stage.port = mosquitto.port
    process = stage.aggregator()
    (sender,) = stage.senders(1, updates=1)
    turn_until([sender], lambda: sender.done)
    link = stage.link("echo", sender.device.receipts)
    poll(lambda: bool(link.receive(count=1, timeout_seconds=0.1)), "for the connection")
    for _ in range(3):
        link.publish(sender.device.topic, encode(sender.made[0]))
        receipt = next_receipt(link)
        assert (receipt.outcome, receipt.sequence) == ("duplicate", sender.made[0].sequence)
    link.publish(sender.device.topic, encode(structs.replace(sender.made[0], samples=99)), retain=True)
    assert next_receipt(link).outcome == "duplicate"
    stage.balance([sender], process)
    again = stage.aggregator()  # gets the retained one on its connection
    poll(lambda: read_totals(stage.ledger).duplicates >= 5, "for the retained update")
    stage.balance([sender], again)
