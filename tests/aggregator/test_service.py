"""The loop over a broker in memory, with a clock that the test moves."""

import logging
from collections.abc import Callable, Iterator
from dataclasses import replace
from math import inf
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from aggregator.admission import INCARNATIONS_KEPT, AdmissionPolicy
from aggregator.ledger.file_format import LedgerBusy
from aggregator.ledger.ledger import Ledger
from aggregator.ledger.reading import read_totals
from aggregator.ledger.records import Batch
from aggregator.metrics_file import WRITE_SECONDS, MetricsFile
from aggregator.model_line import LineSettings
from aggregator.service import Clock, RefusedByBroker, Service, subscriptions
from aggregator.status import StatusHistory
from tests.aggregator.synthetic import (
    CHUNKED,
    LAYOUT,
    ROOT,
    SETTINGS,
    T0,
    TASK,
    SyntheticDevice,
    begin,
    identities,
    initial_weights,
    newest_weights,
    receipt,
    replay,
)
from wire_contract.codec import decode, encode
from wire_contract.errors import LinkError
from wire_contract.layout import Layout
from wire_contract.link.memory import MemoryBroker, MemoryLink
from wire_contract.link.protocol import Delivery
from wire_contract.messages import AggregatorStatus, Evaluation, Manifest, Receipt
from wire_contract.publication.manifest import assemble
from wire_contract.topics import build, parse

MODEL = build("model", root=ROOT, task=TASK)
STATUS = build("aggregator", root=ROOT, task=TASK, shard=0)
WHOLE = replace(SETTINGS, delta_encoding=None)


class Stage:
    """An aggregator, a broker and a few devices in one thread."""

    link_type: type[MemoryLink] = MemoryLink
    client_id = "aggregator"

    def __init__(
        self,
        path: Path,
        settings: LineSettings = SETTINGS,
        layout: Layout = LAYOUT,
        broker: MemoryBroker | None = None,
        **link: int,
    ) -> None:
        self.path = path
        self.settings = settings
        self.layout = layout
        self.link_settings = link
        self.broker = broker or MemoryBroker()
        self.now = 1_000.0
        self.pauses: list[float] = []
        self.beats: list[str] = []
        self.on_pause: Callable[[], None] = lambda: None
        self.stopping = False
        self.mailbox = MemoryLink(self.broker, "devices", subscriptions=(f"{ROOT}/{TASK}/receipt/+",))
        self.start()

    def start(self, *, history: StatusHistory | None = None, replace_line: bool = False) -> None:
        self.ledger = Ledger(self.path, task=TASK)
        self.line = begin(self.ledger, self.settings, self.layout)
        self.link = self.link_type(
            self.broker,
            self.client_id,
            subscriptions=subscriptions(root=ROOT, task=TASK, shard=0),
            **self.link_settings,
        )
        self.service = Service(
            self.line,
            self.ledger,
            self.link,
            root=ROOT,
            totals=read_totals(self.path),
            clock=Clock(monotonic=lambda: self.now, unix=lambda: T0 + self.now),
            pause=self._pause,
            settle_seconds=0.0,
            replace_line=replace_line,
            history=history,
            heartbeat=lambda *, trouble="": self.beats.append(trouble),
            metrics=MetricsFile(self.path.with_suffix(".prom"), task=TASK, shard=0),
        )

    def _pause(self, seconds: float) -> None:
        self.pauses.append(seconds)
        assert len(self.pauses) < 1_000, "it waits for ever"
        self.on_pause()

    def crash(self) -> None:
        """The process is gone; the broker sees a lost connection."""
        self.ledger.close()
        self.broker.drop(self.client_id)
        self.link._is_closed = True

    def step(self, count: int = 1) -> None:
        for _ in range(count):
            self.service.step(lambda: self.stopping)

    def send(self, device: SyntheticDevice, payload: bytes | None = None, **changes: object) -> bytes:
        sent = device.payload(self.line, **changes) if payload is None else payload
        self.mailbox.publish(device.topic, sent)
        return sent

    def receipts(self) -> list[Receipt]:
        events = self.mailbox.receive(count=1_000, timeout_seconds=0)
        found = [event for event in events if isinstance(event, Delivery)]
        for delivery in found:
            self.mailbox.ack(delivery)
        return [receipt(delivery.payload) for delivery in found]

    def outcomes(self) -> list[str]:
        return [answer.reason or answer.outcome for answer in self.receipts()]

    @property
    def manifest(self) -> Manifest:
        return decode(self.broker.retained[MODEL], Manifest)

    @property
    def status(self) -> AggregatorStatus:
        return decode(self.broker.retained[STATUS], AggregatorStatus)

    def chunks(self) -> dict[int, list[int]]:
        """Version to the indices of its retained chunks."""
        found: dict[int, list[int]] = {}
        for topic in self.broker.retained:
            parsed = parse(topic, root=ROOT)
            if parsed.kind == "chunk":
                found.setdefault(int(parsed.parts["version"]), []).append(int(parsed.parts["chunk"]))
        return found

    def teach(self, versions: int) -> None:
        """So many versions, of two devices each."""
        for _ in range(versions):
            for name in ("a", "b"):
                self.send(self.device(name))
            self.step()

    def device(self, name: str) -> SyntheticDevice:
        self._devices = getattr(self, "_devices", {})
        return self._devices.setdefault(name, SyntheticDevice(name, self.layout))  # type: ignore[no-any-return]

    def fill_disk(self) -> None:
        """As a full disk: no page more."""
        self.ledger._db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        pages = self.ledger._db.execute("PRAGMA page_count").fetchone()[0]
        self.ledger._db.execute(f"PRAGMA max_page_count = {pages}")

    def free_disk(self) -> None:
        self.ledger._db.execute("PRAGMA max_page_count = 1000000")


