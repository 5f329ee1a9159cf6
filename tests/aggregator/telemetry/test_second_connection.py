"""As whom the broker is watched: never under a name that the aggregator itself uses with a certificate."""

from pathlib import Path

import pytest

from aggregator.enrolment.authority import Authority, begin
from aggregator.telemetry.assembly import second_connection
from aggregator.telemetry.settings import TelemetrySettings
from tests.broker.locked import now
from wire_contract.link.mqtt_settings import MqttSettings, Tls
from wire_contract.program.command_settings import UsageError, read_settings


@pytest.fixture
def enrolled(tmp_path: Path) -> Path:
    begin(tmp_path / "authority", name="test", days=10, now=now)
    with Authority(tmp_path / "authority", now=now) as authority:
        for name in ("aggregator", "aggregator-3"):
            authority.enrol(name, "aggregator", out=tmp_path / "out", days=1)
    return tmp_path / "out"


def settings(*flags: object) -> TelemetrySettings:
    return read_settings(TelemetrySettings, [str(flag) for flag in flags], program="test")


def shown(enrolled: Path, name: str) -> Tls:
    return Tls(
        ca_file=enrolled / "ca.pem", certificate_file=enrolled / f"{name}.pem", key_file=enrolled / f"{name}.key"
    )


def connection(enrolled: Path | None) -> MqttSettings:
    tls = None
    if enrolled is not None:
        tls = shown(enrolled, "aggregator")
    return MqttSettings(host="broker", port=8883, client_id="aggregator", tls=tls)


def test_without_certificates_it_is_the_same_user() -> None:
    assert second_connection(connection(None), settings()) == connection(None)


def test_a_name_in_a_certificate_is_not_used_twice(enrolled: Path) -> None:
    assert second_connection(connection(enrolled), settings()) is None


def test_a_certificate_of_its_own(enrolled: Path) -> None:
    certificate, key = enrolled / "aggregator-3.pem", enrolled / "aggregator-3.key"
    found = second_connection(
        connection(enrolled), settings("--telemetry-certificate", certificate, "--telemetry-key", key)
    )
    assert found is not None
    assert found.tls == shown(enrolled, "aggregator-3")


def test_what_is_wrong_with_it_is_said_in_one_line(enrolled: Path) -> None:
    with pytest.raises(UsageError, match="belong together"):
        settings("--telemetry-certificate", enrolled / "aggregator-3.pem")
    with pytest.raises(UsageError, match="no such file"):
        second_connection(
            connection(enrolled), settings("--telemetry-certificate", "a.pem", "--telemetry-key", "a.key")
        )
