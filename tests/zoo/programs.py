"""Federations of real programs on an embedded broker: initial model, aggregator, devices, evaluator, export.

The programs are forked from a process that has imported torch, so that a federation takes seconds.
"""

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from device_client.model_files import ModelFile, read_model
from simulators.network.embedded_broker import PROTOCOL, StartedBroker, await_url, launch
from simulators.processes.processes import Child, Processes
from simulators.reporting.device_timeline import EventReader

PATIENCE_SECONDS = 120.0
"""Only a failing test waits so long."""
PRELOADED = (
    "device_client.commands.run",
    "device_client.commands.evaluate",
    "device_client.commands.initial_files",
    "device_client.commands.export",
    "tests.zoo.first_export",
)


@dataclass(frozen=True)
class Learned:
    """What a federation left behind."""

    initial_model: ModelFile
    evaluations: dict[int, dict[str, float]]
    """Metrics by version."""
    exported: ModelFile
    onnx: Path


@dataclass(frozen=True)
class Programs:
    """A broker and a process that forks programs."""

    processes: Processes
    broker: StartedBroker
    url: str
    """Of the broker."""

    def federation(
        self, spec: str, *, name: str, devices: Sequence[str], versions: int, teacher: bool = False
    ) -> Learned:
        """Runs the task `spec` (its name is `name`) until version `versions` is measured; with or without a teacher.

        Raises:
            ProcessError: a program failed.
        """
        folder = self.processes.folder / name
        initial = folder / "initial.safetensors"
        self._finish(f"{name}-initial-model", ["initial-model", "--task", spec, "--out", str(initial)])
        taught = []
        if teacher:
            taught = ["--teacher", str(folder / "teacher.safetensors")]
            self._finish(f"{name}-teacher", ["pretrain-teacher", "--task", spec, "--out", taught[1]])
        network = ["--broker", self.url, "--mqtt", PROTOCOL]
        aggregator = self._start(
            f"{name}-aggregator",
            *("-m", "aggregator", "--task", name, "--ledger", str(folder / "ledger.sqlite3"), *network),
            *("--initial-model", str(initial), "--updates-per-version", "2", "--evaluator", f"{name}-evaluator"),
        )
        task = ["--task", spec, *network, "--log-format", "json"]
        evaluator = self._start(
            f"{name}-evaluator", "-m", "device_client", "evaluate", *task, "--device", f"{name}-evaluator"
        )
        trained = [
            self._start(
                *(f"{name}-{device}", "-m", "device_client", "run", *task, "--device", device),
                *("--state", str(folder / device), "--retrain-after-seconds", "1", *taught),
            )
            for device in devices
        ]
        events, evaluations = EventReader(evaluator.out), dict[int, dict[str, float]]()
        deadline = time.monotonic() + PATIENCE_SECONDS
        while max(evaluations, default=0) < versions:
            assert time.monotonic() < deadline, (name, evaluations, [child.last_lines() for child in trained])
            self.processes.check()
            for event in events.new():
                if event["event"] == "evaluated":
                    evaluations[event["version"]] = event["metrics"]
            time.sleep(0.05)
        self.processes.stop(*trained)
        self._finish(f"{name}-export", ["export", *task, "--out", str(folder / "export")])
        self.processes.stop(evaluator, aggregator)
        exported = read_model(folder / "export" / "model.safetensors", task=name)
        return Learned(read_model(initial, task=name), evaluations, exported, folder / "export" / "model.onnx")

    def _start(self, name: str, *arguments: str) -> Child:
        return self.processes.start(name, arguments, environment=self._credentials, events=True, forked=True)

    def _finish(self, name: str, arguments: Sequence[str]) -> None:
        child = self.processes.start(
            name,
            ["-m", "device_client", *arguments],
            environment=self._credentials,
            long_running=False,
            forked=True,
        )
        assert child.process.wait(PATIENCE_SECONDS) == 0, child.last_lines()

    @property
    def _credentials(self) -> dict[str, str]:
        known = self.broker.credentials
        return {
            "FEDKD_USERNAME": known.username,
            "FEDKD_PASSWORD": known.password,
            "FEDKD_RECONNECT_SPREAD_SECONDS": "0",
        }


@contextmanager
def programs(folder: Path) -> Iterator[Programs]:
    """Starts both, and ends all programs."""
    with Processes(folder, preload=PRELOADED) as processes:
        broker = launch(processes, folder)
        yield Programs(processes, broker, await_url(broker, processes))
