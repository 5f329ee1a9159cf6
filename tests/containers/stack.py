"""The services of compose.yaml in real containers, as `make up` starts them, in a folder of their own."""

import collections
import json
import os
import shutil
import subprocess
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.broker.mosquitto import free_port
from tests.containers.compose_copy import runner, write_copy
from tests.deployment.compose_file import read_services
from wire_contract.link.mqtt import MqttLink
from wire_contract.link.mqtt_settings import MqttSettings, Tls
from wire_contract.link.protocol import Connected, Delivery, Disconnected
from wire_contract.messages import Manifest
from wire_contract.signatures.envelope import read_unverified
from wire_contract.topics import DEFAULT_ROOT, build

TASK = "physiotherapy"
SECONDS_MAX = 600.0
"""Only a failing test waits so long."""
USER_FOR_ROOT = 10_001
"""As in the Makefile: as whom the containers run when root calls it."""

_LEDGER = """
import json, sqlite3
ledger = sqlite3.connect("file:/state/ledger.sqlite3?mode=ro", uri=True)
print(json.dumps({
    "version": ledger.execute("SELECT max(version) FROM version").fetchone()[0],
    "evaluated": ledger.execute("SELECT max(version) FROM evaluation").fetchone()[0],
    "merged": dict(ledger.execute("SELECT device, count(*) FROM journal GROUP BY device")),
}))
"""
_QUERY = """
import pathlib, sys, urllib.parse, urllib.request
request = urllib.request.Request(
    "http://influxdb:8086/query",
    data=urllib.parse.urlencode({"db": "fedkd", "q": sys.argv[1]}).encode(),
    headers={"Authorization": "Token " + pathlib.Path("/run/influxdb/read").read_text().strip()},
)
print(urllib.request.urlopen(request, timeout=30).read().decode())
"""


@dataclass(frozen=True)
class Container:
    """What the engine says of one."""

    id: str
    running: bool
    exit_code: int
    health: str | None
    """starting, healthy or unhealthy; None: it has no health check, or does not run."""
    restarts: int
    """By the engine, because it had ended."""


@dataclass(frozen=True)
class Progress:
    """What a ledger holds."""

    version: int
    evaluated: int | None
    """The newest version that was evaluated."""
    merged: collections.Counter[str]
    """Updates by device."""


def call(*command: str, folder: Path | None = None, code: int | None = 0, seconds_max: float = SECONDS_MAX) -> str:
    """What it printed, both outputs; `code` is the exit code that is expected, None: any."""
    done = subprocess.run(
        command,
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=seconds_max,
        check=False,
    )
    assert code is None or done.returncode == code, f"{command}: exit code {done.returncode}\n{done.stdout}"
    return done.stdout


def has_image(name: str) -> bool:
    return subprocess.run(["docker", "image", "inspect", name], capture_output=True, check=False).returncode == 0


