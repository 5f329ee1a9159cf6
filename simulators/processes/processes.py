"""Starts and stops programs as child processes, each by its pid, with their output in files.

ProcessError        a program failed; the message names it and quotes its last output
└── ChildDied       … because it ended unexpectedly
"""

import contextlib
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, Self

from simulators.processes import fork_server, orphan_guard
from simulators.processes.fork_client import ForkServer, ForkServerError
from simulators.processes.signals import signals_deferred

STOP_SECONDS_MAX = 8.0
"""After SIGTERM, until SIGKILL; a device may have to finish a training step and a write."""
LAST_LINES = 12
"""Of a program's output, kept for the message about its end: chosen to hold the end of a traceback."""
POLL_SECONDS = 0.02
"""Chosen: too short to be noticed by a person, too long to load a core."""
_PREFIX = "FEDKD_"
_KEPT = frozenset({"FEDKD_WHEEL_FOLDER"})


class ProcessError(Exception):
    """A program failed."""


class ChildDied(ProcessError):
    """A program ended unexpectedly."""

    def __init__(self, name: str, *, code: int, last_lines: Sequence[str]) -> None:
        ending = f"by signal {-code}" if code < 0 else f"with code {code}"
        said = "".join(f"\n  | {line}" for line in last_lines) or " without output"
        super().__init__(f"{name} ended unexpectedly {ending}{said}")
        self.name = name
        self.code = code


class Process(Protocol):
    """The part of `subprocess.Popen` that is used here; `ForkedProcess` has it as well."""

    pid: int

    @property
    def returncode(self) -> int | None:
        """The exit code that `poll` found."""

    def poll(self) -> int | None: ...
    def wait(self, timeout: float | None = None) -> int: ...
    def terminate(self) -> None: ...
    def kill(self) -> None: ...


@dataclass(eq=False)
class Child:
    """One running program."""

    name: str
    process: Process
    out: Path
    """Its standard output."""
    log: Path
    """Its standard error; may be the same file."""
    long_running: bool = True
    """It runs until it is stopped; ending earlier is a failure."""
    required: bool = True
    """If it fails, the run fails."""
    stopping: bool = False

    @property
    def ended(self) -> bool:
        return self.process.poll() is not None

    def last_lines(self, count: int = LAST_LINES) -> list[str]:
        """Its last lines of output, for error messages."""
        return last_lines(*dict.fromkeys((self.out, self.log)), count=count)


def last_lines(*files: Path, count: int = LAST_LINES) -> list[str]:
    """The last lines of all files that can be read."""
    lines: list[str] = []
    for file in files:
        with contextlib.suppress(OSError):
            lines += file.read_text(encoding="utf-8", errors="replace").splitlines()[-count:]
    return lines[-count:]


