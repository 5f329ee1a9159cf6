"""A process that imports heavy modules once, and forks programs from itself on request.

`import torch`, with what its first use imports, takes over four seconds of CPU time, and the demo starts eleven
programs that need it. A fork has these modules at once and shares their memory. Otherwise it is what `python -m
MODULE …` would be: a process with its own pid, session, output files and environment.

Run as `python -m simulators.processes.fork_server SOCKET FOLDER MODULE…`. It imports the modules, and then exchanges
messages over the socket (an inherited descriptor), one JSON object each:

    ◀── {"ready": true}
    ──▶ {"call": "MODULE:FUNCTION", "arguments": […]}                      called here; later forks share the result
    ──▶ {"name", "out", "log", "arguments": ["-m", MODULE, …], "environment": {…}}     out and log: files in the folder
    ◀── {"pid": 123}, with a pidfd of the process
    ◀── {"ended": 123, "code": 0}                                                      negative: signal

The pidfd makes sure that a signal cannot reach another process with a reused pid. When the other end of the socket is
closed, the server stops its programs and itself. It forks only while it has a single thread: a lock held by another
thread would stay locked in the child forever.
"""

import contextlib
import gc
import importlib
import json
import multiprocessing
import os
import runpy
import select
import signal
import socket
import sys
import time
from collections.abc import Iterable, Sequence
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

from simulators.processes import orphan_guard

MESSAGE_BYTES_MAX = 65_536
"""Chosen: far above one command line and its environment, which a message holds; a longer one would be cut off."""
IS_SUPPORTED = hasattr(os, "pidfd_open")
"""Linux only. Elsewhere programs are started as usual; on macOS a fork is unsafe once frameworks are loaded."""

THREAD_END_SECONDS = 5.0
"""How long a thread may take to end. One that was joined still counts until the kernel has removed it, which takes
milliseconds, and on a busy machine longer."""
_THREAD_PAUSE_SECONDS = 0.01
_COMM = Path("/proc/self/comm")
_THREADS = Path("/proc/self/task")


def preload(modules: Sequence[str]) -> None:
    """Imports the modules.

    Raises:
        SystemExit: one of them started a thread.
    """
    for module in modules:
        importlib.import_module(module)
    _keep(f"importing {', '.join(modules)}")


def _call(name: str, arguments: Sequence[str]) -> None:
    module, _, function = name.partition(":")
    getattr(importlib.import_module(module), function)(*arguments)
    _keep(f"calling {name}")


def _keep(what: str) -> None:
    """Excludes all objects from garbage collection, so that forks share their memory; exits if a fork is unsafe."""
    patience_ends = time.monotonic() + THREAD_END_SECONDS
    while (threads := len(list(_THREADS.iterdir()))) > 1 and time.monotonic() < patience_ends:
        time.sleep(_THREAD_PAUSE_SECONDS)
    if threads > 1:
        sys.exit(f"fork server: {threads} threads after {what}; a fork is not safe then")
    gc.collect()
    gc.freeze()


def serve(requests: socket.socket, folder: Path) -> None:
    """Serves requests until the client closes the socket."""
    running: dict[int, BaseProcess] = {}  # by descriptor
    # multiprocessing also ends a fork without tearing down its modules, which would take a third of a second.
    forking = multiprocessing.get_context("fork")
    poll = select.poll()
    poll.register(requests, select.POLLIN)
    while True:
        for ready, _ in poll.poll():
            if ready in running:
                poll.unregister(ready)
                os.close(ready)
                _tell_end(requests, running.pop(ready))
                continue
            try:
                request = requests.recv(MESSAGE_BYTES_MAX)
            except ConnectionError:
                request = b""
            if not request:
                _end_all(running.values())
                return
            asked = json.loads(request)
            if "call" in asked:
                _call(asked["call"], asked["arguments"])
                continue
            program = forking.Process(target=_run_forked, args=(asked, folder, (requests.fileno(), *running)))
            program.start()
            assert program.pid is not None
            descriptor = os.pidfd_open(program.pid)
            running[descriptor] = program
            poll.register(descriptor, select.POLLIN)
            _tell(requests, descriptor, pid=program.pid)


def _tell_end(requests: socket.socket, program: BaseProcess) -> None:
    program.join()
    _tell(requests, ended=program.pid, code=program.exitcode)
    program.close()


def _tell(requests: socket.socket, *descriptors: int, **fields: Any) -> None:
    with contextlib.suppress(OSError):  # the client is gone, which the next `recv` reports
        socket.send_fds(requests, [json.dumps(fields).encode()], descriptors)


def _end_all(programs: Iterable[BaseProcess]) -> None:
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # exit codes are no longer needed
    orphan_guard.end({program.pid for program in programs if program.pid is not None})


def _run_forked(request: dict[str, Any], folder: Path, inherited: Sequence[int]) -> None:
    """In the fork: becomes an independent process and runs the requested module."""
    os.setsid()
    for descriptor in inherited:
        os.close(descriptor)
    for stream, name in ((1, request["out"]), (2, request["log"])):
        file = os.open(folder / name, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)
        os.dup2(file, stream)
        os.close(file)
    with contextlib.suppress(OSError):  # its name in `top`; its command line is still the server's
        _COMM.write_text(request["name"])
    os.environ.update(request["environment"])
    flag, module, *arguments = request["arguments"]
    assert flag == "-m", flag
    sys.argv = [module, *arguments]
    runpy.run_module(module, run_name="__main__", alter_sys=True)


def main(arguments: Sequence[str]) -> None:
    """The server."""
    descriptor, folder, *modules = arguments
    requests = socket.socket(fileno=int(descriptor))
    preload(modules)
    _tell(requests, ready=True)
    serve(requests, Path(folder))


if __name__ == "__main__":
    main(sys.argv[1:])
