"""README.md from top to bottom, as somebody would copy it: each command as it stands there, in an empty folder.

Only ports are the test's own. What makes an environment, what needs Docker, and what takes minutes (the demo, the
benchmarks, the tests) is not run here: `tests/test_documents.py` has the programs read it, test_demo.py runs the demo.
"""

import os
import re
import shlex
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from aggregator.ledger.file_format import LedgerError
from aggregator.ledger.reading import read_totals
from tests.broker.mosquitto import free_port
from tests.documents import HOUSE, README, blocks
from tests.waiting import eventually

pytestmark = pytest.mark.e2e

PATIENCE_SECONDS = 180.0
NOT_HERE = re.compile(r"make |python3\.11 -m venv|\. \.venv/bin/activate|pip install|asyncfedkd benchmarks")
UNTIL_STOPPED = re.compile(r"asyncfedkd (?:broker|aggregator --|device run|watch)")
"""Each of them has a terminal of its own."""


@dataclass
class Reader:
    """Somebody who has the README before them, and terminals."""

    folder: Path
    environment: dict[str, str]
    ports: Mapping[str, str]
    running: list[tuple[str, subprocess.Popen[bytes], Path]] = field(default_factory=list)

    def copy(self, command: str) -> None:
        """What happens after Enter."""
        for named, taken in self.ports.items():
            command = command.replace(named, taken)
        if command.startswith("export "):
            self.environment |= dict(word.split("=", 1) for word in shlex.split(command)[1:])
        elif UNTIL_STOPPED.match(command):
            self.leave_running(command)
        else:
            done = self.run(command)
            # The doctor's 1 is a word about the broker: the one for trying things out keeps nothing.
            assert done.returncode in ((0, 1) if "doctor" in command else (0,)), (
                f"{command}\n{done.stdout}{done.stderr}"
            )

    def run(self, command: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            shlex.split(command), cwd=self.folder, env=self.environment, capture_output=True, text=True,
            check=False, timeout=PATIENCE_SECONDS,
        )  # fmt: skip

    def leave_running(self, command: str) -> None:
        log = self.folder / f"{len(list(self.folder.glob('*.log')))}.log"
        with log.open("wb") as out:
            process = subprocess.Popen(
                shlex.split(command), cwd=self.folder, env=self.environment, stdout=out, stderr=out
            )
        self.running.append((command, process, log))
        if "broker" in command:
            eventually(lambda: "FEDKD_BROKER" in log.read_text() or process.poll() is not None)

    def wait_until_learned(self, ledger: str) -> None:
        """Until there is a version that devices have made."""
        deadline = time.monotonic() + PATIENCE_SECONDS
        while not self._has_learned(ledger):
            self.all_run()
            assert time.monotonic() < deadline, self.logs()
            time.sleep(0.2)

    def _has_learned(self, ledger: str) -> bool:
        try:
            return read_totals(self.folder / ledger).version > 0
        except LedgerError:  # not made yet
            return False

    def all_run(self) -> None:
        for command, process, _ in self.running:
            assert process.poll() is None, f"{command} ended by itself\n{self.logs()}"

    def logs(self) -> str:
        return "\n".join(f"--- {command}\n{log.read_text()}" for command, _, log in self.running)


@contextmanager
def reader(folder: Path) -> Iterator[Reader]:
    """In the folder there is what a clone has; the environment is activated, and nothing else is set."""
    for name in ("examples", "broker_config"):
        (folder / name).symlink_to(HOUSE / name)
    environment = {name: value for name, value in os.environ.items() if not name.startswith("FEDKD_")}
    environment["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{environment['PATH']}"
    environment |= {name: value for name, value in os.environ.items() if name == "FEDKD_WHEEL_FOLDER"}
    environment["FEDKD_PORT"] = "0"  # of the page; the broker's stands in its command
    environment["FEDKD_DUTY_CYCLE"] = "0.2"  # devices that never rest would leave little to whatever else runs here
    ports = {"1883": str(free_port()), "9001": str(free_port())}
    one = Reader(folder, environment, ports)
    try:
        yield one
    finally:
        for _, process, _ in one.running:
            process.kill()
            process.wait()


@pytest.mark.timeout(600)
def test_from_top_to_bottom(tmp_path: Path) -> None:
    with reader(tmp_path) as somebody:
        for block in blocks(README):
            for command in block:
                if NOT_HERE.match(command):
                    continue
                if command.startswith("asyncfedkd device evaluate"):
                    somebody.wait_until_learned("ledger.sqlite3")
                somebody.copy(command)
        somebody.wait_until_learned("ledger.sqlite3")
        assert {"model.onnx", "model.safetensors"} <= {file.name for file in (tmp_path / "exported").iterdir()}
        assert (tmp_path / "models.key.pub").is_file()
        # The model of one's own task begins to learn, too; one of its devices is not enough for a version.
        eventually(lambda: read_totals(tmp_path / "bearings.sqlite3").merged > 0, seconds_max=PATIENCE_SECONDS)
        somebody.all_run()
        for command, process, _ in reversed(somebody.running):
            process.terminate()
            assert process.wait(PATIENCE_SECONDS) == 0, f"{command}\n{somebody.logs()}"


def test_what_goes_wrong_first_is_told(tmp_path: Path) -> None:
    """A reader who skips a line: no broker, a wrong password, a wrong file."""
    with reader(tmp_path) as somebody:
        nowhere = somebody.run(f"asyncfedkd doctor --broker mqtt://127.0.0.1:{free_port()}")
        assert nowhere.returncode == 2
        assert "nothing listens" in nowhere.stdout
        unset = somebody.run("asyncfedkd device initial-model --out x")
        assert (unset.returncode, unset.stderr) == (2, "device_client: --task is missing (or set FEDKD_TASK)\n")
        somebody.copy("asyncfedkd broker --port 1883 --password try-it")
        port = somebody.ports["1883"]
        wrong = somebody.run(f"asyncfedkd doctor --broker mqtt://fedkd:wrong@127.0.0.1:{port} --mqtt 3.1.1")
        assert wrong.returncode == 1
        assert "password" in wrong.stdout
