"""An older and a newer device teach one model together, under an older and under a newer aggregator.

Real programs, real mosquitto. Each update is merged once, each receipt understood, and all of them have the same model.
"""

import json
import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from tests.broker.mosquitto import Mosquitto
from tests.older.bearings import TENSORS
from tests.older.program import REPOSITORY, Age, Program, start, unpacked

pytestmark = [pytest.mark.e2e, pytest.mark.broker]

TASK_FILE = Path(__file__).with_name("bearings.py")
PATIENCE_SECONDS = 180.0
UPDATES_EACH = 5
DEVICES: dict[str, Age] = {"machine-1": "older", "machine-2": "newer"}


class Federation:
    """Two devices, one of each age, and an aggregator."""

    def __init__(self, folder: Path, broker: Mosquitto) -> None:
        self.folder = folder
        self.broker = broker
        self.ledger = folder / "ledger.sqlite3"
        self.packages: dict[Age, Path] = {"older": unpacked(folder / "older"), "newer": REPOSITORY}
        self.running: list[Program] = []
        self.work = folder / "work"
        self.work.mkdir()

    def start(self, age: Age, name: str, *arguments: str) -> None:
        log = self.folder / f"{name}.log"
        self.running.append(start(self.packages[age], arguments, folder=self.work, log=log))

    def start_aggregator(self, age: Age) -> None:
        initial = self.folder / "initial.safetensors"
        random = np.random.default_rng(0)
        weights = {name: random.normal(0, 0.1, shape).astype(np.float32) for name, shape in TENSORS.items()}
        layout = json.dumps([[name, list(shape)] for name, shape in TENSORS.items()])
        save_file(weights, initial, metadata={"task": "bearings", "layout": layout, "role": "initial-model"})
        arguments = ["--task", "bearings", "--broker", self.broker.url, "--ledger", str(self.ledger)]
        arguments += ["--initial-model", str(initial), "--updates-per-version", "2"]
        self.start(age, "aggregator", "aggregator", *arguments)

    def start_device(self, age: Age, name: str) -> None:
        arguments = ["--task", f"{TASK_FILE}:task", "--device", name, "--broker", self.broker.url]
        arguments += ["--state", str(self.folder / name), "--retrain-after-seconds", "0.2", "--log-format", "json"]
        self.start(age, name, "device_client", "run", *arguments)

    def asked(self, query: str) -> list[tuple[Any, ...]]:
        """Of the ledger; the tables asked here are the same in both programs."""
        if not self.ledger.exists():
            return []
        with closing(sqlite3.connect(f"file:{self.ledger}?mode=ro", uri=True, timeout=10)) as db:
            try:
                return db.execute(query).fetchall()
            except sqlite3.OperationalError:  # not made yet
                return []

    def events(self, name: str) -> list[dict[str, Any]]:
        lines = (self.folder / f"{name}.log").read_text(encoding="utf-8").splitlines()
        return [json.loads(line) for line in lines if line.startswith("{")]

    def told(self, name: str, event: str) -> list[dict[str, Any]]:
        return [one for one in self.events(name) if one["event"] == event]

    @property
    def logs(self) -> str:
        return "\n".join(f"== {log.name}\n{log.read_text()[-2_000:]}" for log in sorted(self.folder.glob("*.log")))

    def end(self) -> None:
        """The devices first, and each in order."""
        for process in reversed(self.running):
            process.terminate()
            process.wait(PATIENCE_SECONDS)
        self.running.clear()


@pytest.fixture
def federation(tmp_path: Path, mosquitto: Mosquitto) -> Iterator[Federation]:
    made = Federation(tmp_path, mosquitto)
    yield made
    for process in made.running:
        process.kill()
        process.wait()


@pytest.mark.parametrize("age", ["older", "newer"])
def test_devices_of_both_ages_teach_one_model(federation: Federation, age: Age) -> None:
    federation.start_aggregator(age)
    for name, device_age in DEVICES.items():
        federation.start_device(device_age, name)
    deadline = time.monotonic() + PATIENCE_SECONDS
    while min(len(federation.told(name, "receipt")) for name in DEVICES) < UPDATES_EACH:
        assert time.monotonic() < deadline, federation.logs
        assert all(process.poll() is None for process in federation.running), federation.logs
        time.sleep(0.1)
    federation.end()

    journal = federation.asked("SELECT device, incarnation, sequence, base_version FROM journal ORDER BY id")
    assert len({row[:3] for row in journal}) == len(journal), "each update was merged once"
    assert not [row for row in federation.asked("SELECT * FROM counter") if row[0] == "refused"], federation.logs
    (newest,) = federation.asked("SELECT max(version) FROM version")
    for name in DEVICES:
        merged = [row for row in journal if row[0] == name]
        receipts = federation.told(name, "receipt")
        assert {receipt["outcome"] for receipt in receipts} <= {"merged", "duplicate"}
        settled = {receipt["sequence"] for receipt in receipts}
        assert settled <= {row[2] for row in merged}, "what a receipt ended is merged"
        assert len(merged) - len(settled) <= 1, "at most the last one was under way at the end"
        assert not federation.told(name, "warning"), federation.logs
        versions = [model["version"] for model in federation.told(name, "model")]
        steps = [after - before for before, after in pairwise(versions)]
        assert 1 in steps, "versions that are no snapshots were had, by deltas"
        assert versions[-1] >= newest[0] - 1
        # An update names the digest of its base, and one of another digest would have been refused.
        assert len({row[3] for row in merged}) > 1, "several versions were trained on"
