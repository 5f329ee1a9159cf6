"""Programs forked from one that has imported torch: real processes, and the same bits as when they import it."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from simulators.demo.command import PRELOADED, Interrupted, interruptible
from simulators.processes import fork_server
from simulators.processes.processes import ChildDied, ProcessError, Processes, child_environment
from tests.waiting import PATIENCE_SECONDS, eventually

pytestmark = pytest.mark.skipif(not fork_server.IS_SUPPORTED, reason="needs Linux: descriptors of processes")

PROGRAM = """
import os, signal, sys, time
import numpy
print(os.getpid(), os.getsid(0), *sys.argv[1:], os.environ["TOLD"], flush=True)
match sys.argv[1]:
    case "code":
        sys.exit(int(sys.argv[2]))
    case "words":
        sys.exit("last words")
    case "stubborn":
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        print("ready", flush=True)
time.sleep(600)
"""

LEARNER = """
import hashlib
import torch
from device_client.task import Examples
from device_client.tasks.loading import load_task
from device_client.learning.student_trainer import StudentTrainer
from device_client.learning.evaluation import evaluate, teaching_outputs
from device_client.learning.seeding import seeded
from device_client.learning.parameters import layout_of, vector_of
torch.set_num_threads(1)
task = load_task("physiotherapy", data=None)  # its networks and recipe; the data is only read when it is asked for
with seeded(3):
    student, teacher = task.student(), task.teacher()
    examples = Examples(
        inputs=torch.randn(200, 6, 100), labels=torch.randint(len(task.classes), (200,))
    )
trainer = StudentTrainer(
    device="a", student=student, layout=layout_of(student), data=examples, recipe=task.recipe,
    objective=task.objective, teacher=teacher
)
start = vector_of(student, layout_of(student))
trainer.warm_up()
trained = trainer.train(start, version=2, round=1, tick=lambda: True)
print(trained.steps, hashlib.sha256(trained.weights.tobytes()).hexdigest(), trained.metrics)
print(teaching_outputs(teacher, examples, task.objective).sum().item(), evaluate(student, examples, task)["loss"])
"""


@pytest.fixture
def programs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Modules that can be started by name."""
    folder = tmp_path / "programs"
    folder.mkdir()
    for name, text in (("program", PROGRAM), ("learner", LEARNER)):
        (folder / f"fork_server_{name}.py").write_text(text)
    (folder / "fork_server_threads.py").write_text(
        "import threading\nthreading.Thread(target=threading.Event().wait, daemon=True).start()\n"
    )
    (folder / "fork_server_ending.py").write_text(
        "import threading, time\nthreading.Thread(target=time.sleep, args=(0.3,), daemon=True).start()\n"
    )
    (folder / "fork_server_kept.py").write_text(
        "import os, sys\nKEPT = {}\n"
        "def keep(*words):\n    KEPT[os.getpid()] = words\n"
        "if __name__ == '__main__':\n    import fork_server_kept\n    print(fork_server_kept.KEPT)\n"
    )
    monkeypatch.setenv("PYTHONPATH", str(folder))
    return folder


@pytest.fixture
def processes(tmp_path: Path, programs: Path) -> Iterator[Processes]:
    assert programs.is_dir()
    with Processes(tmp_path / "logs", preload=["numpy"]) as processes:
        yield processes


def program(*arguments: str) -> list[str]:
    return ["-m", "fork_server_program", *arguments]


TOLD = {"TOLD": "as told"}


def test_a_fork_is_a_process_of_its_own(processes: Processes) -> None:
    child = processes.start("one", program("wait", "--a flag"), environment=TOLD, events=True, forked=True)
    eventually(lambda: child.last_lines() != [])
    pid = child.process.pid
    assert child.last_lines() == [f"{pid} {pid} wait --a flag as told"]
    assert child.out.name == "one.events"
    assert pid != os.getpid()
    assert Path(f"/proc/{pid}/comm").read_text() == "one\n"
    assert "TOLD" not in os.environ
    processes.check()


def test_forks_have_what_a_call_left_behind(processes: Processes) -> None:
    before = processes.start("before", ["-m", "fork_server_kept"], long_running=False, forked=True)
    processes.let_forks_have("fork_server_kept:keep", "a", "b")
    after = processes.start("after", ["-m", "fork_server_kept"], long_running=False, forked=True)
    for child in (before, after):
        assert child.process.wait(PATIENCE_SECONDS) == 0
    assert before.last_lines() == ["{}"]
    assert after.last_lines()[0].endswith("('a', 'b')}")
    assert f"{after.process.pid}:" not in after.last_lines()[0]


def test_forks_end_as_other_programs_do(processes: Processes) -> None:
    done = processes.start("done", program("code", "0"), environment=TOLD, long_running=False, forked=True)
    done.process.wait(PATIENCE_SECONDS)
    processes.check()
    killed = processes.start("killed", program("wait"), environment=TOLD, forked=True)
    processes.kill(killed)
    stubborn = processes.start("stubborn", program("stubborn"), environment=TOLD, forked=True)
    eventually(lambda: "ready" in stubborn.last_lines())
    with pytest.raises(subprocess.TimeoutExpired):
        stubborn.process.wait(0.01)
    processes.stop(stubborn, patience_seconds=0.1)
    usual = processes.start("usual", program("wait"), environment=TOLD, forked=True)
    processes.close()
    codes = [child.process.returncode for child in (done, killed, stubborn, usual)]
    assert codes == [0, -signal.SIGKILL, -signal.SIGKILL, -signal.SIGTERM]