MakeStage = Callable[..., Stage]


@pytest.fixture
def make_stage(tmp_path: Path) -> Iterator[MakeStage]:
    made: list[Stage] = []

    def make(settings: LineSettings = SETTINGS, layout: Layout = LAYOUT, **link: int) -> Stage:
        made.append(Stage(tmp_path / f"ledger-{len(made)}.sqlite3", settings, layout, **link))
        return made[-1]

    yield make
    for stage in made:
        stage.ledger.close()


@pytest.fixture
def stage(make_stage: MakeStage) -> Stage:
    return make_stage()


def test_the_first_connection_publishes_the_model(stage: Stage) -> None:
    stage.step()
    published = assemble(stage.manifest)
    assert published is not None
    assert published.version == 0
    assert published.weights.tobytes() == initial_weights().tobytes()
    assert (stage.status.status, stage.status.version) == ("online", 0)


def test_every_update_gets_its_receipt(stage: Stage) -> None:
    a = SyntheticDevice("a")
    first = stage.send(a)
    stage.send(a, base_digest=bytes(32))
    stage.send(a, b"nonsense")
    stage.send(a, first)
    stage.step()
    answers = stage.receipts()
    assert [(answer.outcome, answer.reason, answer.sequence) for answer in answers] == [
        ("merged", None, 1),
        ("refused", "unknown_base", 2),
        ("refused", "malformed", 0),
        ("duplicate", None, 1),
    ]
    assert (answers[0].weight, answers[0].version) == (1.0, 0)
    stage.step()
    assert not stage.receipts()
    assert not stage.broker._sessions["aggregator"].in_flight, "everything was acknowledged"


def test_a_version_when_k_devices_have_handed_something_in(stage: Stage) -> None:
    for _ in range(3):
        stage.send(stage.device("a"))
    stage.step()
    assert stage.line.version == 0, "one device, however often, is one slot"
    stage.send(stage.device("b"))
    stage.step()
    assert (stage.line.version, stage.manifest.version) == (1, 1)
    stage.now += 2.0
    stage.step()
    assert stage.status.version == 1
    assert stage.status.counters == {"merged": 4, "duplicate": 0, "refused": 0, "devices": 2}


def test_a_version_after_t_seconds_however_few_there_are(make_stage: MakeStage) -> None:
    stage = make_stage(replace(SETTINGS, updates_per_version=100, version_seconds=60.0))
    stage.now += 500
    stage.step()
    stage.send(stage.device("a"))
    stage.step()
    stage.now += 59
    stage.send(stage.device("a"))
    stage.step()
    assert stage.line.version == 0, "counted from the first update, and that one was 59 s ago"
    assert stage.service._receive_seconds() == pytest.approx(0.5)
    stage.now += 0.75
    assert stage.service._receive_seconds() == pytest.approx(0.25)
    stage.now += 0.25
    stage.step()
    assert stage.line.version == 1
    stage.now += 500
    stage.step()
    assert stage.line.version == 1, "an empty buffer makes no version"


