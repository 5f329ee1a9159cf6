"""A federation of real programs of both ages on a real mosquitto."""

import json
import sqlite3
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save_file

from tests.broker.mosquitto import Mosquitto
from tests.older.bearings import TENSORS
from tests.older.program import REPOSITORY, Age, Program, start, unpacked

TASK_FILE = Path(__file__).with_name("bearings.py")
PATIENCE_SECONDS = 180.0


class Federation:
    """Devices and an aggregator, each a program of either age. A program started again goes on with its own files."""

    def __init__(self, folder: Path, broker: Mosquitto) -> None:
        self.folder = folder
        self.broker = broker
        self.ledger = folder / "ledger.sqlite3"
        self.packages: dict[Age, Path] = {"older": unpacked(folder / "older"), "newer": REPOSITORY}
        self.running: dict[str, Program] = {}
        self.work = folder / "work"
        self.work.mkdir()

    def start(self, age: Age, name: str, *arguments: str) -> None:
        log = self.folder / f"{name}.log"
        self.running[name] = start(self.packages[age], arguments, folder=self.work, log=log)

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

    def until(self, reached: Callable[[], bool]) -> None:
        """Waits; fails when the time is up or a program has ended."""
        deadline = time.monotonic() + PATIENCE_SECONDS
        while not reached():
            assert time.monotonic() < deadline, self.logs
            assert all(process.poll() is None for process in self.running.values()), self.logs
            time.sleep(0.1)

    def receipts(self, name: str) -> int:
        return len(self.told(name, "receipt"))

    def stop(self, name: str) -> int:
        """Ends one program as a supervisor does; its exit code."""
        process = self.running.pop(name)
        process.terminate()
        return process.wait(PATIENCE_SECONDS)

    def end(self) -> None:
        """The devices first, the aggregator last."""
        for name in reversed(list(self.running)):
            self.stop(name)