def test_an_unexpected_end_of_a_fork_is_noticed(processes: Processes) -> None:
    broken = processes.start("broken", program("words"), environment=TOLD, forked=True)
    broken.process.wait(PATIENCE_SECONDS)
    with pytest.raises(ChildDied, match=r"broken ended unexpectedly with code 1[\s\S]*as told\n  \| last words"):
        processes.check()


def test_a_fork_that_somebody_kills_is_noticed(processes: Processes) -> None:
    child = processes.start("one", program("wait"), environment=TOLD, forked=True)
    os.kill(child.process.pid, signal.SIGKILL)
    assert child.process.wait(PATIENCE_SECONDS) == -signal.SIGKILL
    with pytest.raises(ChildDied, match="one ended unexpectedly by signal 9"):
        processes.check()


def test_an_interruption_loses_no_word_of_the_server(processes: Processes, monkeypatch: pytest.MonkeyPatch) -> None:
    child = processes.start("one", program("wait"), environment=TOLD, forked=True)

    def read(message: bytes) -> object:
        signal.raise_signal(signal.SIGINT)
        return loads(message)

    def wait() -> None:
        with interruptible():
            child.process.wait(PATIENCE_SECONDS)

    loads = json.loads
    with monkeypatch.context() as patched:
        patched.setattr(json, "loads", read)
        child.process.kill()  # not before: the word of its end must not have been read yet
        with pytest.raises(Interrupted):
            wait()
    assert child.process.returncode == -signal.SIGKILL


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().split()[2] not in "ZX"
    except OSError:
        return False


def test_without_its_server_nobody_runs_and_it_is_named(processes: Processes, tmp_path: Path) -> None:
    child = processes.start("one", program("wait"), environment=TOLD, forked=True)
    server = int(Path(f"/proc/{child.process.pid}/stat").read_text().rpartition(")")[2].split()[1])
    assert str(tmp_path) in Path(f"/proc/{server}/cmdline").read_text()
    os.kill(server, signal.SIGKILL)
    assert child.process.wait(PATIENCE_SECONDS) == -signal.SIGKILL
    eventually(lambda: not alive(child.process.pid))
    eventually(lambda: not alive(server))
    with pytest.raises(ChildDied, match="fork server ended unexpectedly by signal 9"):
        processes.check()
    with pytest.raises(ProcessError, match="the fork server ended with code -9"):
        processes.start("two", program("wait"), environment=TOLD, forked=True)


def test_a_module_that_cannot_be_imported_is_named(tmp_path: Path) -> None:
    with (
        Processes(tmp_path, preload=["no_such_module"]) as processes,
        pytest.raises(ProcessError, match=r"ended with code 1[\s\S]*No module named 'no_such_module'"),
    ):
        processes.start("one", ["-m", "json"], forked=True)


@pytest.mark.usefixtures("programs")
def test_a_server_with_two_threads_refuses_to_fork(tmp_path: Path) -> None:
    with (
        Processes(tmp_path / "logs", preload=["fork_server_threads"]) as processes,
        pytest.raises(ProcessError, match="2 threads after importing fork_server_threads"),
    ):
        processes.start("one", ["-m", "json"], forked=True)


@pytest.mark.usefixtures("programs")
def test_a_thread_that_is_about_to_end_is_waited_for(tmp_path: Path) -> None:
    with Processes(tmp_path / "logs", preload=["fork_server_ending"]) as processes:
        assert processes.start("one", program("wait"), environment=TOLD, forked=True).process.pid > 0


def test_no_fork_outlives_a_demo_that_is_killed_by_force(tmp_path: Path, programs: Path) -> None:
    text = (
        "import time; from pathlib import Path; from simulators.processes.processes import Processes\n"
        f"p = Processes(Path({str(tmp_path)!r}), preload=['json'])\n"
        "c = p.start('c', ['-m', 'fork_server_program', 'stubborn'], environment={'TOLD': ''}, forked=True)\n"
        "print(c.process.pid, p._forks.process.pid, flush=True); time.sleep(600)"
    )
    assert programs.is_dir()
    demo = subprocess.Popen(
        [sys.executable, "-c", text], stdout=subprocess.PIPE, env=child_environment(os.environ), text=True
    )
    assert demo.stdout is not None
    pids = [int(word) for word in demo.stdout.readline().split()]
    assert len(pids) == 2
    assert all(alive(pid) for pid in pids)
    demo.kill()
    demo.wait()
    demo.stdout.close()
    eventually(lambda: not any(alive(pid) for pid in pids))


@pytest.mark.usefixtures("programs")
def test_a_fork_of_the_demos_server_learns_the_same_bits(tmp_path: Path) -> None:
    with Processes(tmp_path / "logs", preload=PRELOADED) as processes:
        started = [
            processes.start(f"learner-{number}", ["-m", "fork_server_learner"], long_running=False, forked=forked)
            for number, forked in enumerate((False, True, True))
        ]
        assert [child.process.wait(120) for child in started] == [0, 0, 0]
        told = {tuple(child.last_lines()) for child in started}
    assert len(told) == 1
    assert {len(lines) for lines in told} == {2}
