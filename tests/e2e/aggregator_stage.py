"""A ledger, a broker's port, and the real aggregators, devices and links that a test starts there."""

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from aggregator.ledger.reading import read_totals
from tests.aggregator.synthetic import (
    LAYOUT,
    ROOT,
    TASK,
    identities,
    initial_weights,
    newest_weights,
    replay,
    write_initial_model,
)
from tests.e2e.aggregator_process import PATIENCE_SECONDS, AggregatorProcess, Sender, poll
from wire_contract.codec import decode
from wire_contract.layout import Layout
from wire_contract.link.mqtt import MqttLink, MqttSettings
from wire_contract.link.protocol import Delivery
from wire_contract.messages import Manifest
from wire_contract.topics import build, topic_filter


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
        module = ("tests.e2e.crashes.crashing_aggregator", crash[0], str(crash[1])) if crash else ("aggregator",)
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
