"""A device dies at every step of an update's way; at the end each update it ever queued was merged once.

Real mosquitto, the real aggregator as a process, the real runner, outbox and link in a process that kills itself.
"""

import json
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from aggregator.ledger.file_format import LedgerError
from aggregator.ledger.reading import read_journal, read_totals
from device_client.uplink.outbox import Outbox
from tests.broker.mosquitto import Mosquitto
from tests.conftest import MakeMosquitto
from tests.e2e.crashes.crashing_device import LAYOUT, TASK

pytestmark = pytest.mark.e2e

ROOT = Path(__file__).parents[3]
PATIENCE_SECONDS = 120.0


def initial_model(path: Path) -> Path:
    weights = {spec.name: np.ones(spec.shape, dtype=np.float32) for spec in LAYOUT.tensors}
    layout = json.dumps([[spec.name, list(spec.shape)] for spec in LAYOUT.tensors])
    save_file(weights, path, metadata={"task": TASK, "layout": layout, "role": "initial-model"})
    return path


def start_aggregator(folder: Path, broker: Mosquitto) -> subprocess.Popen[bytes]:
    arguments = ["--task", TASK, "--broker", broker.url, "--mqtt", "3.1.1", "--ledger", str(folder / "ledger.sqlite3")]
    arguments += ["--initial-model", str(initial_model(folder / "initial.safetensors")), "--updates-per-version", "1"]
    arguments += ["--devices-min", "1"]
    with (folder / "aggregator.log").open("ab") as log:
        return subprocess.Popen([sys.executable, "-m", "aggregator", *arguments], cwd=ROOT, stderr=log)


def end(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    process.wait(PATIENCE_SECONDS)


class Device:
    """Lives of one device, all on the same outbox."""

    def __init__(self, folder: Path, broker: Mosquitto, name: str = "watch-1") -> None:
        self.state = folder / f"{name}.sqlite3"
        self.name = name
        self._broker = broker
        self._log = folder / f"{name}.log"

    def start(self, *, rounds: int, die_at: str = "") -> subprocess.Popen[bytes]:
        command = [sys.executable, "-m", "tests.e2e.crashes.crashing_device", str(self._broker.port), str(self.state)]
        with self._log.open("ab") as log:
            arguments = [*command, self.name, str(rounds), *([die_at] if die_at else [])]
            return subprocess.Popen(arguments, cwd=ROOT, stdout=log, stderr=log)

    def live(self, *, rounds: int, die_at: str = "") -> int:
        """One life; the exit code, negative for a signal."""
        process = self.start(rounds=rounds, die_at=die_at)
        try:
            return process.wait(PATIENCE_SECONDS)
        finally:
            process.kill()
            process.wait()

    def queued_ever(self) -> int:
        with Outbox(self.state, task=TASK, device=self.name) as outbox:
            assert not len(outbox), "updates were left behind"
            return outbox.next_identity.sequence - 1


@pytest.fixture
def aggregator(tmp_path: Path, mosquitto: Mosquitto) -> Iterator[subprocess.Popen[bytes]]:
    process = start_aggregator(tmp_path, mosquitto)
    yield process
    end(process)


def assert_balanced(folder: Path, device: Device, *, updates: int) -> None:
    contributions = read_journal(folder / "ledger.sqlite3")
    assert [row.sequence for row in contributions if row.device == device.name] == list(range(1, updates + 1))
    assert device.queued_ever() == updates
    assert read_totals(folder / "ledger.sqlite3").refused == 0


@pytest.mark.parametrize(
    "point",
    [
        pytest.param("Outbox.add:3:before", id="trained, not in the outbox yet"),
        pytest.param("Outbox.add:3:after", id="in the outbox, not published"),
        pytest.param("Outbox.attempted:3:after", id="counted as sent, not published"),
        pytest.param("MqttLink.publish:3:before", id="before publish"),
        pytest.param("MqttLink.publish:3:after", id="at the broker, no receipt yet"),
        pytest.param("Outbox.record:3:before", id="receipt is here, not noted"),
        pytest.param("Outbox.record:3:after", id="receipt noted, not acknowledged"),
    ],
)
@pytest.mark.usefixtures("aggregator")
def test_killed_at(point: str, tmp_path: Path, mosquitto: Mosquitto) -> None:
    device = Device(tmp_path, mosquitto)
    assert device.live(rounds=5, die_at=point) == -signal.SIGKILL
    assert device.live(rounds=5) == 0
    assert_balanced(tmp_path, device, updates=5)


@pytest.mark.usefixtures("aggregator")
def test_killed_again_and_again(tmp_path: Path, mosquitto: Mosquitto) -> None:
    device = Device(tmp_path, mosquitto)
    for life in range(4):
        point = f"MqttLink.publish:{life + 1}:{'after' if life % 2 else 'before'}"
        assert device.live(rounds=12, die_at=point) == -signal.SIGKILL
    assert device.live(rounds=12) == 0
    assert_balanced(tmp_path, device, updates=12)


def test_offline_for_long_then_everything_arrives_in_order(tmp_path: Path, mosquitto: Mosquitto) -> None:
    """The device has a model, the broker goes away, it goes on learning, and hands all of it in later."""
    aggregator = start_aggregator(tmp_path, mosquitto)
    device = Device(tmp_path, mosquitto)
    assert device.live(rounds=1) == 0
    mosquitto.stop()
    process = device.start(rounds=9)
    try:
        wait_until_queued(device, tmp_path, 9)
        mosquitto.start()
        assert process.wait(PATIENCE_SECONDS) == 0
    finally:
        process.kill()
        process.wait()
        end(aggregator)
    assert_balanced(tmp_path, device, updates=9)
    # All of the offline updates name the base that the device had, so the later ones are stale and weigh less.
    rows = read_journal(tmp_path / "ledger.sqlite3")
    assert {row.base_version for row in rows[2:]} == {rows[2].base_version}
    assert [row.staleness for row in rows[2:]] == sorted(row.staleness for row in rows[2:])
    assert rows[-1].weight < rows[2].weight


def wait_until_queued(device: Device, folder: Path, sequence: int) -> None:
    log = folder / f"{device.name}.log"
    deadline = time.monotonic() + PATIENCE_SECONDS
    while f"queued {{'sequence': {sequence}," not in log.read_text():
        assert time.monotonic() < deadline, log.read_text()
        time.sleep(0.05)


def test_broker_killed_with_its_state_lost(tmp_path: Path, make_mosquitto: MakeMosquitto) -> None:
    """Acknowledged messages, sessions and retained models are gone; receipts and re-publishing make up for it."""
    broker = make_mosquitto()
    broker.start()
    aggregator = start_aggregator(tmp_path, broker)
    devices = [Device(tmp_path, broker, f"watch-{number}") for number in range(3)]
    processes = [device.start(rounds=100) for device in devices]
    try:
        deadline = time.monotonic() + PATIENCE_SECONDS
        for merged in (40, 120, 220):
            while read_merged(tmp_path) < merged:
                assert time.monotonic() < deadline, f"only {read_merged(tmp_path)} merged"
                time.sleep(0.02)
            broker.kill()
            broker.restart(lose_state=True)
        assert [process.wait(PATIENCE_SECONDS) for process in processes] == [0, 0, 0]
    finally:
        for process in processes:
            process.kill()
            process.wait()
        end(aggregator)
    for device in devices:
        assert_balanced(tmp_path, device, updates=100)


def read_merged(folder: Path) -> int:
    try:
        return read_totals(folder / "ledger.sqlite3").merged
    except LedgerError:  # the aggregator has not made it yet
        return 0
