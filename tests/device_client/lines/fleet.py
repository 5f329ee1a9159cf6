"""Real commands of devices and an aggregator's program, over a broker in memory and in one thread.

The device's link lets the aggregator work in each of its turns.
"""

import json
import signal
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from msgspec import structs

from aggregator.ledger.reading import reading
from aggregator.lines.ledgers import path_of_line
from device_client.commands import evaluate, export, run
from device_client.commands.outboxes import outbox_path
from device_client.learning.parameters import layout_of
from device_client.settings import EvaluateSettings, ExportSettings, RunSettings
from device_client.uplink.outbox import Outbox
from tests.aggregator.lines.lines_stage import LinesStage
from tests.aggregator.synthetic import SETTINGS
from tests.device_client.lines.toy_task import large, small
from wire_contract.codec import encode
from wire_contract.layout import Layout
from wire_contract.lines import line_name
from wire_contract.link.memory import MemoryLink
from wire_contract.link.mqtt_settings import MqttSettings
from wire_contract.link.protocol import Event
from wire_contract.messages import Manifest
from wire_contract.signatures.envelope import read_unverified
from wire_contract.signatures.key_files import read_signing_keys, write_signing_key
from wire_contract.topics import DEFAULT_ROOT, build

TASKS = Path(__file__).with_name("toy_task.py")
OLD, NEW = layout_of(small()), layout_of(large())
TURNS_MAX = 5_000
"""Only a failing test takes so many."""


class Kill(BaseException):
    """The device's process dies here."""


class Fleet:
    """One task, its aggregator, and devices that are started one after the other."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
        self.folder = folder
        self.stage = LinesStage(folder, replace(SETTINGS, updates_per_version=1), layout=OLD)
        self.is_aggregator_up = True
        self.capsys = capsys
        self.events: list[dict[str, Any]] = []
        self.each_turn: Callable[[], None] = lambda: None
        for module in (run, evaluate, export):
            monkeypatch.setattr(module, "MqttLink", self._link)

    def _link(self, settings: MqttSettings) -> MemoryLink:
        fleet = self

        class Link(MemoryLink):
            def receive(self, *, count: int, timeout_seconds: float) -> Sequence[Event]:
                fleet.turn()
                return super().receive(count=count, timeout_seconds=timeout_seconds)

        return Link(self.stage.broker, settings.client_id, subscriptions=settings.subscriptions, will=settings.will)

    def turn(self) -> None:
        self.turns += 1
        assert self.turns < TURNS_MAX, f"still waiting: {self._read()[-5:]}"
        if self.is_aggregator_up:
            self.stage.step(1)
        self.each_turn()

    def begin_line(self, layout: Layout = NEW) -> str:
        name = self.stage.begin_line(layout)
        self.stage.step()
        return name

    def device(
        self, which: str, until: Callable[[], bool], *, name: str = "a", **settings: Any
    ) -> list[dict[str, Any]]:
        """Runs a device with the task `which` until `until` holds; returns its events."""

        def stop_if_done() -> None:
            if until():
                signal.raise_signal(signal.SIGTERM)

        return self._run(
            lambda: run.run(
                RunSettings(
                    task=f"{TASKS}:{which}",
                    device=name,
                    state=self.folder / "state" / name,
                    broker="mqtt://memory",
                    log_format="json",
                    retrain_after_seconds=0,
                    **settings,
                )
            ),
            stop_if_done,
        )

    def evaluator(self, which: str) -> list[dict[str, Any]]:
        """Evaluates one version."""
        settings = EvaluateSettings(task=f"{TASKS}:{which}", broker="mqtt://memory", log_format="json", once=True)
        return self._run(lambda: evaluate.evaluate_models(settings), lambda: None)

    def export(self, which: str, out: Path) -> Path:
        """The exported model."""
        settings = ExportSettings(task=f"{TASKS}:{which}", broker="mqtt://memory", out=out, wait_seconds=1)
        self._run(lambda: export.export_model(settings), lambda: None)
        return out / "model.safetensors"

    def _run(self, command: Callable[[], None], each_turn: Callable[[], None]) -> list[dict[str, Any]]:
        self.turns = 0
        self.each_turn = each_turn
        before = signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)
        self._read()
        try:
            command()
        finally:
            self.each_turn = lambda: None
            for number, handler in zip((signal.SIGTERM, signal.SIGINT), before, strict=True):
                signal.signal(number, handler)
        return self._read()

    def _read(self) -> list[dict[str, Any]]:
        lines = self.capsys.readouterr().out.splitlines()
        return [json.loads(line) for line in lines if line.startswith("{")]

    def sign_models(self, key: Path) -> Path:
        """From now on the aggregator signs its models; returns the public key."""
        write_signing_key(key)
        self.stage.stop()
        self.stage.signing_keys = read_signing_keys((key,))
        self.stage.start()
        self.stage.step()
        return key.with_name(f"{key.name}.pub")

    def forge(self, **changes: object) -> None:
        """Somebody replaces the first line's manifest by an unsigned one with these changes."""
        topic = build("model", root=DEFAULT_ROOT, task="toy")
        manifest = read_unverified(self.stage.broker.retained[topic], Manifest)
        self.stage.broker.publish(topic, encode(structs.replace(manifest, **changes)), retain=True)

    def merged(self, number: int = 1) -> list[tuple[str, bytes, int]]:
        """Identities of the updates that this line has merged, in order."""
        path = path_of_line(self.stage.path, number)
        if not path.exists():
            return []
        with reading(path) as db:
            return db.execute("SELECT device, incarnation, sequence FROM journal ORDER BY id").fetchall()

    def waiting(self, number: int = 1, *, name: str = "a") -> list[tuple[str, bytes, int]]:
        """Identities of the updates that wait in this line's outbox of a device that does not run."""
        path = outbox_path(self.folder / "state" / name, number)
        with Outbox(path, task=line_name("toy", number), device=name) as outbox:
            newest = outbox.next_identity.sequence
            found = [one for number in range(1, newest) if (one := outbox.find(number)) is not None]
        return [(one.identity.device, one.identity.incarnation, one.identity.sequence) for one in found]
