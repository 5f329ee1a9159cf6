"""A mosquitto with the production configuration, and the certificates for it; only paths and ports are the test's."""

import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from aggregator.enrolment.authority import Authority, begin
from aggregator.enrolment.roles import Role
from tests.broker.mosquitto import START_SECONDS_MAX, free_port, listens, program
from tests.broker.rights import NAMES, role_of
from wire_contract.link.mqtt import MqttLink
from wire_contract.link.mqtt_settings import MqttSettings, Tls

BROKER_CONFIG = Path(__file__).parents[2] / "broker_config"
BEGAN = timedelta(days=30)
"""The authorities of tests are so old, so that a certificate of theirs can have ended."""


def now() -> datetime:
    return datetime.now(UTC)


class Bench:
    """An authority and what it issued; `tls(name)` connects as somebody."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder / "authority"
        self.out = folder / "enrolled"
        begin(self.folder, name="test authority", days=365, now=lambda: now() - BEGAN)
        self.enrol("broker", "broker", out=self.folder / "broker", hosts=("127.0.0.1",))
        for name in NAMES:
            self.enrol(name)
        for name in ("viewer", "watch-1"):
            with Authority(self.folder, now=now) as authority:
                authority.enrol_password(name, "viewer" if name == "viewer" else "device", out=self.out)

    def enrol(self, name: str, role: Role | None = None, *, at: Callable[[], datetime] = now, **more: Any) -> None:
        with Authority(self.folder, now=at) as authority:
            authority.enrol(name, role or role_of(name), **{"out": self.out, "days": 10, **more})  # type: ignore[arg-type]

    def revoke(self, name: str) -> None:
        with Authority(self.folder, now=now) as authority:
            authority.revoke(name)

    def tls(self, name: str) -> Tls:
        return Tls(
            ca_file=self.folder / "broker" / "ca.pem",
            certificate_file=self.out / f"{name}.pem",
            key_file=self.out / f"{name}.key",
        )

    def password(self, name: str) -> str:
        return (self.out / f"{name}.password").read_text().strip()


class LockedBroker:
    """mosquitto as in production."""

    def __init__(self, folder: Path, bench: Bench) -> None:
        self.bench = bench
        self.port, self.websockets_port = free_port(), free_port()
        self._config, self._log = folder / "mosquitto.conf", folder / "mosquitto.log"
        self._process: subprocess.Popen[bytes] | None = None
        data = folder / "data"
        data.mkdir(parents=True)
        # As root, mosquitto becomes a user who may not write here.
        user = "user root\n" if os.geteuid() == 0 else ""
        text = (BROKER_CONFIG / "mosquitto-production.conf").read_text()
        for production, ours in (
            ("/mosquitto/certs/", f"{bench.folder / 'broker'}/"),
            ("/mosquitto/config/", f"{BROKER_CONFIG}/"),
            ("/mosquitto/data/", f"{data}/"),
            ("\nlistener 8883\n", f"\n{user}listener {self.port} 127.0.0.1\n"),
            ("\nlistener 8084\n", f"\nlistener {self.websockets_port} 127.0.0.1\n"),
        ):
            assert production in text
            text = text.replace(production, ours)
        assert text.count("\nlistener ") == 2
        self._config.write_text(text)

    @property
    def log(self) -> str:
        return self._log.read_text() if self._log.exists() else ""

    def start(self) -> None:
        with self._log.open("ab") as log:
            self._process = subprocess.Popen([program("mosquitto"), "-c", self._config], stdout=log, stderr=log)
        deadline = time.monotonic() + START_SECONDS_MAX
        for port in (self.port, self.websockets_port):
            while not listens(port):
                if time.monotonic() > deadline or self._process.poll() is not None:
                    self.stop()
                    pytest.fail(f"mosquitto did not start:\n{self.log}")
                time.sleep(0.01)

    def reload(self) -> None:
        """SIGHUP, and it has been obeyed."""
        assert self._process is not None
        before = self.log.count("Reloading config")
        self._process.send_signal(signal.SIGHUP)
        deadline = time.monotonic() + START_SECONDS_MAX
        while self.log.count("Reloading config") == before:
            assert time.monotonic() < deadline, self.log
            time.sleep(0.01)

    def restart(self) -> None:
        self.stop()
        self.start()

    def stop(self) -> None:
        if self._process is not None:
            self._process.terminate()
            self._process.wait(START_SECONDS_MAX)
            self._process = None

    def settings(self, name: str, **more: Any) -> MqttSettings:
        """As `name`, with its certificate."""
        common = {"host": "127.0.0.1", "port": self.port, "client_id": f"fedkd:{name}", "tls": self.bench.tls(name)}
        return MqttSettings(**{**common, "reconnect_delay_max_seconds": 0.05, **more})

    def browser(self, name: str, password: str | None, **more: Any) -> MqttSettings:
        """As `name`, with a password over WebSockets."""
        authorities = Tls(ca_file=self.bench.folder / "broker" / "ca.pem")
        return self.settings(
            name,
            port=self.websockets_port,
            transport="websockets",
            tls=authorities,
            username=name,
            password=password,
            **more,
        )


MakeLink = Callable[[MqttSettings], MqttLink]


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path)


@pytest.fixture
def locked(tmp_path: Path, bench: Bench) -> Iterator[LockedBroker]:
    """A running one."""
    broker = LockedBroker(tmp_path / "broker", bench)
    broker.start()
    yield broker
    broker.stop()
    shutil.rmtree(tmp_path / "broker")


@pytest.fixture
def link() -> Iterator[MakeLink]:
    """Links that are closed with the test."""
    made: list[MqttLink] = []

    def make(settings: MqttSettings) -> MqttLink:
        made.append(MqttLink(settings))
        return made[-1]

    yield make
    for one in made:
        one.close()
