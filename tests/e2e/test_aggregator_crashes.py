"""The real program on a real broker, killed where it hurts: every update is merged once, and the weights are the bits
that the journal makes again.
"""

import os
import struct
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import lz4.frame
import pytest
from msgspec import structs

from aggregator.ledger import Ledger
from aggregator.ledger_view import read_totals
from device_client.downlink import Downlink
from tests.aggregator.synthetic import (
    CHUNKED,
    LAYOUT,
    ROOT,
    TASK,
    SyntheticDevice,
    identities,
    initial_weights,
    newest_weights,
    replay,
    write_initial_model,
)
from tests.broker.mosquitto import Mosquitto, free_port
from tests.conftest import MakeMosquitto
from tests.e2e.aggregator_process import PATIENCE_SECONDS, AggregatorProcess, Sender, poll, turn_until
from tests.e2e.crashing_aggregator import POINTS
from wire_contract.codec import decode, encode
from wire_contract.encoding import Float32
from wire_contract.layout import Layout, TensorSpec
from wire_contract.link import Delivery
from wire_contract.manifest import assemble
from wire_contract.messages import Manifest, Receipt, RefusalReason
from wire_contract.mqtt_link import MqttLink, MqttSettings
from wire_contract.topics import build, parse, topic_filter

pytestmark = pytest.mark.e2e


@dataclass
class Stage:
    """A folder with a ledger, a broker's port, and whatever was started there."""

    folder: Path
    port: int = 0
    layout: Layout = LAYOUT
    _started: list[AggregatorProcess] = field(default_factory=list)
    _senders: list[Sender] = field(default_factory=list)
    _links: list[MqttLink] = field(default_factory=list)

    @property
    def ledger(self) -> Path:
        return self.folder / "ledger.sqlite3"

    def arguments(self, *more: str, broker: str = "", task: str = TASK) -> list[str]:
        initial = self.folder / "initial.safetensors"
        if not initial.exists():
            write_initial_model(initial, self.layout)
        url = broker or f"mqtt://127.0.0.1:{self.port}"
        given = {"--task": task, "--broker": url, "--ledger": str(self.ledger), "--initial-model": str(initial)}
        given |= {"--updates-per-version": "2", "--version-seconds": "0.5", "--model-encoding": "float32"}
        given |= {"--devices-min": "1"}
        return [*(text for pair in given.items() for text in pair), *more]

    def aggregator(
        self, *more: str, crash: tuple[str, int] | None = None, broker: str = "", task: str = TASK
    ) -> AggregatorProcess:
        module = ("tests.e2e.crashing_aggregator", crash[0], str(crash[1])) if crash else ("aggregator",)
        log = self.folder / f"aggregator-{len(self._started)}.log"
        self._started.append(AggregatorProcess(log, self.arguments(*more, broker=broker, task=task), module=module))
        return self._started[-1]

    def senders(self, count: int, updates: int) -> list[Sender]:
        made = [Sender(self.port, f"device-{index}", updates, self.layout) for index in range(count)]
        self._senders += made
        return made

    def link(self, client_id: str, *subscriptions: str) -> MqttLink:
        settings = MqttSettings(
            host="127.0.0.1", port=self.port, client_id=client_id, subscriptions=subscriptions, close_seconds_max=1.0
        )
        self._links.append(MqttLink(settings))
        return self._links[-1]

    def late_joiner(self, enough: Callable[[Manifest, dict[str, bytes]], bool]) -> tuple[Manifest, dict[str, bytes]]:
        """The retained manifest and chunks as a new client gets them."""
        model = build("model", root=ROOT, task=TASK)
        link = self.link(f"late-{len(self._links)}", model, topic_filter("chunk", root=ROOT, task=TASK))
        manifest: Manifest | None = None
        chunks: dict[str, bytes] = {}
        deadline = time.monotonic() + PATIENCE_SECONDS
        while manifest is None or not enough(manifest, chunks):
            assert time.monotonic() < deadline, (manifest, list(chunks))
            for event in link.receive(count=100, timeout_seconds=0.1):
                if isinstance(event, Delivery):
                    link.ack(event)
                    if event.topic == model:
                        manifest = decode(event.payload, Manifest)
                    elif event.payload:
                        chunks[event.topic] = event.payload
                    else:
                        chunks.pop(event.topic, None)
        return manifest, chunks

    def balance(self, senders: list[Sender], process: AggregatorProcess) -> None:
        """Sent = merged, to the last one and in each bit; ends the aggregator."""
        poll(lambda: read_totals(self.ledger).waiting == 0, "for the last version")
        assert process.stop() == 0
        found = identities(self.ledger)
        sent = [identity for sender in senders for identity in sender.identities()]
        assert sorted(found) == sorted(sent)
        totals = read_totals(self.ledger)
        assert (totals.merged, totals.refused) == (len(sent), 0)
        version, weights = replay(self.ledger, self.layout, initial_weights(self.layout))
        assert version == totals.version > 0
        assert weights.tobytes() == newest_weights(self.ledger).tobytes()
        for sender in senders:
            assert {receipt.outcome for receipt in sender.receipts} <= {"merged", "duplicate"}

    def close(self) -> None:
        for process in self._started:
            process.kill()
        for sender in self._senders:
            sender.link.close()
        for link in self._links:
            link.close()