class Processes:
    """All child processes of one run. Leaving the `with` block stops those that are still running."""

    def __init__(self, folder: Path, *, preload: Sequence[str] = ()) -> None:
        """`folder`: for output files. `preload`: modules that a fork server imports for forked programs."""
        self.folder = folder
        self._children: list[Child] = []
        folder.mkdir(parents=True, exist_ok=True)
        self._forks: ForkServer | None = None
        if preload and fork_server.IS_SUPPORTED:
            self._forks = ForkServer(folder, preload, child_environment(os.environ))
        # -I -S: it needs only the standard library, and starts in 20 ms.
        command = [sys.executable, "-I", "-S", orphan_guard.__file__]
        self._orphan_guard = subprocess.Popen(command, stdin=subprocess.PIPE, start_new_session=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def start(
        self,
        name: str,
        arguments: Sequence[str],
        *,
        environment: Mapping[str, str] | None = None,
        long_running: bool = True,
        required: bool = True,
        events: bool = False,
        forked: bool = False,
    ) -> Child:
        """`python ARGUMENTS…`.

        Args:
            name: of the program and of its output files.
            arguments: of the interpreter; for a forked program the first must be `-m`.
            environment: in addition to the inherited variables.
            long_running: it runs until it is stopped.
            required: its failure ends the run (see `check`); otherwise the caller checks how it ended.
            events: write standard output to a separate file, NAME.events.
            forked: fork it from the fork server, if there is one.

        Raises:
            ProcessError: the fork server does not answer.
        """
        if forked and self._forks is not None:
            with self._fork_errors():
                self._forks.await_ready()  # outside the deferred block, so that Ctrl-C interrupts the wait
        with signals_deferred():  # a process that was just started must be registered
            child = self._start(name, arguments, environment or {}, events=events, forked=forked)
        child.long_running, child.required = long_running, required
        return child

    def _start(
        self,
        name: str,
        arguments: Sequence[str],
        environment: Mapping[str, str],
        *,
        events: bool,
        forked: bool,
    ) -> Child:
        log = self.folder / f"{name}.log"
        out = self.folder / f"{name}.events" if events else log
        process: Process
        if forked and self._forks is not None:
            with self._fork_errors():
                process = self._forks.start(name, arguments, environment=environment, out=out.name, log=log.name)
        else:
            process = self._execute(arguments, environment, out, log)
        self._tell_orphan_guard("+", process.pid)
        child = Child(name, process, out, log)
        self._children.append(child)
        return child

    @staticmethod
    def _execute(
        arguments: Sequence[str], environment: Mapping[str, str], out: Path, log: Path
    ) -> subprocess.Popen[bytes]:
        with out.open("ab") as out_file, log.open("ab") as log_file:
            return subprocess.Popen(
                [sys.executable, *arguments],
                stdin=subprocess.DEVNULL,
                stdout=out_file,
                stderr=log_file,
                env=child_environment(os.environ) | dict(environment),
                start_new_session=True,  # Ctrl-C in the terminal reaches only this program, which stops the rest
            )

    @contextmanager
    def _fork_errors(self) -> Iterator[None]:
        try:
            yield
        except ForkServerError as error:
            assert self._forks is not None
            said = "".join(f"\n  | {line}" for line in last_lines(self._forks.log))
            raise ProcessError(f"{error}{said}") from None

    def let_forks_have(self, function: str, *arguments: str) -> None:
        """Calls MODULE:FUNCTION in the fork server; later forks share what it leaves in memory."""
        if self._forks is not None:
            self._forks.call(function, *arguments)

    def check(self) -> None:
        """Raises:
        ChildDied: a long-running program has ended, or a required one has failed.
        """
        if self._forks is not None and (code := self._forks.process.poll()) is not None:
            raise ChildDied("fork server", code=code, last_lines=last_lines(self._forks.log))
        for child in self._children:
            code = child.process.poll()
            if code is not None and child.required and not child.stopping and (child.long_running or code != 0):
                raise ChildDied(child.name, code=code, last_lines=child.last_lines())

    def stop(self, *children: Child, patience_seconds: float = STOP_SECONDS_MAX) -> None:
        """Sends SIGTERM to all, and SIGKILL to those that have not ended in time."""
        for child in children:
            child.stopping = True
            if not child.ended:
                child.process.terminate()
        deadline = time.monotonic() + patience_seconds
        for child in children:
            try:
                child.process.wait(max(0.0, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                child.process.kill()
                child.process.wait()
            self._forget(child)

    def kill(self, child: Child) -> None:
        """Sends SIGKILL."""
        child.stopping = True
        child.process.kill()
        child.process.wait()
        self._forget(child)

    def close(self) -> None:
        """Stops everything, in any state."""
        self.stop(*self._children, patience_seconds=3.0)
        if self._forks is not None:
            self._forks.close()
        if self._orphan_guard.stdin is not None:
            with contextlib.suppress(OSError):
                self._orphan_guard.stdin.close()
        self._orphan_guard.wait()

    def _forget(self, child: Child) -> None:
        if child in self._children:
            self._children.remove(child)
            self._tell_orphan_guard("-", child.process.pid)

    def _tell_orphan_guard(self, sign: str, pid: int) -> None:
        assert self._orphan_guard.stdin is not None
        with contextlib.suppress(OSError):  # the run continues without the guard if somebody ended it
            self._orphan_guard.stdin.write(f"{sign}{pid}\n".encode())
            self._orphan_guard.stdin.flush()


def child_environment(own: Mapping[str, str]) -> dict[str, str]:
    """Environment of a child: without the settings of the user's real federation, and with one thread for numerics."""
    kept = {name: value for name, value in own.items() if not name.startswith(_PREFIX) or name in _KEPT}
    root = str(Path(__file__).resolve().parents[2])
    paths = [root, *filter(None, [own.get("PYTHONPATH")])]
    return kept | {
        "PYTHONPATH": os.pathsep.join(paths),
        "PYTHONUNBUFFERED": "1",
        "OMP_NUM_THREADS": "1",
        "MKL_NUM_THREADS": "1",
    }
