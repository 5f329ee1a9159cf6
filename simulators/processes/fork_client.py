"""Client of a fork server: requests programs, and represents each like `subprocess.Popen` does."""

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
"""It imports torch, possibly on a slow and busy machine; if it ends, that is noticed at once."""
_CLOSE_SECONDS_MAX = 6.0
"""Longer than the server itself waits for the programs that it stops."""


class ForkServerError(Exception):
    """The fork server ended, or does not answer."""


class ForkedProcess:
    """One forked program, with the part of the interface of `subprocess.Popen` that is needed here."""

    def __init__(self, server: "ForkServer", *, pid: int, descriptor: int) -> None:
        self.pid = pid
        self.returncode: int | None = None
        """None until the program has ended and `poll` or `wait` was called."""
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
        """Called when the server has reported the end."""
        self.returncode = code
        os.close(self._descriptor)


class ForkServer:
    """A running fork server. Not thread-safe."""

    def __init__(self, folder: Path, modules: Sequence[str], environment: Mapping[str, str]) -> None:
        """Starts it in the background; `start` waits until its imports are done.

        Args:
            folder: for the output of the programs and its own.
            modules: imported before the first fork; importing them must not start a thread.
            environment: of the server and of the programs.
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
        ForkServerError: the server ended, or takes too long.
        """
        self._listen_until(lambda: self._is_ready)

    def call(self, function: str, *arguments: str) -> None:
        """Calls MODULE:FUNCTION in the server; later forks share what it leaves in memory."""
        self._ask(call=function, arguments=arguments)

    def start(
        self, name: str, arguments: Sequence[str], *, environment: Mapping[str, str], out: str, log: str
    ) -> ForkedProcess:
        """`python ARGUMENTS…`, where the first argument is `-m`.

        Args:
            name: shown by `top`.
            arguments: of the interpreter.
            environment: in addition to the server's.
            out: name of the file in the folder for standard output.
            log: the same for standard error.

        Raises:
            ForkServerError: the server ended, or takes too long.
        """
        self.await_ready()
        self._ask(name=name, out=out, log=log, arguments=arguments, environment=dict(environment))
        started: list[ForkedProcess] = []
        self._started = started.append
        self._listen_until(lambda: bool(started))
        return started[0]

    def listen(self, timeout_seconds: float | None) -> None:
        """Handles messages from the server; waits up to this time for the first one (None: without limit)."""
        while select.select([self._socket], [], [], timeout_seconds)[0]:
            with signals_deferred():  # a message that was read must be handled
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
        """Stops the server and all its programs."""
        self._socket.close()
        if not self._is_ready:  # it has no programs yet, and would first finish its imports
            self.process.terminate()
        try:
            self.process.wait(_CLOSE_SECONDS_MAX)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self._lost()

    def _ask(self, **fields: Any) -> None:
        with contextlib.suppress(OSError):  # the server has ended, which the next wait reports
            self._socket.send(json.dumps(fields).encode())

    def _listen_until(self, is_there: Callable[[], bool]) -> None:
        deadline = time.monotonic() + READY_SECONDS_MAX
        while not is_there():
            if self.process.poll() is not None:
                raise ForkServerError(f"the fork server ended with code {self.process.returncode}")
            left = deadline - time.monotonic()
            if left <= 0:
                raise ForkServerError(f"the fork server did not answer within {READY_SECONDS_MAX:g} s")
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
        """The server is gone and will not report exit codes: kills its programs."""
        for forked in self._running.values():
            forked.kill()
            forked.ended(-signal.SIGKILL)
        self._running.clear()
