"""The near end of a fork server: asks it for programs, and knows each of them as `subprocess.Popen` would."""

import contextlib
import json
import os
import select
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from simulators.processes.fork_server import MESSAGE_BYTES_MAX
from simulators.processes.signals import signals_deferred

READY_SECONDS_MAX = 300.0
"""It imports torch, on a machine that may be slow and busy; its death is seen at once."""
_CLOSE_SECONDS_MAX = 6.0
"""Longer than it waits itself for those that it has to end."""


class ForkServerError(Exception):
    """It ended, or does not answer."""


class ForkedProcess:
    """One forked program; of `subprocess.Popen` what is needed here."""

    def __init__(self, server: "ForkServer", *, pid: int, descriptor: int) -> None:
        self.pid = pid
        self.returncode: int | None = None
        """As soon as it was looked for."""
        self._server = server
        self._descriptor = descriptor

    def poll(self) -> int | None:
        if self.returncode is None:
            self._server.listen(0.0)
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        """Raises subprocess.TimeoutExpired."""
        deadline = None if timeout is None else time.monotonic() + timeout
        while self.poll() is None:
            left = None if deadline is None else deadline - time.monotonic()
            if left is not None and left <= 0:
                raise subprocess.TimeoutExpired(f"process {self.pid}", timeout or 0.0)
            self._server.listen(left)
        assert self.returncode is not None
        return self.returncode

    def send_signal(self, number: int) -> None:
        if self.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(self._descriptor, number)

    def terminate(self) -> None:
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)

    def ended(self, code: int) -> None:
        """Told by the server."""
        self.returncode = code
        os.close(self._descriptor)


class ForkServer:
    """A running one. For one thread."""

    def __init__(self, folder: Path, modules: Sequence[str], environment: Mapping[str, str]) -> None:
        """Starts it; importing takes seconds, which `start` waits for.

        Args:
            folder: takes the output of the programs, and its own.
            modules: what it imports before it forks; importing them must start no thread.
            environment: its own, and that of the programs.
        """
        self.log = folder / "fork-server.log"
        self._socket, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        command = [
            sys.executable,
            "-m",
            "simulators.processes.fork_server",
            str(theirs.fileno()),
            str(folder),
            *modules,
        ]
        with theirs, self.log.open("ab") as log:
            self.process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=dict(environment),
                pass_fds=[theirs.fileno()],
                start_new_session=True,
            )
        self._running: dict[int, ForkedProcess] = {}
        self._started: Callable[[ForkedProcess], object] = lambda _forked: None
        self._is_ready = False

    def await_ready(self) -> None:
        """Raises:
        ForkServerError: it ended, or takes too long.
        """
        self._listen_until(lambda: self._is_ready)

    def call(self, function: str, *arguments: str) -> None:
        """Lets it call MODULE:FUNCTION; the forks that are started from now on have what that leaves in memory."""
        self._ask(call=function, arguments=arguments)

    def start(
        self, name: str, arguments: Sequence[str], *, environment: Mapping[str, str], out: str, log: str
    ) -> ForkedProcess:
        """`python ARGUMENTS…`, where the first is `-m`.

        Args:
            name: for a person.
            arguments: of the interpreter.
            environment: besides the server's.
            out: file in the folder that takes standard output.
            log: the same, standard error.

        Raises:
            ForkServerError: it ended, or takes too long.
        """
        self.await_ready()
        self._ask(name=name, out=out, log=log, arguments=arguments, environment=dict(environment))
        started: list[ForkedProcess] = []
        self._started = started.append
        self._listen_until(lambda: bool(started))
        return started[0]

    def listen(self, timeout_seconds: float | None) -> None:
        """Takes what the server tells; waits so long at most for the first word (None: for ever)."""
        while select.select([self._socket], [], [], timeout_seconds)[0]:
            with signals_deferred():  # or a word that was just read would be lost
                try:
                    message, descriptors, _, _ = socket.recv_fds(self._socket, MESSAGE_BYTES_MAX, 1)
                except ConnectionError:
                    message, descriptors = b"", []
                if not message:
                    self._lost()
                    return
                self._take(json.loads(message), descriptors)
            timeout_seconds = 0.0

    def close(self) -> None:
        """Ends it, and with it all that still run."""
        self._socket.close()
        if not self._is_ready:  # it has forked nobody, and would first import all the rest
            self.process.terminate()
        try:
            self.process.wait(_CLOSE_SECONDS_MAX)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self._lost()

    def _ask(self, **fields: Any) -> None:
        with contextlib.suppress(OSError):  # then it has ended, which is seen when something is waited for
            self._socket.send(json.dumps(fields).encode())

    def _listen_until(self, is_there: Callable[[], bool]) -> None:
        deadline = time.monotonic() + READY_SECONDS_MAX
        while not is_there():
            if self.process.poll() is not None:
                raise ForkServerError(f"the fork server ended with code {self.process.returncode}")
            left = deadline - time.monotonic()
            if left <= 0:
                raise ForkServerError(f"the fork server does not answer within {READY_SECONDS_MAX:g} s")
            self.listen(left)

    def _take(self, message: Mapping[str, Any], descriptors: Sequence[int]) -> None:
        match message:
            case {"ready": True}:
                self._is_ready = True
            case {"pid": pid}:
                forked = ForkedProcess(self, pid=pid, descriptor=descriptors[0])
                self._running[pid] = forked
                self._started(forked)
            case {"ended": pid, "code": code}:
                self._running.pop(pid).ended(code)

    def _lost(self) -> None:
        """Nobody will tell any more how they end."""
        for forked in self._running.values():
            forked.kill()
            forked.ended(-signal.SIGKILL)
        self._running.clear()
