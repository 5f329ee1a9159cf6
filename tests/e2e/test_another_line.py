"""A new, an older and a second ledger, with real programs and a real broker: none replaces the line unasked, and
devices that run all along go on by themselves.
"""

import json
import sqlite3
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from dataclasses import replace
from pathlib import Path

import pytest

from aggregator.__main__ import main as aggregator_main
from aggregator.ledger.file_format import LedgerError
from aggregator.ledger.reading import read_journal, read_totals
from device_client.__main__ import main as device_main
from tests.broker.mosquitto import Mosquitto
from tests.e2e.aggregator_process import REPOSITORY, AggregatorProcess
from tests.waiting import eventually
from wire_contract import codec
from wire_contract.link.mqtt import MqttLink
from wire_contract.link.mqtt_settings import MqttSettings
from wire_contract.link.protocol import Delivery
from wire_contract.messages import Manifest
from wire_contract.topics import DEFAULT_ROOT

pytestmark = pytest.mark.e2e

OWN = """
from torch import nn
from device_client.task import Examples, Recipe, Task

def some(*_):
    return Examples.of([[0.0], [1.0]] * 8, [0, 1] * 8)

def make():
    return Task(
        name="own", classes=("a", "b"), student=lambda: nn.Linear(1, 2), device_data=some, held_out=some,
        devices=("d1", "d2"), recipe=Recipe(epochs=1),
    )
"""
PATIENCE_SECONDS = 300.0
"""Only a failing test waits so long, on however busy a machine: devices import torch."""
SYNC = "fedkd/v1/own/presence/looking-on"


class Device:
    """The real program, from the beginning of the test to its end."""

    def __init__(self, folder: Path, task: str, name: str, url: str, at_the_end: ExitStack) -> None:
        self.name = name
        self._log = folder / f"{name}.log"
        arguments = ["--task", task, "--device", name, "--broker", url, "--state", str(folder / name)]
        arguments += ["--log-format", "json", "--receipt-timeout-seconds", "1", "--resend-delay-max-seconds", "1"]
        arguments += ["--local-rounds-max", "100", "--retrain-after-seconds", "1"]
        with self._log.open("wb") as out:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "device_client", "run", *arguments], cwd=REPOSITORY, stdout=out, stderr=out
            )
        at_the_end.callback(self.process.wait)
        at_the_end.callback(self.process.kill)

    @property
    def log(self) -> str:
        return self._log.read_text()

    def told(self, event: str) -> list[dict[str, object]]:
        lines = [json.loads(line) for line in self.log.splitlines() if line.startswith("{")]
        return [line for line in lines if line["event"] == event]


class Scene:
    """One broker, one task, two devices, and ledgers at will."""

    def __init__(self, folder: Path, broker: Mosquitto, at_the_end: ExitStack) -> None:
        self.folder, self.broker = folder, broker
        self._at_the_end = at_the_end
        own = folder / "own.py"
        own.write_text(OWN)
        self.task = f"{own}:make"
        self.initial = folder / "initial.safetensors"
        assert device_main(["initial-model", "--task", self.task, "--out", str(self.initial)]) == 0
        self._started = 0

    def ledger(self, name: str) -> Path:
        return self.folder / f"{name}.sqlite3"

    def start(self, name: str, *more: str) -> AggregatorProcess:
        self._started += 1
        arguments = ["--task", "own", "--broker", self.broker.url, "--ledger", str(self.ledger(name))]
        arguments += ["--initial-model", str(self.initial), "--updates-per-version", "2", *more]
        process = AggregatorProcess(self.folder / f"aggregator-{self._started}.log", arguments)
        self._at_the_end.callback(process.kill)
        return process

    def devices(self) -> list[Device]:
        return [Device(self.folder, self.task, name, self.broker.url, self._at_the_end) for name in ("d1", "d2")]

    def refused(self, name: str) -> str:
        """What an aggregator says that does not start."""
        process = self.start(name)
        assert process.ends() == 2, process.log
        return process.log.splitlines()[-1]

    def version(self, name: str) -> int:
        try:
            return read_totals(self.ledger(name)).version
        except LedgerError:  # it is just being made
            return -1

    def reaches(self, name: str, version: int, *watched: AggregatorProcess) -> None:
        def is_there() -> bool:
            for process in watched:
                assert process.is_running, process.log
            return self.version(name) >= version

        eventually(is_there, seconds_max=PATIENCE_SECONDS)

    def copy(self, source: str, target: str) -> int:
        """Of a ledger in use; gives its version."""
        with (
            closing(sqlite3.connect(self.ledger(source))) as one,
            closing(sqlite3.connect(self.ledger(target))) as other,
        ):
            one.backup(other)
        return self.version(target)


