"""The commands of docs/deployment.md that back a ledger up and restore it, in real containers of the Dockerfile.

They run as compose.yaml has them: as a user who is not root, on a read-only file system, the ledger in a named volume.
The broker is the test's own mosquitto. `make test-containers` builds the image first.
"""

import os
import shutil
import subprocess
import time
import tomllib
import uuid
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from tests.aggregator.synthetic import ROOT, TASK, SyntheticDevice, write_initial_model
from tests.broker.mosquitto import Mosquitto
from tests.containers.stack import USER_FOR_ROOT
from tests.waiting import eventually
from wire_contract.codec import decode
from wire_contract.link.mqtt import MqttLink
from wire_contract.link.mqtt_settings import MqttSettings
from wire_contract.link.protocol import Delivery
from wire_contract.messages import Manifest, Receipt
from wire_contract.topics import build, topic_filter

pytestmark = pytest.mark.containers

REPOSITORY = Path(__file__).parents[2]
VERSION = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]["version"]
IMAGE = f"asyncfedkd/aggregator:{VERSION}"
USER = os.geteuid() or USER_FOR_ROOT
"""As whom the containers run: tests/containers/images.sh builds them for this user."""
SECONDS_MAX = 60.0


def docker(*arguments: str, code: int | None = 0) -> str:
    """What it printed, both outputs; `code` is the exit code that is expected, None: any."""
    done = subprocess.run(
        ["docker", *arguments], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=300, check=False
    )
    assert code is None or done.returncode == code, f"{arguments}: {done.returncode}\n{done.stdout}"
    return done.stdout


class Deployment:
    """An aggregator in containers, with a volume for its ledger and a folder for backups."""

    def __init__(self, folder: Path, broker: Mosquitto) -> None:
        self.name = f"fedkd-test-{uuid.uuid4().hex[:8]}"
        self.backups, self.models = folder / "backups", folder / "models"
        for path in (self.backups, self.models):
            path.mkdir()
            if os.geteuid() == 0:
                os.chown(path, USER, USER)
        write_initial_model(self.models / "initial.safetensors").chmod(0o644)
        docker("volume", "create", self.name)
        self._environment: Mapping[str, str] = {
            "FEDKD_TASK": TASK,
            "FEDKD_BROKER": broker.url,
            "FEDKD_ROOT": ROOT,
            "FEDKD_LEDGER": "/state/ledger.sqlite3",
            "FEDKD_INITIAL_MODEL": "/models/initial.safetensors",
            "FEDKD_HEALTH_FILE": "/tmp/health.json",
            "FEDKD_UPDATES_PER_VERSION": "2",
        }

    def _flags(self) -> list[str]:
        hardened = ["--read-only", "--tmpfs", "/tmp:mode=1777", "--cap-drop", "ALL"]
        hardened += ["--security-opt", "no-new-privileges:true", "--network", "host"]
        mounts = [f"{self.name}:/state", f"{self.models}:/models:ro", f"{self.backups}:/backups"]
        variables = [f"{name}={value}" for name, value in self._environment.items()]
        return [
            *hardened,
            *(word for mount in mounts for word in ("--volume", mount)),
            *(word for variable in variables for word in ("--env", variable)),
        ]

    def start(self) -> None:
        """The aggregator; returns when it is healthy."""
        docker("run", "--detach", "--name", self.name, *self._flags(), IMAGE, "run")
        deadline = time.monotonic() + SECONDS_MAX
        while "works" not in (health := self.health()):
            assert time.monotonic() < deadline, f"{health}\n{docker('logs', self.name)}"
            time.sleep(0.5)

    def health(self) -> str:
        return docker("exec", self.name, "python", "-m", "aggregator", "health", code=None)

    def stop(self) -> None:
        docker("stop", "--time", "20", self.name)
        docker("rm", self.name)

    def run(self, *arguments: str, code: int = 0) -> str:
        """One command of the aggregator beside it, as `docker compose run --rm` does it."""
        return docker("run", "--rm", *self._flags(), IMAGE, *arguments, code=code)

    def remove(self) -> None:
        docker("rm", "--force", self.name, code=None)
        docker("volume", "rm", "--force", self.name, code=None)


@pytest.fixture
def deployment(tmp_path: Path, mosquitto: Mosquitto) -> Iterator[Deployment]:
    assert shutil.which("docker"), "docker is missing; see `make test-containers`"
    docker("image", "inspect", IMAGE)
    made = Deployment(tmp_path, mosquitto)
    yield made
    made.remove()


class Devices:
    """Two devices, and whoever looks at the model."""

    def __init__(self, broker: Mosquitto) -> None:
        filters = (build("model", root=ROOT, task=TASK), topic_filter("receipt", root=ROOT, task=TASK))
        self.link = MqttLink(MqttSettings.from_url(broker.url, client_id="devices", subscriptions=filters))
        self.devices = [SyntheticDevice(name) for name in ("watch-1", "watch-2")]
        self.manifest: Manifest | None = None
        self.outcomes: list[str] = []

    def hear(self) -> None:
        for event in self.link.receive(count=100, timeout_seconds=0.1):
            if isinstance(event, Delivery) and event.payload:
                if event.topic.endswith("/model"):
                    self.manifest = decode(event.payload, Manifest)
                else:
                    self.outcomes.append(decode(event.payload, Receipt).outcome)
                self.link.ack(event)

    def version(self) -> int:
        self.hear()
        return -1 if self.manifest is None else self.manifest.version

    def teach(self) -> None:
        """Each hands in one update, which makes a version."""
        before = self.version()
        assert self.manifest is not None
        base = {"base_version": self.manifest.version, "base_digest": self.manifest.digest}
        for device in self.devices:
            self.link.publish(device.topic, device.payload(**base))
        eventually(lambda: self.version() > before, seconds_max=SECONDS_MAX)


def test_back_up_while_it_runs_and_restore(deployment: Deployment, mosquitto: Mosquitto) -> None:
    devices = Devices(mosquitto)
    try:
        deployment.start()
        eventually(lambda: devices.version() == 0, seconds_max=SECONDS_MAX)
        devices.teach()
        assert "version 1" in deployment.run("backup", "--out", "/backups/ledger.sqlite3")
        (backup,) = deployment.backups.iterdir()
        assert (backup.stat().st_uid, backup.stat().st_mode & 0o777) == (USER, 0o600)
        assert "already exists" in deployment.run("backup", "--out", "/backups/ledger.sqlite3", code=2)
        devices.teach()
        assert devices.version() == 2

        restore = ("restore", "--backup", "/backups/ledger.sqlite3")
        assert "another aggregator" in deployment.run(*restore, "--replace", code=2), "not while it runs"
        deployment.stop()
        assert "--replace" in deployment.run(*restore, code=2), "not over a ledger without being told"
        assert "version 1" in deployment.run(*restore, "--replace")
        # Devices have seen version 2: the aggregator says what to do in place of going back.
        refused = deployment.run("run", code=2)
        assert "move-forward" in refused
        assert "--version 3" in refused
        deployment.run("move-forward", "--version", "3")
        deployment.start()
        eventually(lambda: devices.version() == 3, seconds_max=SECONDS_MAX)
        devices.teach()
        assert devices.version() == 4
        assert set(devices.outcomes) == {"merged"}
        assert "version 4" in " ".join(deployment.run("status").split())
        deployment.stop()
    finally:
        devices.link.close()
