"""An aggregator over a broker in memory, with a clock that the test moves."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from aggregator.ledger.ledger import Ledger
from aggregator.ledger.reading import read_totals
from aggregator.metrics_file import MetricsFile
from aggregator.model_line import LineSettings
from aggregator.service import Service, subscriptions
from aggregator.status import StatusHistory
from tests.aggregator.synthetic import (
    LAYOUT,
    ROOT,
    SETTINGS,
    T0,
    TASK,
    SyntheticDevice,
    begin,
    receipt,
)
from wire_contract.codec import decode
from wire_contract.layout import Layout
from wire_contract.link.memory import MemoryBroker, MemoryLink
from wire_contract.link.protocol import Delivery
from wire_contract.messages import AggregatorStatus, Manifest, Receipt
from wire_contract.program.clock import Clock
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
