"""Ctrl-C in a terminal reaches a benchmark and all its processes; it is one line, and nobody is left."""

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

from tests.waiting import eventually

HOUSE = Path(__file__).parents[2]
PROGRAM = """
import faulthandler, os, signal, sys, time
from pathlib import Path
from benchmarks.jobs import Job, run_jobs
from wire_contract.program.command_line import Command, Program
from wire_contract.program.command_settings import CommandSettings

class Settings(CommandSettings):
    "Waits."

def work(_):
    (Path(os.environ["FOLDER"]) / str(os.getpid())).touch()
    time.sleep(600)

def run(settings):
    run_jobs({("one", n): Job(name=str(n), run=work, argument=n) for n in range(3)}, 2)

if __name__ == "__main__":
    # As in a terminal, whatever the process that runs the tests does with SIGINT.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
    faulthandler.dump_traceback_later(200)
    commands = {"wait": Command(settings=Settings, run=run)}
    program = Program(name="benchmarks", started_as="x", summary="", commands=commands)
    sys.exit(program.main(["wait"]))
"""


def test_it_is_one_line_and_nobody_is_left(tmp_path: Path) -> None:
    (tmp_path / "program.py").write_text(PROGRAM)
    folder = tmp_path / "workers"
    folder.mkdir()
    process = subprocess.Popen(
        [sys.executable, str(tmp_path / "program.py")],
        env={**os.environ, "PYTHONPATH": str(HOUSE), "FOLDER": str(folder)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        eventually(lambda: len(list(folder.iterdir())) == 2 or process.poll() is not None)
        assert all(is_deaf(int(worker.name)) for worker in folder.iterdir()), "each would print a traceback of its own"
        os.killpg(process.pid, signal.SIGINT)
        out, complaint = process.communicate(timeout=60)
    finally:
        process.kill()
    assert (process.returncode, out, complaint) == (130, "", "benchmarks: ended by Ctrl-C\n")
    for worker in folder.iterdir():
        eventually(lambda pid=int(worker.name): not is_running(pid))


def is_deaf(pid: int) -> bool:
    """Whether it leaves SIGINT alone, as Linux tells."""
    blocked = re.search(r"SigBlk:\s*([0-9a-f]+)", Path(f"/proc/{pid}/status").read_text())
    assert blocked is not None
    return bool(int(blocked[1], 16) >> (signal.SIGINT - 1) & 1)


def is_running(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True
