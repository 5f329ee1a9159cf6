"""A real mosquitto on a free port of the loopback, that tests may kill."""

import os
import random
import shutil
import socket
import subprocess
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest

from tests.waiting import eventually

START_SECONDS_MAX = 60.0
"""Only a failing test waits so long, for a start or an end."""
INSTALL = "sudo apt-get install mosquitto"


def program(name: str, *, install: str = INSTALL) -> str:
    """Its path. Where it is missing: a failure in CI, elsewhere a skip that says how to get it."""
    found = shutil.which(name, path=os.environ.get("PATH", "") + ":/usr/sbin:/usr/local/sbin")
    if found is not None:
        return found
    if os.environ.get("CI") == "true":
        pytest.fail(f"{name} is not installed, and in CI these tests must run: {install}")
    pytest.skip(f"{name} is not installed: {install}")


PORTS = range(15000, 32000)
"""Below the range that Linux uses for outgoing connections, so that none of them takes a broker's port while it
restarts.
"""

_given: set[int] = set()


def own_ports(ports: range, worker: str, workers: int) -> range:
    """The share of one pytest-xdist worker (`gw0`, `gw1`, …): no two workers have a port in common."""
    return ports[int(worker.removeprefix("gw")) :: workers]


def free_port() -> int:
    """A port that nobody listens on, and that no test of this run was given before, on whichever worker."""
    worker, workers = os.environ.get("PYTEST_XDIST_WORKER", "gw0"), os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1")
    ports = own_ports(PORTS, worker, int(workers))
    for port in random.sample(ports, len(ports)):
        if port in _given:
            continue
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
        _given.add(port)
        return port
    pytest.fail("no port is free on the loopback")


def listens(port: int) -> bool:
    """Whether anybody does, on the loopback."""
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def await_listener(port: int) -> int:
    """The port, once somebody listens there."""
    eventually(lambda: listens(port), seconds_max=START_SECONDS_MAX)
    return port


class Mosquitto:
    """One broker with its own folder; it keeps its port, users and state over restarts."""

    def __init__(
        self,
        folder: Path,
        *,
        users: Mapping[str, str] | None = None,
        lines: Sequence[str] = (),
        config: str | None = None,
    ) -> None:
        """`lines` are added to the configuration, `config` replaces it (the listener stays ours)."""
        self.port = free_port()
        self._program = program("mosquitto")
        self._folder = folder
        self._state = folder / "state"
        self._config = folder / "mosquitto.conf"
        self._log = folder / "mosquitto.log"
        self._process: subprocess.Popen[bytes] | None = None
        folder.mkdir(parents=True, exist_ok=True)
        if users:
            password_file = folder / "passwords"
            password_file.touch(mode=0o600)
            for name, password in users.items():
                command = [program("mosquitto_passwd"), "-b", str(password_file), name, password]
                subprocess.run(command, check=True, capture_output=True)
            access = ["allow_anonymous false", f"password_file {password_file}"]
        else:
            access = ["allow_anonymous true"]
        common = [config] if config is not None else [*access, "max_queued_messages 100000"]
        # As root, mosquitto becomes a user who may not write here.
        user = ["user root"] if os.geteuid() == 0 else []
        where = [f"listener {self.port} 127.0.0.1", "persistence true", f"persistence_location {self._state}/"]
        self._config.write_text("\n".join([*where, *user, "log_type all", "log_dest stderr", *common, *lines, ""]))

    @property
    def url(self) -> str:
        return f"mqtt://127.0.0.1:{self.port}"

    @property
    def log(self) -> str:
        """All that it has written since it was made."""
        return self._log.read_text() if self._log.exists() else ""

    def start(self) -> None:
        """Returns when it listens."""
        assert self._process is None, "it runs already"
        self._state.mkdir(exist_ok=True)
        with self._log.open("ab") as log:
            self._process = subprocess.Popen([self._program, "-c", str(self._config)], stdout=log, stderr=log)
        deadline = time.monotonic() + START_SECONDS_MAX
        while time.monotonic() < deadline and self._process.poll() is None:
            if listens(self.port):
                return
            time.sleep(0.01)
        self.kill()
        pytest.fail(f"mosquitto did not start:\n{self.log}")

    def stop(self) -> None:
        """SIGTERM: it writes its state first."""
        if self._process is not None:
            self._process.terminate()
            self._process.wait(START_SECONDS_MAX)
            self._process = None

    def kill(self) -> None:
        """SIGKILL: what it has not written yet is lost."""
        if self._process is not None:
            self._process.kill()
            self._process.wait(START_SECONDS_MAX)
            self._process = None

    def restart(self, *, lose_state: bool) -> None:
        """With all sessions and retained messages, or with none of them."""
        if lose_state:
            self.kill()
            self.forget()
        else:
            self.stop()
        self.start()

    def forget(self) -> None:
        """As a broker whose disk was replaced, while it is stopped."""
        assert self._process is None, "it would write its state again"
        shutil.rmtree(self._state, ignore_errors=True)