class Stack:
    """One project of compose, with its own secrets, volumes and ports; `remove` leaves nothing of it."""

    def __init__(self, folder: Path) -> None:
        command = runner()
        if command is None:
            pytest.fail("neither `docker compose` nor docker-compose is installed")
        self.folder = folder
        self.project = f"fedkd-test-{uuid.uuid4().hex[:8]}"
        self._compose = [*command, "--project-name", self.project]
        folder.mkdir()
        known = command == ["docker", "compose"]
        without = set() if has_image(read_services()["grafana"].raw["image"]) else {"grafana"}
        write_copy(folder, known=known, without=without)
        self.services: Mapping[str, Mapping[str, Any]] = yaml.safe_load((folder / "compose.yaml").read_text())[
            "services"
        ]
        self.user = os.geteuid() or USER_FOR_ROOT
        self.port = free_port()
        (folder / ".env").write_text(
            f"FEDKD_UID={self.user}\nFEDKD_GID={os.getegid() or USER_FOR_ROOT}\n"
            f"FEDKD_BROKER_BIND=127.0.0.1\nFEDKD_BROKER_PORT={self.port}\n"
            f"FEDKD_WEBSOCKET_PORT={free_port()}\nFEDKD_GRAFANA_PORT={free_port()}\n"
        )
        (folder / "secrets").mkdir(mode=0o700)
        if os.geteuid() == 0:
            shutil.chown(folder / "secrets", USER_FOR_ROOT, USER_FOR_ROOT)

    # -- to start, to stop -------------------------------------------------------------------------------------------

    def compose(self, *words: str, code: int | None = 0) -> str:
        return call(*self._compose, *words, folder=self.folder, code=code)

    def documented(self, command: str) -> str:
        """A command of docs/deployment.md that begins with `docker compose`, in this project."""
        words = command.split()
        assert words[:2] == ["docker", "compose"]
        return self.compose(*words[2:])

    def up(self, *services: str) -> None:
        """As `make up`: `setup`, then all services without a profile, or only those named; returns when healthy."""
        self.compose("run", "--rm", "setup")
        self.compose("up", "--detach", *services)
        self.await_health()

    def down(self) -> None:
        self.compose("--profile", "fleet", "down")

    def remove(self) -> None:
        self.compose("--profile", "fleet", "down", "--volumes", "--timeout", "5", code=None)
        shutil.rmtree(self.folder)

    # -- to look -----------------------------------------------------------------------------------------------------

    def containers(self) -> dict[str, Container]:
        """By service."""
        found = call("docker", "ps", "--all", "--quiet", "--filter", f"label=com.docker.compose.project={self.project}")
        if not found:
            return {}
        known = {}
        for one in json.loads(call("docker", "inspect", *found.split())):
            state = one["State"]
            known[one["Config"]["Labels"]["com.docker.compose.service"]] = Container(
                id=one["Id"],
                running=state["Running"],
                exit_code=state["ExitCode"],
                health=state["Health"]["Status"] if state["Running"] and "Health" in state else None,
                restarts=one["RestartCount"],
            )
        return known

    def health(self, service: str) -> str | None:
        return self.containers()[service].health

    def await_health(self) -> None:
        """Until everything that was started is healthy, or, where it runs once, has ended well."""
        self.wait("everything healthy", lambda: all(map(self._is_well, *zip(*self.containers().items(), strict=True))))

    def _is_well(self, name: str, container: Container) -> bool:
        service = self.services[name]
        if service["restart"] == "no":
            assert container.running or container.exit_code == 0, f"{name}: {container}\n{self.report()}"
            return not container.running
        return container.health == "healthy" if "healthcheck" in service else container.running

    def wait(self, what: str, is_so: Callable[[], bool], *, seconds_max: float = SECONDS_MAX) -> None:
        """Returns when it is so; a test that waits too long fails with every log."""
        deadline = time.monotonic() + seconds_max
        while not is_so():
            assert time.monotonic() < deadline, f"not within {seconds_max:g} s: {what}\n{self.report()}"
            time.sleep(1.0)

    def report(self) -> str:
        """States and the end of every log."""
        states = "\n".join(f"{name}: {container}" for name, container in self.containers().items())
        return f"{states}\n{self.compose('logs', '--no-color', '--tail', '40', code=None)}"

    def status(self) -> dict[str, Any]:
        """Of the aggregator, by its own command."""
        said = self.execute("aggregator", "python", "-m", "aggregator", "status", "--json")
        status: dict[str, Any] = json.loads(said)
        return status

    def progress(self) -> Progress:
        """Read from the ledger itself: the command above takes a second of computing, too much to ask over and over."""
        said = json.loads(self.execute("aggregator", "python", "-c", _LEDGER))
        return Progress(said["version"], said["evaluated"], collections.Counter(said["merged"]))

    def await_version(self, version: int) -> None:
        self.wait(f"version {version}", lambda: self.progress().version >= version)

    def points(self, measurement: str, field: str) -> int:
        """In InfluxDB, asked with the token that may only read."""
        query = f'SELECT count("{field}") FROM "{measurement}"'
        said = json.loads(self.execute("aggregator", "python", "-c", _QUERY, query))
        series = said["results"][0].get("series")
        return int(series[0]["values"][0][1]) if series else 0

    # -- to disturb --------------------------------------------------------------------------------------------------

    def execute(self, service: str, *command: str, code: int | None = 0) -> str:
        return call("docker", "exec", self.containers()[service].id, *command, code=code)

    def signal(self, service: str, name: str) -> None:
        """KILL, STOP or CONT to all that the container runs, but its first process, which passes on how they end."""
        self.execute(service, "sh", "-c", f"kill -{name} -1", code=None)

    def copied(self, service: str, folder: Path) -> Path:
        """The folder /state of a container, which may have ended, as it is now."""
        place = folder / service
        call("docker", "cp", f"{self.containers()[service].id}:/state", str(place))
        return place

    # -- to be a client ----------------------------------------------------------------------------------------------

    def client(self, name: str, *, keys: str = "secrets/clients", subscriptions: Sequence[str] = ()) -> MqttLink:
        """A connection from outside, with the certificate of that name."""
        tls = Tls(
            ca_file=self.folder / "secrets/clients/ca.pem",
            certificate_file=self.folder / keys / f"{name}.pem",
            key_file=self.folder / keys / f"{name}.key",
        )
        return MqttLink(
            MqttSettings(host="localhost", port=self.port, client_id=name, tls=tls, subscriptions=subscriptions)
        )

    def may_connect(self, name: str, *, keys: str = "secrets/clients") -> bool:
        """Whether the broker lets this name in; False: it answers and refuses."""
        link = self.client(name, keys=keys)
        deadline = time.monotonic() + SECONDS_MAX
        try:
            while time.monotonic() < deadline:
                for event in link.receive(count=10, timeout_seconds=1.0):
                    if isinstance(event, Connected):
                        return True
                    if isinstance(event, Disconnected) and ("revoked" in event.reason or event.refused):
                        return False
        finally:
            link.close()
        pytest.fail(f"{name}: neither let in nor refused\n{self.report()}")

    def retained(self) -> Manifest:
        """The model's manifest that the broker keeps; asked in a name that no service has."""
        link = self.client("person-08", subscriptions=(build("model", root=DEFAULT_ROOT, task=TASK),))
        deadline = time.monotonic() + SECONDS_MAX
        try:
            while time.monotonic() < deadline:
                for event in link.receive(count=10, timeout_seconds=1.0):
                    if isinstance(event, Delivery) and event.retained and event.payload:
                        return read_unverified(event.payload, Manifest)
        finally:
            link.close()
        pytest.fail(f"no retained manifest\n{self.report()}")
