"""Every command of the README, run as it stands there; only the broker's address is the test's own."""

import re
import shlex
import subprocess
import sys
import time
from pathlib import Path

import pytest

from aggregator.ledger_format import LedgerError
from aggregator.ledger_view import read_totals
from benchmarks.__main__ import BENCHMARKS
from tests.broker.mosquitto import Mosquitto

pytestmark = pytest.mark.e2e

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
PATIENCE_SECONDS = 120.0
WORKS_UNTIL_STOPPED = ("aggregator --task", "device_client run", "device_client evaluate")


def commands() -> list[str]:
    """The lines of all `sh` blocks, continued lines joined, comments left out."""
    blocks = re.findall(r"^```sh\n(.*?)^```", README, re.DOTALL | re.MULTILINE)
    joined = re.sub(r"\\\n\s*", "", "\n".join(blocks))
    return [line for line in joined.splitlines() if line.strip() and not line.startswith("#")]


def test_every_command_is_of_a_kind_that_is_run_here() -> None:
    for command in commands():
        assert command.startswith(
            ("make ", "python -m aggregator", "python -m device_client", "python -m benchmarks", "python -m simulators")
        ), command


@pytest.mark.parametrize("command", [command for command in commands() if command.startswith("make ")])
def test_make_knows_the_target(command: str) -> None:
    # `make test` cannot run inside itself, and test_demo.py runs what `make demo` runs.
    subprocess.run([*shlex.split(command), "--dry-run"], cwd=ROOT, check=True, capture_output=True)


@pytest.mark.parametrize("command", [command for command in commands() if command.startswith("python -m benchmarks")])
def test_the_benchmark_exists(command: str) -> None:
    words = shlex.split(command)
    assert words[3] in BENCHMARKS
    asked = subprocess.run(
        [sys.executable, *words[1:4], "--help"], cwd=ROOT, check=True, capture_output=True, text=True
    )
    for flag in (word for word in words if word.startswith("--")):
        assert flag in asked.stdout, flag


def test_run_it_as_the_readme_says(tmp_path: Path, mosquitto: Mosquitto) -> None:
    """Initial model, teacher, aggregator, device, evaluator; then status and export see what was learned."""
    running: list[tuple[str, subprocess.Popen[bytes]]] = []
    afterwards: list[list[str]] = []
    log_path = tmp_path / "log.txt"
    with log_path.open("wb") as log:
        try:
            for command in commands():
                if not command.startswith(("python -m aggregator", "python -m device_client", "python -m simulators")):
                    continue
                words = shlex.split(command.replace("mqtt://localhost:1883", mosquitto.url))
                words[0] = sys.executable
                words = [word.replace("examples/", f"{ROOT}/examples/") for word in words]
                if any(kind in command for kind in WORKS_UNTIL_STOPPED):
                    running.append((command, subprocess.Popen(words, cwd=tmp_path, stdout=log, stderr=log)))
                elif running:
                    afterwards.append(words)
                else:
                    subprocess.run(words, cwd=tmp_path, check=True, timeout=PATIENCE_SECONDS, stdout=log, stderr=log)
            wait_until_learned(tmp_path / "ledger.sqlite3", running, log_path)
            for words in afterwards:
                ended = subprocess.run(
                    words, cwd=tmp_path, check=False, timeout=PATIENCE_SECONDS, stdout=log, stderr=log
                )
                # The doctor's 1 is a word about the broker: the tests' own keeps nothing, and lets anybody in.
                assert ended.returncode in ((0, 1) if "doctor" in words else (0,)), f"{words}\n{log_path.read_text()}"
        finally:
            for _, process in running:
                process.terminate()
            codes = {command: process.wait(PATIENCE_SECONDS) for command, process in running}
    assert set(codes.values()) == {0}, f"{codes}\n{log_path.read_text()}"
    assert (tmp_path / "exported" / "model.onnx").is_file()
    assert (tmp_path / "exported" / "model.safetensors").is_file()


def wait_until_learned(ledger: Path, running: list[tuple[str, subprocess.Popen[bytes]]], log: Path) -> None:
    """Until an update was merged and a version was evaluated."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while True:
        for command, process in running:
            assert process.poll() is None, f"{command} ended by itself\n{log.read_text()}"
        try:
            totals = read_totals(ledger)
            if totals.merged and totals.evaluated_version is not None:
                return
        except LedgerError:  # not made yet
            pass
        assert time.monotonic() < deadline, log.read_text()
        time.sleep(0.2)
