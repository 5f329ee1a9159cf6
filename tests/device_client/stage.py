"""A device on a stage: a broker in memory, a clock that only waiting moves, and an aggregator that keeps books."""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from device_client.downlink.model_trust import ModelTrust, TrustMemory
from device_client.events import EVENTS
from device_client.presence import subscriptions, will
from device_client.runner import Ended, Runner, RunnerSettings
from device_client.trainer import Tick, Trained
from device_client.uplink.outbox import Outbox
from tests.wire_contract.announcements import announce
from wire_contract import codec, topics
from wire_contract.encoding import decode_vector
from wire_contract.layout import Layout, TensorSpec, Vector
from wire_contract.line_description import LineDescription
from wire_contract.link.memory import MemoryBroker, MemoryLink
from wire_contract.link.protocol import Delivery, Disconnected, Event, QoS
from wire_contract.message_fields import RefusalReason
from wire_contract.messages import Presence, Receipt, Update
from wire_contract.program.clock import Clock
from wire_contract.publication.manifest import Announcement
from wire_contract.signatures.envelope import read_unverified
from wire_contract.signatures.signing import PublicKey, SigningKey, sign

if TYPE_CHECKING:
    from device_client.downlink.line_check import OwnLine

ROOT = topics.DEFAULT_ROOT
TASK = "walking"
DEVICE = "watch-1"
LAYOUT = Layout((TensorSpec("a.weight", (3, 4)), TensorSpec("a.bias", (4,))))
TURNS_MAX = 100_000
"""Only a failing test takes so many."""


def model(
    version: int,
    *,
    seed: int = 0,
    published_at: float | None = None,
    layout: Layout = LAYOUT,
    task: str = TASK,
    update_bytes_max: int = 1 << 20,
    shards: int = 1,
    description: LineDescription | None = None,
) -> Announcement:
    """Version `version` of the line `seed`."""
    weights = np.random.default_rng([seed, version]).standard_normal(layout.size).astype(np.float32)
    return announce(
        weights,
        task=task,
        version=version,
        parent=version - 1 if version else None,
        layout=layout,
        encoding="float32",
        shards=shards,
        update_bytes_max=update_bytes_max,
        published_at=1_000.0 + version if published_at is None else published_at,
        description=description,
    )


@dataclass
class Time:
    """Seconds that pass only when somebody waits."""

    now: float = 1_000_000.0

    @property
    def clock(self) -> Clock:
        return Clock(lambda: self.now, lambda: self.now, lambda: datetime.fromtimestamp(self.now, UTC))


class Kill(BaseException):
    """The process dies here."""


def fill_disk(outbox: Outbox) -> None:
    """From now on SQLite answers as it does on a full disk, to whatever makes the file grow."""
    (pages,) = outbox._execute("PRAGMA page_count").fetchone()
    outbox._execute(f"PRAGMA max_page_count = {pages}")


def free_disk(outbox: Outbox) -> None:
    """There is space again."""
    outbox._execute("PRAGMA max_page_count = 1000000")


class WatchedLink:
    """A link whose waiting moves the clock, and lets the stage look at each turn."""

    def __init__(self, inner: MemoryLink, time: Time, each_turn: Callable[[], None]) -> None:
        self.inner = inner
        self._time = time
        self._each_turn = each_turn
        self.acked: list[Delivery] = []

    def receive(self, *, count: int, timeout_seconds: float) -> Sequence[Event]:
        self._each_turn()
        events = self.inner.receive(count=count, timeout_seconds=0)
        if all(isinstance(event, Disconnected) for event in events):  # a real link rests between its attempts
            self._time.now += timeout_seconds
        return events

    def publish(self, topic: str, payload: bytes, *, retain: bool = False) -> Any:
        return self.inner.publish(topic, payload, retain=retain)

    def subscribe(self, topic_filter: str, *, qos: QoS = 1) -> None:
        self.inner.subscribe(topic_filter, qos=qos)

    def unsubscribe(self, topic_filter: str) -> None:
        self.inner.unsubscribe(topic_filter)

    def ack(self, delivery: Delivery) -> None:
        self.acked.append(delivery)
        self.inner.ack(delivery)

    def close(self) -> None:
        self.inner.close()