@pytest.fixture
def scene(tmp_path: Path, mosquitto: Mosquitto) -> Iterator[Scene]:
    with ExitStack() as at_the_end:
        yield Scene(tmp_path, mosquitto, at_the_end)


@pytest.fixture
def retained(mosquitto: Mosquitto) -> Callable[[], dict[str, bytes]]:
    """What a newcomer gets of the model topics."""

    def look() -> dict[str, bytes]:
        settings = MqttSettings(host="127.0.0.1", port=mosquitto.port, client_id="looking on", clean_start=True)
        filters = tuple(f"{DEFAULT_ROOT}/own/{rest}" for rest in ("model", "model/+/+", "delta/+", "aggregator/+"))
        with closing(MqttLink(replace(settings, subscriptions=(*filters, SYNC)))) as link:
            assert link.publish(SYNC, b"").wait(PATIENCE_SECONDS)
            found: dict[str, bytes] = {}
            while True:
                for event in link.receive(count=100, timeout_seconds=0.1):
                    if isinstance(event, Delivery):
                        if event.topic == SYNC:
                            return found
                        found[event.topic] = event.payload
                        link.ack(event)

    return look


def version_of(retained: dict[str, bytes]) -> int:
    """The version that is announced."""
    return codec.decode(retained[f"{DEFAULT_ROOT}/own/model"], Manifest).version


def answered_once(device: Device) -> None:
    """Every update that the device made, but for the newest, has had exactly one answer."""
    queued = [line["sequence"] for line in device.told("queued")]
    answers = Counter(line["sequence"] for line in device.told("receipt"))
    assert queued == list(range(1, len(queued) + 1))
    assert all(answers[one] == 1 for one in queued[:-4]), answers
    assert max(answers.values()) == 1


def test_ledgers_that_are_not_the_line_s(scene: Scene, retained: Callable[[], dict[str, bytes]]) -> None:
    aggregator = scene.start("ledger")
    scene.reaches("ledger", 0, aggregator)
    devices = scene.devices()
    scene.reaches("ledger", 3, aggregator)
    older = scene.copy("ledger", "older")
    scene.reaches("ledger", older + 5, aggregator)

    # A second aggregator with a ledger of its own is refused, and the first goes on.
    assert "another line stands on fedkd/v1/own/model" in scene.refused("second")
    published = version_of(retained())
    eventually(lambda: version_of(retained()) >= published + 3, seconds_max=PATIENCE_SECONDS)
    assert aggregator.is_running, aggregator.log

    # Its ledger is lost: with a new one it does not start, nor with an older one, and nothing changes on the broker.
    assert aggregator.stop() == 0
    before = retained()
    newest = version_of(before)
    for name, version in (("new", 0), ("older", older)):
        said = scene.refused(name)
        assert f"at version {newest}, published" in said
        assert f"{scene.ledger(name)}, at version {version}, does not know it" in said
        assert f"move-forward --ledger {scene.ledger(name)} --version {newest + 1}" in said
    assert retained() == before

    # Moved forward, the older one is the line, and devices that ran all along follow it.
    forward = ["move-forward", "--ledger", str(scene.ledger("older")), "--version", str(newest + 1)]
    assert aggregator_main(forward) == 0
    aggregator = scene.start("older")
    scene.reaches("older", newest + 4, aggregator)
    merged = [(one.device, one.sequence) for one in read_journal(scene.ledger("older"))]
    assert len(merged) == len(set(merged)), "exactly once"
    assert {name for name, _ in merged[-6:]} == {"d1", "d2"}

    # A new ledger is told to begin anew, and devices that ran all along begin with it.
    assert aggregator.stop() == 0
    aggregator = scene.start("new", "--replace-line")
    scene.reaches("new", 3, aggregator)
    assert {one.device for one in read_journal(scene.ledger("new"))} == {"d1", "d2"}
    for device in devices:
        assert device.process.poll() is None, device.log
        answered_once(device)


def test_an_older_ledger_behind_the_back_of_the_broker(scene: Scene) -> None:
    """The broker has lost what it retained, so nothing stands in the way of an older ledger. Its versions are lower
    than what devices hold, and were published earlier.
    """
    aggregator = scene.start("ledger")
    scene.reaches("ledger", 0, aggregator)
    devices = scene.devices()
    scene.reaches("ledger", 2, aggregator)
    older = scene.copy("ledger", "older")
    scene.reaches("ledger", older + 5, aggregator)
    assert aggregator.stop() == 0
    scene.broker.restart(lose_state=True)
    aggregator = scene.start("older")
    scene.reaches("older", older + 3, aggregator)
    for device in devices:
        assert "does not know version" in device.log, "and the device says what it sees"
        assert device.process.poll() is None
        answered_once(device)