def test_no_version_is_made_of_fewer_devices_than_the_operator_wants(
    make_stage: MakeStage, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    stage = make_stage(replace(SETTINGS, updates_per_version=1, devices_min=3))

    def complaints() -> list[str]:
        return [record.message for record in caplog.records if "waits for" in record.message]

    for _ in range(300):  # more than a batch
        stage.send(stage.device("a"))
    stage.step(3)
    assert stage.line.version == 0
    assert not complaints(), "it is early yet"
    assert "devices_missing" not in stage.status.counters
    for name, missing in (("a", "2 more devices"), ("b", "1 more device:")):
        stage.send(stage.device(name))
        stage.now += 60
        stage.step(2)
        assert stage.line.version == 0
        assert stage.status.counters["devices_missing"] == int(missing[0])
        assert stage.service._receive_seconds() == 0.5, "it waits, it does not spin"
    assert len(complaints()) == 1
    assert "version 1 waits for 2 more devices: 1 handed something in, and --devices-min is 3" in complaints()[0]
    stage.crash()
    stage.start()
    stage.step()
    stage.now += 60
    stage.step()
    assert stage.status.counters["devices_missing"] == 1, "after a restart, too"
    stage.send(stage.device("c"))
    stage.now += 5
    stage.step(2)
    assert stage.line.version == 1
    stage.now += 5
    stage.step()
    assert "devices_missing" not in stage.status.counters


def test_a_restored_buffer_becomes_a_version_too(stage: Stage) -> None:
    stage.send(stage.device("a"))
    stage.step()
    expected = stage.line.next_step().weights.tobytes()
    stage.crash()
    stage.start()
    assert stage.line.buffer.updates == 1
    stage.step()
    assert stage.line.version == 0
    stage.now += 60
    stage.step()
    assert (stage.line.version, stage.line.weights.tobytes()) == (1, expected)


def test_a_clock_that_goes_backwards_changes_nothing(stage: Stage) -> None:
    stage.step()
    stage.now -= 500
    stage.teach(2)
    assert stage.line.version == 2
    version, weights = replay(stage.path, LAYOUT, initial_weights())
    assert (version, weights.tobytes()) == (2, stage.line.weights.tobytes())


def test_without_deltas_every_version_goes_whole_and_two_are_kept(make_stage: MakeStage) -> None:
    stage = make_stage(WHOLE, layout=CHUNKED)
    stage.step()
    assert stage.chunks() == {0: [0, 1]}
    for version in range(1, 5):
        stage.teach(1)
        assert stage.chunks() == {version - 1: [0, 1], version: [0, 1]}
        chunks = {
            index: stage.broker.retained[build("chunk", root=ROOT, task=TASK, version=version, chunk=index)]
            for index in range(2)
        }
        published = assemble(stage.manifest, chunks)
        assert published is not None
        assert published.weights.tobytes() == stage.line.weights.tobytes()


def test_chunks_that_a_crash_left_are_swept(make_stage: MakeStage) -> None:
    stage = make_stage(WHOLE, layout=CHUNKED)
    stage.teach(3)
    stage.crash()
    for version in (0, 1):
        for index in range(2):
            topic = build("chunk", root=ROOT, task=TASK, version=version, chunk=index)
            stage.mailbox.publish(topic, b"left over", retain=True)
    stage.start()
    stage.step()
    assert stage.chunks() == {2: [0, 1], 3: [0, 1]}


@pytest.mark.parametrize("lose_state", [False, True])
def test_the_model_is_published_again_on_every_connection(stage: Stage, *, lose_state: bool) -> None:
    stage.teach(1)
    before = stage.broker.retained[MODEL]
    stage.broker.stop(lose_state=lose_state)
    stage.step()
    stage.broker.retained.pop(MODEL, None)
    stage.broker.start()
    stage.step(2)
    assert stage.broker.retained[MODEL] == before
    assert stage.status.status == "online"
    stage.mailbox.receive(count=100, timeout_seconds=0)
    stage.teach(1)
    assert stage.line.version == 2


def test_what_was_not_acknowledged_comes_again_and_is_a_duplicate(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    stage.step()
    with monkeypatch.context() as patch:
        patch.setattr(stage.link, "ack", lambda _: None)
        stage.send(stage.device("a"))
        stage.step()
    stage.crash()
    stage.start()
    stage.step()
    assert stage.outcomes() == ["merged", "duplicate"]
    assert len(identities(stage.path)) == 1
    assert not stage.broker._sessions["aggregator"].in_flight


def test_nothing_is_acknowledged_before_it_is_in_the_ledger(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    order: list[str] = []
    for owner, name in (
        (stage.ledger, "commit_batch"),
        (stage.link, "ack"),
        (stage.service._publication.publisher, "receipt"),
        (stage.ledger, "commit_version"),
        (stage.service._publication.publisher, "model"),
    ):
        whole = getattr(owner, name)

        def noting(*given: Any, name: str = name, whole: Callable[..., Any] = whole, **named: Any) -> Any:
            order.append(name)
            return whole(*given, **named)

        monkeypatch.setattr(owner, name, noting)
    stage.step()
    order.clear()
    stage.teach(1)
    assert order == ["commit_batch", "ack", "ack", "receipt", "receipt", "commit_version", "model"]


def test_evaluations_of_versions_published_here_are_kept(stage: Stage, caplog: pytest.LogCaptureFixture) -> None:
    stage.teach(1)

    def say(device: str, **changes: object) -> None:
        fields: dict[str, object] = {
            "task": TASK,
            "device": device,
            "version": 1,
            "digest": stage.line.shelf.published.digest,
        }
        fields |= {"samples": 5, "metrics": {"accuracy": 0.5}, **changes}
        topic = build("evaluation", root=ROOT, task=TASK, device="evaluator")
        stage.mailbox.publish(topic, encode(Evaluation(**fields)))  # type: ignore[arg-type]

    say("evaluator")
    say("somebody")
    say("evaluator", task="other")
    say("evaluator", version=2**50)
    say("evaluator", digest=bytes(32))
    say("evaluator", metrics={"accuracy": 0.75})
    stage.mailbox.publish(build("evaluation", root=ROOT, task=TASK, device="evaluator"), b"nonsense")
    stage.step()
    assert len([record for record in caplog.records if "ignored an evaluation" in record.message]) == 5
    totals = read_totals(stage.path)
    assert (totals.evaluated_version, totals.evaluation) == (1, {"accuracy": 0.75})
    assert not stage.broker._sessions["aggregator"].in_flight


def test_prometheus_is_told_how_the_line_stands(stage: Stage) -> None:
    stage.teach(1)
    stage.now += WRITE_SECONDS
    stage.step()
    told = stage.path.with_suffix(".prom").read_text()
    labels = f'{{task="{TASK}",shard="0"}}'
    assert f"fedkd_model_version{labels} 1\n" in told
    assert f"fedkd_broker_connected{labels} 1\n" in told
    assert f'fedkd_updates_total{{task="{TASK}",shard="0",outcome="merged"}} 2\n' in told


def test_evaluations_come_from_evaluators_only(stage: Stage, caplog: pytest.LogCaptureFixture) -> None:
    stage.teach(1)
    for device in ("watch", "watch", "evaluatorx", "Evaluator", "evaluator-1", "evaluator.ward-3"):
        evaluation = Evaluation(
            task=TASK,
            device=device,
            version=1,
            digest=stage.line.shelf.published.digest,
            samples=5,
            metrics={"accuracy": 1.0 if "-" in device else 0.0},
        )
        stage.mailbox.publish(build("evaluation", root=ROOT, task=TASK, device=device), encode(evaluation))
    stage.step()
    told = [record.message for record in caplog.records if "ignored evaluations" in record.message]
    assert len(told) == 3, "once for each name"
    assert "watch" in told[0]
    assert read_totals(stage.path).evaluation == {"accuracy": 1.0}


def test_a_broker_that_refuses_at_first_ends_it_later_it_is_waited_for(
    stage: Stage, make_stage: MakeStage, caplog: pytest.LogCaptureFixture
) -> None:
    refused = make_stage()
    refused.link.receive(count=9, timeout_seconds=0)  # the connection of the stage itself
    refused.broker.refuse("aggregator")
    with pytest.raises(RefusedByBroker, match="check user name and password"):
        refused.step()
    stage.step()
    stage.broker.refuse("aggregator")
    stage.step(5)
    assert len([record for record in caplog.records if "no connection" in record.message]) <= 2
    stage.broker.accept("aggregator")
    stage.teach(1)
    assert stage.line.version == 1


def test_a_full_disk_is_waited_for_and_nothing_is_lost(make_stage: MakeStage, caplog: pytest.LogCaptureFixture) -> None:
    stage = make_stage(layout=CHUNKED)
    stage.step()
    stage.fill_disk()
    for name in ("a", "b"):
        stage.send(stage.device(name))
    tries = iter(range(5))

    def free_at_last() -> None:
        assert not stage.receipts(), "no receipt before it is in the ledger"
        assert len(stage.broker._sessions["aggregator"].in_flight) == 2, "and no acknowledgement"
        if next(tries) == 4:
            stage.free_disk()

    stage.on_pause = free_at_last
    stage.step()
    assert len(stage.pauses) >= 5
    assert all("disk is full" in trouble for trouble in stage.beats[-5:]), "live, and not ready"
    stage.step()
    assert stage.beats[-1] == ""
    assert stage.outcomes() == ["merged", "merged"]
    assert len(identities(stage.path)) == 2
    errors = [record.message for record in caplog.records if record.levelno >= logging.ERROR]
    assert len(errors) == 1
    assert "waiting, nothing is lost" in errors[0]
    version, weights = replay(stage.path, CHUNKED, initial_weights(CHUNKED))
    assert (version, weights.tobytes()) == (1, newest_weights(stage.path).tobytes())


def test_it_can_be_stopped_while_the_disk_is_full(make_stage: MakeStage) -> None:
    stage = make_stage(layout=CHUNKED)
    stage.step()
    stage.fill_disk()
    stage.send(stage.device("a"))

    def stop() -> None:
        stage.stopping = True

    stage.on_pause = stop
    stage.step()
    stage.service.farewell()
    assert not stage.receipts()
    assert not identities(stage.path)
    stage.crash()
    stage.stopping = False
    stage.start()
    stage.step()
    assert stage.outcomes() == ["merged"], "the broker kept it"


def test_a_disk_that_fills_before_a_version(make_stage: MakeStage) -> None:
    stage = make_stage(layout=CHUNKED)
    stage.step()
    stage.send(stage.device("a"))
    stage.step()
    stage.send(stage.device("b"))
    committed = stage.ledger.commit_batch

    def fill_after(*arguments: object, **named: object) -> None:
        committed(*arguments, **named)  # type: ignore[arg-type]
        stage.fill_disk()

    stage.ledger.commit_batch = fill_after  # type: ignore[method-assign]
    stage.on_pause = stage.free_disk
    stage.step()
    assert stage.pauses
    assert stage.line.version == 1
    assert stage.line.weights.tobytes() == replay(stage.path, CHUNKED, initial_weights(CHUNKED))[1].tobytes()


def test_many_incarnations_and_a_full_disk(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    for life in range(INCARNATIONS_KEPT):
        stage.send(SyntheticDevice("a", incarnation=b"life-%03d" % life))
    stage.step()
    forget = stage.ledger.forget_incarnations

    def refuse(_: str) -> object:
        raise LedgerBusy("database or disk is full")

    monkeypatch.setattr(stage.ledger, "forget_incarnations", refuse)
    stage.send(SyntheticDevice("a", incarnation=b"life-999"))
    stage.step()
    assert stage.outcomes() == ["merged"] * (INCARNATIONS_KEPT + 1)
    monkeypatch.setattr(stage.ledger, "forget_incarnations", forget)
    stage.step()
    assert len(stage.ledger.last_of_devices()) == INCARNATIONS_KEPT


def test_a_model_too_large_for_float16_is_published_as_float32(
    make_stage: MakeStage, caplog: pytest.LogCaptureFixture
) -> None:
    believed = AdmissionPolicy(slot_norm_ratio=inf)
    stage = make_stage(replace(SETTINGS, model_encoding="float16", server_rate=10.0, policy=believed))
    large = np.full(LAYOUT.size, 9.0, dtype=np.float32)
    while np.abs(stage.line.weights).max() < 65_504:
        before = stage.line.version
        for name in ("a", "b"):
            stage.send(stage.device(name), difference=large * min(10.0 ** (before // 2), 300))
        stage.step()
        assert stage.line.version == before + 1, stage.outcomes()
    said = [record.message for record in caplog.records if "published as float32" in record.message]
    peak = np.abs(stage.line.weights).max()
    (line,) = said
    assert line.startswith(f"version {stage.line.version} is published as float32: float16: a value of {peak:g} is")
    published = assemble(stage.manifest)
    assert published is not None
    assert published.weights.tobytes() == stage.line.weights.tobytes()
    stage.crash()
    stage.start()
    stage.step()
    again = stage.manifest
    assert (again.encoding, again.digest) == ("float32", published.digest)
    stage.teach(1)
    assert stage.outcomes()[-2:] == ["merged", "merged"]


def test_a_changed_encoding_begins_with_the_next_version(make_stage: MakeStage) -> None:
    # Updates name the digest of what was published; publishing that version in another encoding would disown them.
    stage = make_stage()
    stage.teach(1)
    digest = stage.manifest.digest
    early = stage.device("a").payload(stage.line)
    stage.crash()
    stage.settings = replace(SETTINGS, model_encoding="int8")
    stage.start()
    stage.step()
    assert stage.manifest.digest == digest == stage.line.shelf.published.digest
    stage.send(stage.device("a"), early)
    stage.send(stage.device("b"))
    stage.step()
    assert stage.outcomes()[-2:] == ["merged", "merged"]
    assert stage.manifest.encoding == "int8"


def test_a_full_queue_only_delays_a_version(make_stage: MakeStage, monkeypatch: pytest.MonkeyPatch) -> None:
    stage = make_stage(WHOLE, layout=CHUNKED)
    stage.step()

    def full(*_: object, **__: object) -> object:
        raise LinkError("10000 messages already wait for the broker")

    with monkeypatch.context() as patch:
        patch.setattr(stage.link, "publish", full)
        stage.teach(1)
        assert stage.line.version == 1
        stage.now += 30
        stage.step()
    assert stage.manifest.version == 0
    stage.now += 1
    stage.step()
    assert stage.manifest.version == 0, "not at every turn"
    stage.now += 30
    stage.step()
    assert stage.manifest.version == 1
    assert stage.chunks()[1] == [0, 1]


def test_while_the_broker_is_away_no_models_pile_up(make_stage: MakeStage) -> None:
    stage = make_stage(replace(SETTINGS, version_seconds=1.0), layout=CHUNKED)
    stage.send(stage.device("a"))
    stage.step()
    stage.broker.stop()
    stage.now += 2
    stage.step()
    assert stage.line.version == 1
    assert not stage.link._outgoing._waiting or all(
        not message.payload or message.topic == STATUS for message in stage.link._outgoing._waiting
    )
    stage.broker.start()
    stage.step()
    assert stage.manifest.version == 1


def test_a_large_batch_is_one_transaction(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    stage.step()
    devices = [SyntheticDevice(f"device-{number}") for number in range(200)]
    for device in devices:
        stage.send(device)
    transactions: list[int] = []
    whole = stage.ledger.commit_batch

    def counting(batch: Batch, *, now: float) -> None:
        transactions.append(len(batch.merged))
        whole(batch, now=now)

    monkeypatch.setattr(stage.ledger, "commit_batch", counting)
    stage.step()
    assert transactions == [200]
    assert stage.outcomes() == ["merged"] * 200
    assert replay(stage.path, LAYOUT, initial_weights())[1].tobytes() == stage.line.weights.tobytes()


def test_names_at_the_limit(stage: Stage) -> None:
    device = SyntheticDevice("d" * 64)
    stage.send(device)
    stage.step()
    assert stage.outcomes() == ["merged"]


def test_a_retained_update_is_answered_like_any(stage: Stage) -> None:
    device = stage.device("a")
    stage.mailbox.publish(device.topic, device.payload(stage.line), retain=True)
    stage.step()
    stage.crash()
    stage.start()
    stage.step()
    stage.broker.drop("aggregator")
    stage.step(2)
    assert stage.outcomes()[0] == "merged"
    assert set(stage.outcomes()) <= {"duplicate"}
    assert len(identities(stage.path)) == 1


def test_goodbye_is_said_on_the_status_topic(stage: Stage) -> None:
    stage.teach(1)
    stage.service.farewell()
    assert (stage.status.status, stage.status.version) == ("offline", 1)