@pytest.fixture
def stage(tmp_path: Path) -> Iterator[Stage]:
    made = Stage(tmp_path)
    yield made
    made.close()


@pytest.mark.parametrize("point", list(POINTS))
def test_killed(point: str, stage: Stage, mosquitto: Mosquitto) -> None:
    stage.port = mosquitto.port
    stage.layout = CHUNKED if "chunk" in point else LAYOUT
    dying = stage.aggregator("--snapshot-versions", "1", crash=(point, 2))
    senders = stage.senders(3, updates=3)
    turn_until(senders, lambda: not dying.is_running)
    assert dying.ends() == -9, dying.log
    again = stage.aggregator()
    turn_until(senders, lambda: all(sender.done for sender in senders))
    if point == "between commit and acknowledgement":
        assert read_totals(stage.ledger).duplicates > 0, "the broker delivers again what was committed"
    if "version" in point or "chunk" in point:
        newest = read_totals(stage.ledger).version
        turn_until(senders, lambda: all(sender.manifest and sender.manifest.version >= newest for sender in senders))
    stage.balance(senders, again)


def test_the_broker_is_killed_and_loses_its_state(stage: Stage, mosquitto: Mosquitto) -> None:
    stage.port = mosquitto.port
    process = stage.aggregator()
    senders = stage.senders(3, updates=6)
    for receipts in (3, 9):
        turn_until(senders, lambda receipts=receipts: sum(len(s.receipts) for s in senders) >= receipts)  # type: ignore[misc]
        assert not all(sender.done for sender in senders)
        mosquitto.restart(lose_state=True)
    turn_until(senders, lambda: all(sender.done for sender in senders))
    newest = read_totals(stage.ledger).version
    manifest, _ = stage.late_joiner(lambda manifest, _: manifest.version >= newest)
    assert assemble(manifest) is not None, "a broker that lost its retained messages has the model again"
    stage.balance(senders, process)


@pytest.mark.parametrize("point", ["between merge and commit", "between commit and acknowledgement"])
def test_aggregator_and_broker_are_killed_together(point: str, stage: Stage, mosquitto: Mosquitto) -> None:
    # Nobody delivers again: only what was committed before its receipt went out is safe.
    stage.port = mosquitto.port
    dying = stage.aggregator(crash=(point, 3))
    senders = stage.senders(2, updates=4)
    turn_until(senders, lambda: not dying.is_running)
    mosquitto.restart(lose_state=True)
    again = stage.aggregator()
    turn_until(senders, lambda: all(sender.done for sender in senders))
    stage.balance(senders, again)


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
    published = assemble(manifest, of_newest)
    assert published is not None
    assert published.weights.tobytes() == newest_weights(stage.ledger).tobytes()


