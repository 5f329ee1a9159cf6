"""The real aggregator as a process, and synthetic devices on real links that keep each update until its receipt."""

import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from msgspec import structs

from tests.aggregator.synthetic import LAYOUT, ROOT, TASK, SyntheticDevice
from wire_contract.codec import decode, encode
from wire_contract.layout import Layout
from wire_contract.link.mqtt import MqttLink, MqttSettings
from wire_contract.link.protocol import Connected, Delivery
from wire_contract.messages import Manifest, Receipt, Update
from wire_contract.topics import build

PATIENCE_SECONDS = 60.0
"""Only a failing test waits so long."""
REPOSITORY = Path(__file__).parents[2]


class AggregatorProcess:
    """One run of the program, ended with the test."""

    def __init__(self, log: Path, arguments: Sequence[str], *, module: Sequence[str] = ("aggregator",)) -> None:
        self.log_file = log
        environment = {name: value for name, value in os.environ.items() if not name.startswith("FEDKD_")}
        with log.open("ab") as out:
            self._process = subprocess.Popen(
                [sys.executable, "-m", *module, *arguments], cwd=REPOSITORY, env=environment, stdout=out, stderr=out
            )

    def limit_files(self, size_bytes: int) -> None:
        """The kernel refuses to let any file of the process grow beyond this, as on a full disk; -1: it may again."""
        _, hard = resource.prlimit(self._process.pid, resource.RLIMIT_FSIZE)
        resource.prlimit(self._process.pid, resource.RLIMIT_FSIZE, (size_bytes, hard))

    @property
    def log(self) -> str:
        return self.log_file.read_text()

    @property
    def complaints(self) -> list[str]:
        """What a person has to read: all but the lines that only say how it goes."""
        return [line for line in self.log.splitlines() if " INFO " not in line]

    @property
    def is_running(self) -> bool:
        return self._process.poll() is None

    def ends(self) -> int:
        """Its exit code, when it ends by itself."""
        return self._process.wait(PATIENCE_SECONDS)

    def stop(self) -> int:
        """SIGTERM."""
        self._process.send_signal(signal.SIGTERM)
        return self.ends()

    def kill(self) -> None:
        if self.is_running:
            self._process.kill()
        self._process.wait(PATIENCE_SECONDS)


@dataclass
class Sender:
    """A device that makes so many updates, one at a time, and sends each until its receipt comes."""

    port: int
    name: str
    total: int
    layout: Layout = LAYOUT
    link: MqttLink = field(init=False)
    device: SyntheticDevice = field(init=False)
    manifest: Manifest | None = None
    made: list[Update] = field(default_factory=list)
    receipts: list[Receipt] = field(default_factory=list)
    sends: int = 0
    _pending: Update | None = None
    _again_at: float = 0.0

    def __post_init__(self) -> None:
        self.device = SyntheticDevice(self.name, self.layout)
        topics = (build("model", root=ROOT, task=TASK), self.device.receipts)
        self.link = MqttLink(
            MqttSettings(
                host="127.0.0.1",
                port=self.port,
                client_id=self.name,
                subscriptions=topics,
                reconnect_delay_max_seconds=0.05,
                close_seconds_max=1.0,
            )
        )

    @property
    def done(self) -> bool:
        return len(self.made) >= self.total and self._pending is None

    def turn(self) -> None:
        for event in self.link.receive(count=20, timeout_seconds=0.01):
            if isinstance(event, Connected) and not event.session_present:
                self._again_at = 0.0
            if isinstance(event, Delivery):
                self._take(event)
                self.link.ack(event)
        if self._pending is None and len(self.made) < self.total and self.manifest is not None:
            self._pending = self.device.update(
                base_version=self.manifest.version, base_digest=self.manifest.digest, samples=1 + len(self.made)
            )
            self.made.append(self._pending)
            self._again_at = 0.0
        if self._pending is not None and time.monotonic() >= self._again_at:
            self.link.publish(self.device.topic, encode(self._pending))
            self.sends += 1
            self._again_at = time.monotonic() + 1.0

    def _take(self, delivery: Delivery) -> None:
        if delivery.topic != self.device.receipts:
            self.manifest = decode(delivery.payload, Manifest)
            return
        receipt = decode(delivery.payload, Receipt)
        self.receipts.append(receipt)
        if self._pending is not None and receipt.sequence == self._pending.sequence:
            self._pending = None

    def identities(self) -> list[tuple[str, bytes, int]]:
        return [structs.astuple(update.identity) for update in self.made]  # type: ignore[misc]


def turn_until(senders: Sequence[Sender], enough: Callable[[], bool]) -> None:
    """Lets the devices work; fails rather than waits for ever."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not enough():
        assert time.monotonic() < deadline, [(sender.name, sender.made, sender.receipts) for sender in senders]
        for sender in senders:
            sender.turn()


def poll(true: Callable[[], bool], what: str = "") -> None:
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not true():
        assert time.monotonic() < deadline, f"still waiting {what}"
        time.sleep(0.02)