@dataclass
class Aggregator:
    """Takes updates as the real one does, as far as a device can see, and keeps books of every payload."""

    broker: MemoryBroker
    link: MemoryLink = field(init=False)
    payloads: dict[tuple[bytes, int], bytes] = field(default_factory=dict)
    """What stood under each identity, ever."""
    merged: list[Update] = field(default_factory=list)
    duplicates: int = 0
    answering: bool = True
    refusing: RefusalReason | None = None
    answer: Callable[[Delivery], Receipt | None] = lambda _delivery: None
    """What it says of a delivery instead of judging it; None: it judges."""
    received: int = 0
    signing_keys: list[SigningKey] = field(default_factory=list)

    def __post_init__(self) -> None:
        updates = topics.topic_filter("update", root=ROOT, task=TASK)
        self.link = MemoryLink(self.broker, "aggregator", subscriptions=(updates,))

    def publish(self, announcement: Announcement) -> None:
        for index, chunk in enumerate(announcement.chunks):
            topic = topics.build("chunk", root=ROOT, task=TASK, version=announcement.manifest.version, chunk=index)
            self.link.publish(topic, chunk, retain=True)
        self.announce(sign(announcement.manifest, self.signing_keys))

    def announce(self, payload: bytes) -> None:
        """Whatever stands on the model topic."""
        self.link.publish(topics.build("model", root=ROOT, task=TASK), payload, retain=True)

    def work(self) -> None:
        for event in self.link.receive(count=100, timeout_seconds=0):
            if isinstance(event, Delivery):
                self._take(event)

    def _take(self, delivery: Delivery) -> None:
        update = read_unverified(delivery.payload, Update)
        self.received += 1
        known = self.payloads.setdefault((update.incarnation, update.sequence), delivery.payload)
        assert known == delivery.payload, f"{update.identity} stands for two different updates"
        self.link.ack(delivery)
        if not self.answering:
            return
        if (receipt := self.answer(delivery)) is not None:
            self.send_receipt(receipt)
        elif self.refusing is not None:
            self.receipt(update, outcome="refused", reason=self.refusing)
        elif any(update.identity == other.identity for other in self.merged):
            self.duplicates += 1
            self.receipt(update, outcome="duplicate")
        else:
            last = max((other.sequence for other in self.merged if other.incarnation == update.incarnation), default=0)
            assert update.sequence > last, "out of order"
            self.merged.append(update)
            self.receipt(update, outcome="merged")

    def receipt(self, update: Update, **fields: Any) -> None:
        self.send_receipt(Receipt(incarnation=update.incarnation, sequence=update.sequence, version=1, **fields))

    def send_receipt(self, receipt: Receipt) -> None:
        self.link.publish(topics.build("receipt", root=ROOT, task=TASK, device=DEVICE), codec.encode(receipt))

    def difference(self, update: Update, layout: Layout = LAYOUT) -> Vector:
        return decode_vector(update.tensors, layout)


class FakeTrainer:
    """Moves the weights by one, in so many batches, each of which takes a second."""

    def __init__(self, time: Time, *, batches: int = 2) -> None:
        self.time = time
        self.batches = batches
        self.rounds: list[tuple[int, int]] = []
        """Version and number of the finished rounds."""
        self.steps: dict[tuple[int, int], Vector] = {}
        """What each of them did to the weights."""
        self.begun = 0
        self.diverge_in = frozenset[tuple[int, int]]()
        self.at_batch: Callable[[int], None] = lambda _batch: None

    def train(self, weights: Vector, *, version: int, round: int, tick: Tick) -> Trained | None:  # noqa: A002
        self.begun += 1
        for batch in range(self.batches):
            if not tick():
                return None
            self.at_batch(batch)
            self.time.now += 1.0
        self.rounds.append((version, round))
        name = hashlib.sha256(f"{version}/{round}".encode()).digest()
        step = np.random.default_rng(list(name)).standard_normal(weights.size).astype(np.float32)
        if (version, round) in self.diverge_in:
            step[0] = np.nan
        self.steps[version, round] = step
        return Trained(weights + step, samples=10, steps=self.batches, metrics={"loss": 0.5, "accuracy": 0.75})