def test_a_device_that_follows_has_what_a_late_joiner_gets(stage: Stage, mosquitto: Mosquitto) -> None:
    stage.port, stage.layout = mosquitto.port, CHUNKED
    process = stage.aggregator()
    model = build("model", root=ROOT, task=TASK)
    following = stage.link("following", model)
    downlinks = [(following, Downlink(following, root=ROOT, task=TASK))]
    senders = stage.senders(2, updates=6)
    turn_until(senders, lambda: all(sender.done for sender in senders))
    poll(lambda: read_totals(stage.ledger).waiting == 0, "for the last version")
    newest = read_totals(stage.ledger).version
    late = stage.link("late", model)
    downlinks.append((late, Downlink(late, root=ROOT, task=TASK)))

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


def test_a_full_disk_is_waited_for(stage: Stage, mosquitto: Mosquitto) -> None:
    stage.port = mosquitto.port
    process = stage.aggregator()
    senders = stage.senders(2, updates=3)
    turn_until(senders, lambda: all(sender.receipts for sender in senders))
    written_ahead = stage.ledger.with_name(stage.ledger.name + "-wal")
    process.limit_files(max(written_ahead.stat().st_size, stage.ledger.stat().st_size))
    turn_until(senders, lambda: bool(process.complaints))
    assert "waiting, nothing is lost" in process.complaints[0]
    assert not all(sender.done for sender in senders)
    process.limit_files(-1)
    turn_until(senders, lambda: all(sender.done for sender in senders))
    stage.balance(senders, process)
    assert set(process.complaints) == {process.complaints[0]}


def test_it_can_be_stopped_while_the_disk_is_full(stage: Stage, mosquitto: Mosquitto) -> None:
    stage.port = mosquitto.port
    full = stage.aggregator()
    poll(lambda: "connected" in full.log, "for the connection")
    full.limit_files(0)
    senders = stage.senders(2, updates=2)
    turn_until(senders, lambda: any(sender.sends for sender in senders))
    assert full.stop() == 0
    again = stage.aggregator()
    turn_until(senders, lambda: all(sender.done for sender in senders))
    stage.balance(senders, again)


# -- command lines that cannot work


def one_line(process: AggregatorProcess, *, code: int = 2) -> str:
    assert process.ends() == code, process.log
    (line,) = process.complaints
    assert line.startswith("aggregator: ")
    return line


def test_a_second_aggregator_on_one_ledger_is_refused(stage: Stage, mosquitto: Mosquitto) -> None:
    stage.port = mosquitto.port
    first = stage.aggregator()
    poll(lambda: "connected" in first.log, "for the first one")
    assert "another aggregator (process" in one_line(stage.aggregator())
    (sender,) = stage.senders(1, updates=2)
    turn_until([sender], lambda: sender.done)
    stage.balance([sender], first)


def test_without_a_broker_it_says_so_once_and_waits(stage: Stage, make_mosquitto: MakeMosquitto) -> None:
    broker = make_mosquitto()
    stage.port = broker.port
    process = stage.aggregator()
    poll(lambda: len(process.complaints) == 1, "for the line")
    assert "no connection to the broker" in process.complaints[0]
    broker.start()
    (sender,) = stage.senders(1, updates=2)
    turn_until([sender], lambda: sender.done)
    stage.balance([sender], process)
    assert len(process.complaints) == 1


def test_without_a_broker_it_can_be_stopped(stage: Stage) -> None:
    stage.port = free_port()
    process = stage.aggregator()
    poll(lambda: "no connection" in process.log, "for the line")
    assert process.stop() == 0


def test_a_wrong_password_ends_it_with_one_line(stage: Stage, make_mosquitto: MakeMosquitto) -> None:
    broker = make_mosquitto(users={"aggregator": "right"})
    broker.start()
    process = stage.aggregator(broker=f"mqtt://aggregator:wrong@127.0.0.1:{broker.port}")
    line = one_line(process)
    assert "refused" in line
    assert "wrong" not in line


def test_a_ledger_of_another_task_ends_it_with_one_line(stage: Stage) -> None:
    Ledger(stage.ledger, task="another").close()
    assert "its task is 'another', not 'toy'" in one_line(stage.aggregator(broker="mqtt://127.0.0.1:1"))


def test_a_corrupt_ledger_ends_it_with_one_line(stage: Stage) -> None:
    stage.ledger.write_bytes(b"SQLite format 3\0" + os.urandom(8_192))
    assert "is damaged" in one_line(stage.aggregator(broker="mqtt://127.0.0.1:1"))
