"""The timed workload of the aggregator: the same updates, merged into a new ledger in each run."""

import tempfile
import time
from contextlib import ExitStack, closing
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from aggregator.ledger.ledger import Ledger
from aggregator.ledger.reading import read_totals
from aggregator.ledger.records import row_of
from aggregator.ledger.restoring import restore
from aggregator.model_line import LineSettings, opening_release
from aggregator.service import Service, subscriptions
from aggregator.telemetry.collecting import Telemetry
from aggregator.telemetry.recording import Recording
from device_client.settings import UPDATE_BYTES
from wire_contract.codec import encode
from wire_contract.compression.choice import encode_as
from wire_contract.compression.rate_control import CompressionTarget
from wire_contract.layout import Layout, TensorSpec
from wire_contract.link.memory import MemoryBroker, MemoryLink
from wire_contract.messages import Update
from wire_contract.program.clock import SYSTEM_CLOCK
from wire_contract.topics import build

ROOT, TASK = "fedkd/benchmark", "telemetry"
LAYOUT = Layout((TensorSpec("weight", (64, 400)), TensorSpec("bias", (64,))))
"""25,664 parameters, about the size of the built-in tasks' students."""
DEVICES = 500
"""Chosen: five times the 100 devices of a version, so that the same ones are not in each."""
TENSORS = 16
"""Number of distinct differences; each update contains one of them."""


@dataclass
class TimedRun:
    """One run: merging all queued updates."""

    updates: int
    seconds: float
    cpu_seconds: float
    """CPU time of this process, including telemetry's threads."""

    @property
    def rate(self) -> float:
        return self.updates / self.seconds


@dataclass
class Workload:
    """Update payloads for a model line that starts from zero weights."""

    updates: int
    settings: LineSettings = field(default_factory=lambda: LineSettings(task=TASK, updates_per_version=100))
    payloads: list[tuple[str, bytes]] = field(init=False)

    def __post_init__(self) -> None:
        chance = np.random.default_rng(0)
        release = opening_release(self.settings, LAYOUT, np.zeros(LAYOUT.size, dtype=np.float32), published_at=0.0)
        choice = CompressionTarget(bytes_max=UPDATE_BYTES)
        tensors = [
            encode_as(choice, chance.standard_normal(LAYOUT.size).astype(np.float32) * 0.01, LAYOUT, version=0)
            for _ in range(TENSORS)
        ]
        self.payloads = []
        for number in range(self.updates):
            device = f"device-{number % DEVICES:05d}"
            update = Update(
                task=TASK,
                device=device,
                incarnation=b"benchmrk",
                sequence=1 + number // DEVICES,
                base_version=0,
                base_digest=release.published.digest,
                layout_fingerprint=LAYOUT.fingerprint,
                samples=200,
                local_steps=10,
                train_seconds=1.5 + number % 7,
                metrics={"loss": 0.5 + 0.01 * (number % 50), "accuracy": 0.8},
                tensors=tensors[number % TENSORS],
            )
            self.payloads.append((build("update", root=ROOT, task=TASK, shard=0, device=device), encode(update)))

    def run(self, telemetry: Telemetry | None) -> TimedRun:
        """Merges all updates into a new ledger; only the merging is timed."""
        with tempfile.TemporaryDirectory(prefix="fedkd-benchmark-") as folder, ExitStack() as at_the_end:
            path = Path(folder) / "ledger.sqlite3"
            ledger = at_the_end.enter_context(closing(Ledger(path, task=TASK)))
            weights = np.zeros(LAYOUT.size, dtype=np.float32)
            ledger.begin_line(
                row_of(opening_release(self.settings, LAYOUT, weights, published_at=0.0)), LAYOUT, weights
            )
            line = restore(ledger, self.settings)
            broker = MemoryBroker()
            listens = subscriptions(root=ROOT, task=TASK, shard=0)
            link = at_the_end.enter_context(closing(MemoryLink(broker, "aggregator", subscriptions=listens)))
            for topic, payload in self.payloads:
                broker.publish(topic, payload)
            recording = Recording()
            if telemetry is not None:
                recording = Recording(telemetry.record, queue_depth=lambda: link.waiting, traffic=lambda: link.traffic)
            service = Service(
                line,
                ledger,
                link,
                root=ROOT,
                totals=read_totals(path),
                clock=SYSTEM_CLOCK,
                pause=time.sleep,
                recording=recording,
            )
            began, cpu_began = time.perf_counter(), time.process_time()
            while link.traffic.messages_in < self.updates or link.waiting:
                service.step()
            done = TimedRun(self.updates, time.perf_counter() - began, time.process_time() - cpu_began)
            assert read_totals(path).merged == self.updates
            return done