class Stage:
    """One device, killed and started again at will."""

    def __init__(self, folder: Path, **settings: Any) -> None:
        self.path = folder / "outbox.sqlite"
        self.settings = {"encoding": "float32", **settings}
        self.entries_max = 64
        self.layout = LAYOUT
        self.time = Time()
        self.clock = self.time.clock
        self.broker = MemoryBroker()
        self.aggregator = Aggregator(self.broker)
        self.trainer = FakeTrainer(self.time)
        self.events: list[tuple[str, dict[str, Any]]] = []
        self.training_unmet: tuple[str, ...] = ()
        self.upload_unmet: tuple[str, ...] = ()
        self.at_turn: Callable[[], None] = lambda: None
        self.runner: Runner | None = None
        self.link: WatchedLink | None = None
        self.opened: Outbox | None = None
        self.seeds = 0
        self.model_keys: list[PublicKey] = []
        self.update_key: SigningKey | None = None
        self.device_metrics: dict[str, float] = {}
        self.own_line: OwnLine | None = None
        self.beats: list[str] = []
        """The trouble told in each turn; empty: none."""

    def emit(self, event: str, **fields: object) -> None:
        assert set(fields) == set(EVENTS[event].fields)
        EVENTS[event].text(fields)
        self.events.append((event, dict(fields)))

    def told(self, event: str) -> list[dict[str, Any]]:
        return [fields for name, fields in self.events if name == event]

    def outbox(self) -> Outbox:
        def random_bytes(count: int) -> bytes:
            self.seeds += 1
            return bytes([self.seeds]) * count

        return Outbox(self.path, task=TASK, device=DEVICE, random_bytes=random_bytes, entries_max=self.entries_max)

    def run(self, until: Callable[[], bool], *, outbox: Outbox | None = None) -> Ended:
        """The device from start to a clean stop at the first turn in which `until` holds, or to a `Kill`."""
        turns = 0

        def each_turn() -> None:
            nonlocal turns
            turns += 1
            assert turns < TURNS_MAX, f"still waiting after {self.events[-5:]}"
            self.aggregator.work()
            self.at_turn()
            assert self.runner is not None
            if until():
                self.runner.stop()

        inner = MemoryLink(
            self.broker,
            DEVICE,
            subscriptions=subscriptions(ROOT, TASK, DEVICE),
            will=will(ROOT, TASK, DEVICE, firmware="test"),
        )
        with self.outbox() if outbox is None else outbox as opened:
            self.opened = opened
            self.link = WatchedLink(inner, self.time, each_turn)
            self.runner = Runner(
                task_name=TASK,
                device=DEVICE,
                layout=self.layout,
                link=self.link,
                root=ROOT,
                outbox=opened,
                trainer=self.trainer,
                training_unmet=lambda: self.training_unmet,
                upload_unmet=lambda: self.upload_unmet,
                clock=self.clock,
                uniform=lambda _low, high: high,
                emit=self.emit,
                settings=RunnerSettings(firmware="test", **self.settings),
                traffic=lambda: inner.traffic,
                trust=self.trust(opened),
                update_signing_key=self.update_key,
                device_metrics=lambda: self.device_metrics,
                heartbeat=lambda *, trouble="": self.beats.append(trouble),
                own_line=self.own_line,
            )
            try:
                ended = self.runner.run()
            except BaseException:
                inner.die("the process was killed")  # without a goodbye
                raise
            inner.close()
            return ended

    def trust(self, memory: TrustMemory) -> ModelTrust | None:
        if not self.model_keys:
            return None
        return ModelTrust(self.model_keys, task=TASK, memory=memory, unix=self.time.clock.unix)

    def run_for(self, seconds: float, *, outbox: Outbox | None = None) -> Ended:
        end = self.time.now + seconds
        return self.run(lambda: self.time.now >= end, outbox=outbox)

    @staticmethod
    def update(payload: bytes) -> Update:
        return read_unverified(payload, Update)

    def queued(self) -> list[int]:
        """The sequences that wait in the outbox of a device that does not run."""
        with self.outbox() as outbox:
            return [number for number in range(1, outbox.next_identity.sequence) if outbox.find(number) is not None]

    def queued_now(self) -> int:
        """How many wait in the outbox of a device that runs."""
        assert self.opened is not None
        return len(self.opened)

    def merged(self) -> list[tuple[int, int]]:
        """Sequence and base version of each merged update, in order."""
        return [(update.sequence, update.base_version) for update in self.aggregator.merged]

    def presence(self) -> str:
        payload = self.broker.retained[topics.build("presence", root=ROOT, task=TASK, device=DEVICE)]
        return codec.decode(payload, Presence).status
