"""A refused certificate is told with its cause, and a renewed one is used without a restart."""

import logging
import shutil
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from tests.broker.locked import Bench, LockedBroker, MakeLink, bench, link, locked, now
from tests.conftest import MakeMosquitto
from tests.wire_contract.link.link_contract import connection, gather
from wire_contract.link.mqtt import MqttLink, MqttSettings, Tls
from wire_contract.link.protocol import Disconnected

__all__ = ["bench", "link", "locked"]

HOUR = 3600.0


@pytest.fixture
def patient() -> Iterator[Any]:
    """Links that would rest for hours after the first failure, if nothing cut it short."""
    made: list[MqttLink] = []

    def make(settings: MqttSettings) -> MqttLink:
        made.append(MqttLink(settings, uniform=lambda _, high: high))
        return made[-1]

    yield make
    for one in made:
        one.close()


def told(link: MqttLink) -> str:
    """Why there is no connection."""
    events = gather(link, lambda events: any(isinstance(event, Disconnected) for event in events))
    return next(event.reason for event in events if isinstance(event, Disconnected))


def renew(bench: Bench, name: str, folder: Path) -> None:
    """New files in the place of the old ones, the key last."""
    bench.enrol(name, out=folder, renew=True)
    for suffix in ("pem", "key"):
        shutil.move(folder / f"{name}.{suffix}", bench.out / f"{name}.{suffix}")


@pytest.mark.parametrize("protocol", ["5", "3.1.1", "auto"])
def test_an_expired_certificate_is_named_and_its_successor_is_used_at_once(
    locked: LockedBroker, bench: Bench, patient: MakeLink, tmp_path: Path, protocol: str
) -> None:
    bench.enrol("watch-9", at=lambda: now() - timedelta(days=20))
    waiting = {"reconnect_delay_seconds": HOUR, "reconnect_delay_max_seconds": HOUR}
    link = patient(locked.settings("watch-9", protocol=protocol, **waiting))
    file = bench.out / "watch-9.pem"
    assert f"the broker refuses this client's certificate, which has expired, it says: renew {file}" in told(link)
    renew(bench, "watch-9", tmp_path / "renewed")
    connection(link)


def test_a_revoked_certificate_is_named(locked: LockedBroker, bench: Bench, link: MakeLink) -> None:
    bench.revoke("watch-1")
    locked.reload()
    assert "this client's certificate, which is revoked, it says" in told(link(locked.settings("watch-1")))


def test_a_certificate_of_another_authority_is_named(locked: LockedBroker, link: MakeLink, tmp_path: Path) -> None:
    other = Bench(tmp_path / "other").tls("watch-1")
    tls = Tls(
        ca_file=locked.bench.tls("watch-1").ca_file,
        certificate_file=other.certificate_file,
        key_file=other.key_file,
    )
    assert "which is signed by an authority that it does not know" in told(link(locked.settings("watch-1", tls=tls)))


def test_a_missing_certificate_is_named(locked: LockedBroker, link: MakeLink) -> None:
    tls = Tls(ca_file=locked.bench.tls("watch-1").ca_file)
    assert "give --tls-certificate and --tls-key" in told(link(locked.settings("watch-1", tls=tls)))


def test_a_broker_with_another_name_is_named(locked: LockedBroker, link: MakeLink) -> None:
    said = told(link(locked.settings("watch-1", host="localhost")))
    assert "the certificate of the broker is for another host; use the name in the certificate" in said


def test_a_renewed_password_is_used_at_once(
    make_mosquitto: MakeMosquitto, patient: MakeLink, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    broker = make_mosquitto(users={"device": "new secret"})
    broker.start()
    file = tmp_path / "password"
    file.write_text("old secret\n")
    link = patient(
        MqttSettings(
            host="127.0.0.1",
            port=broker.port,
            client_id="d",
            username="device",
            password_file=file,
            reconnect_delay_seconds=HOUR,
            reconnect_delay_max_seconds=HOUR,
        )
    )
    assert "refused the connection" in told(link)
    file.write_text("new secret\n")
    connection(link)
    assert "the renewed credentials are used from now on" in caplog.text
