"""All lines of a task, served by one program over one link in memory."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from aggregator.ledger.ledger import Ledger
from aggregator.ledger.reading import read_totals
from aggregator.ledger.restoring import restore
from aggregator.lines.begin import begin_next_line
from aggregator.lines.serving import Lines, Served
from aggregator.lines.shared_link import SharedLink
from aggregator.model_line import LineSettings
from aggregator.service import Service, subscriptions
from tests.aggregator.synthetic import (
    LAYOUT,
    ROOT,
    SETTINGS,
    T0,
    TASK,
    SyntheticDevice,
    begin,
    receipt,
    write_initial_model,
)
from wire_contract.codec import decode
from wire_contract.layout import Layout, TensorSpec
from wire_contract.link.memory import MemoryBroker, MemoryLink
from wire_contract.link.protocol import Delivery, Link
from wire_contract.messages import Manifest
from wire_contract.program.clock import Clock
from wire_contract.signatures.key_files import read_signing_keys
from wire_contract.topics import build

NEXT = f"{TASK}.2"
NEW = Layout((TensorSpec("weight", (2, 4)), TensorSpec("bias", (2,))))
"""Layout of the changed student."""
NEWER = Layout((TensorSpec("weight", (5,)),))


class LinesStage:
    """The aggregator's program, as `run` builds it."""

    def __init__(self, folder: Path, settings: LineSettings = SETTINGS, layout: Layout = LAYOUT) -> None:
        self.folder = folder
        self.path = folder / "ledger.sqlite3"
        self.settings = settings
        self.layout = layout
        self.signing_keys = read_signing_keys(())
        self.broker = MemoryBroker()
        self.now = 1_000.0
        self.mailbox = MemoryLink(self.broker, "devices", subscriptions=(f"{ROOT}/+/receipt/+",))
        self.devices: dict[tuple[str, str], SyntheticDevice] = {}
        self.start()

    def start(self) -> None:
        self.link = MemoryLink(self.broker, "aggregator", subscriptions=subscriptions(root=ROOT, task=TASK, shard=0))
        shared = SharedLink(self.link, root=ROOT)
        ledger = Ledger(self.path, task=TASK)
        begin(ledger, self.settings, self.layout)
        self.lines = Lines(
            self._served(TASK, ledger, shared.of(TASK)),
            shared=shared,
            ledger=self.path,
            serve=self._serve,
            monotonic=lambda: self.now,
        )

    def _serve(self, name: str, path: Path, link: Link) -> Served:
        ledger = Ledger(path, task=name)
        for one in subscriptions(root=ROOT, task=name, shard=0):
            link.subscribe(one)
        return self._served(name, ledger, link)

    def _served(self, name: str, ledger: Ledger, link: Link) -> Served:
        service = Service(
            restore(ledger, replace(self.settings, task=name)),
            ledger,
            link,
            root=ROOT,
            totals=read_totals(ledger.path),
            clock=Clock(monotonic=lambda: self.now, unix=lambda: T0 + self.now),
            pause=lambda _: None,
            settle_seconds=0.0,
            signing_keys=self.signing_keys,
        )
        return Served(name=name, service=service, ledger=ledger, close=ledger.close)

    def stop(self) -> None:
        self.lines.farewell()
        self._close()
        self.link.close()

    def crash(self) -> None:
        """The process is gone; the broker sees a lost connection."""
        self._close()
        self.broker.drop("aggregator")
        self.link._is_closed = True

    def _close(self) -> None:
        first, *_ = self.lines._served
        self.lines.close()
        first.close()

    def step(self, count: int = 4) -> None:
        """Turns, with enough time between them that files are looked at."""
        for _ in range(count):
            self.now += 1.0
            self.lines.step()

    def begin_line(self, layout: Layout = NEW) -> str:
        file = write_initial_model(self.folder / "new.safetensors", layout)
        return begin_next_line(
            self.path, task=TASK, initial_model=file, encoding="float32", unix=lambda: T0 + self.now
        ).name

    def device(self, name: str, line: str = TASK) -> SyntheticDevice:
        layout = next(one.service.line.layout for one in self.lines._served if one.name == line)
        return self.devices.setdefault((name, line), SyntheticDevice(name, layout, incarnation=f"{line:>8.8}".encode()))

    def send(self, name: str, line: str = TASK, payload: bytes | None = None) -> bytes:
        """An update of this device on this line, or the same bytes again."""
        served = next(one.service.line for one in self.lines._served if one.name == line)
        sent = self.device(name, line).payload(served, task=line) if payload is None else payload
        self.mailbox.publish(build("update", root=ROOT, task=line, shard=0, device=name), sent)
        return sent

    def answers(self) -> list[tuple[str, str, str]]:
        """Line, outcome or reason, and detail of each receipt since the last call."""
        found = []
        for event in self.mailbox.receive(count=1_000, timeout_seconds=0):
            if isinstance(event, Delivery):
                self.mailbox.ack(event)
                one = receipt(event.payload)
                found.append((event.topic.split("/")[2], one.reason or one.outcome, one.detail))
        return found

    def outcomes(self) -> list[tuple[str, str]]:
        return [(line, outcome) for line, outcome, _ in self.answers()]

    def manifest(self, line: str = TASK) -> Manifest:
        return decode(self.broker.retained[build("model", root=ROOT, task=line)], Manifest)


MakeLines = Callable[..., LinesStage]


@pytest.fixture
def stage(tmp_path: Path) -> LinesStage:
    made = LinesStage(tmp_path)
    made.step()
    return made
