"""Programs as processes: each is stopped, and a failure names the program and its last lines."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from simulators.processes import orphan_guard
from simulators.processes.processes import ChildDied, Processes, child_environment
from tests.waiting import eventually


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().split()[2] not in "ZX"
    except OSError:
        return False


STUBBORN = (
    "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('ready', flush=True); time.sleep(600)"
)


def test_leaving_ends_everybody_even_the_stubborn(tmp_path: Path) -> None:
    with Processes(tmp_path) as processes:
        child = processes.start("stubborn", ["-c", STUBBORN])
        eventually(lambda: child.last_lines() == ["ready"])
        processes.stop(child, patience_seconds=0.1)
        other = processes.start("usual", ["-c", "import time; time.sleep(600)"])
    assert child.process.returncode == -signal.SIGKILL
    assert other.process.returncode == -signal.SIGTERM


def test_an_unexpected_end_names_the_program_and_its_last_words(tmp_path: Path) -> None:
    with Processes(tmp_path) as processes:
        child = processes.start("broken", ["-c", "import sys; print('one'); sys.exit('two')"])
        child.process.wait()
        with pytest.raises(ChildDied, match=r"broken ended unexpectedly with code 1[\s\S]*\| one\n  \| two"):
            processes.check()


def test_who_is_not_needed_may_fail(tmp_path: Path) -> None:
    with Processes(tmp_path) as processes:
        child = processes.start("baseline", ["-c", "import sys; sys.exit(3)"], long_running=False, required=False)
        child.process.wait()
        processes.check()
    assert child.process.returncode == 3


def test_who_has_done_its_work_may_end(tmp_path: Path) -> None:
    with Processes(tmp_path) as processes:
        child = processes.start("teacher", ["-c", "pass"], long_running=False)
        child.process.wait()
        processes.check()
        killed = processes.start("device", ["-c", "import time; time.sleep(600)"])
        processes.kill(killed)
        processes.check()


def test_nobody_outlives_a_demo_that_is_killed_by_force(tmp_path: Path) -> None:
    program = (
        "import sys, time; from pathlib import Path; from simulators.processes.processes import Processes\n"
        f"p = Processes(Path({str(tmp_path)!r})); c = p.start('c', ['-c', 'import time; time.sleep(600)'])\n"
        "print(c.process.pid, flush=True); time.sleep(600)"
    )
    demo = subprocess.Popen(
        [sys.executable, "-c", program], stdout=subprocess.PIPE, env=child_environment(os.environ), text=True
    )
    assert demo.stdout is not None
    pid = int(demo.stdout.readline())
    assert alive(pid)
    demo.kill()
    demo.wait()
    demo.stdout.close()
    eventually(lambda: not alive(pid))


def test_the_leash_holds_who_was_not_taken_back() -> None:
    assert orphan_guard.left_at_the_end(["+1\n", "+2\n", "-1\n", "-7\n"]) == {2}


def test_children_do_not_inherit_the_users_federation() -> None:
    inherited = child_environment({"FEDKD_BROKER": "mqtt://real", "FEDKD_WHEEL_FOLDER": "w", "HOME": "h"})
    assert "FEDKD_BROKER" not in inherited
    assert inherited["FEDKD_WHEEL_FOLDER"] == "w"
    assert inherited["HOME"] == "h"
