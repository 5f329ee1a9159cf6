"""What is wrong with settings is said in one line, before anything connects, and never with the password."""

from pathlib import Path
from typing import Any

import pytest

from wire_contract.errors import LinkError
from wire_contract.link.mqtt_settings import MqttSettings, Tls
from wire_contract.link.protocol import Will


def test_a_url_says_it_all() -> None:
    settings = MqttSettings.from_url("mqtts://de%40v:s%2Fcret@example.org", client_id="d", keepalive_seconds=30)
    assert (settings.host, settings.port, settings.transport) == ("example.org", 8883, "tcp")
    assert (settings.username, settings.password) == ("de@v", "s/cret")
    assert settings.keepalive_seconds == 30
    assert settings.tls == Tls()
    assert "s/cret" not in repr(settings)


@pytest.mark.parametrize(
    ("url", "host", "port"),
    [
        ("mqtt://localhost", "localhost", 1883),
        ("mqtt://localhost:1/", "localhost", 1),
        ("mqtt://[::1]:1884", "::1", 1884),
        ("ws://example.org/socket", "example.org", 80),
        ("wss://example.org", "example.org", 443),
    ],
)
def test_ports_and_hosts(url: str, host: str, port: int) -> None:
    settings = MqttSettings.from_url(url, client_id="d")
    assert (settings.host, settings.port) == (host, port)


@pytest.mark.parametrize(
    "url",
    [
        "",
        "localhost",
        "u:secret@localhost",
        "http://localhost",
        "mqtt://",
        "mqtt://localhost:port",
        "mqtt://localhost:0",
        "mqtt://localhost:65536",
        "mqtt://u:sec/ret@localhost",
        "mqtt://u:secret#1@localhost",
        "mqtt://u:secret@localhost/path",
        "mqtt://u:secret@localhost?query",
        "mqtt://:secret@localhost:99999999",
        "mqtt://[::1",
    ],
)
def test_a_bad_url_is_one_line_without_the_password(url: str) -> None:
    with pytest.raises(LinkError) as caught:
        MqttSettings.from_url(url, client_id="d")
    assert "\n" not in str(caught.value)
    assert "sec" not in str(caught.value)


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"host": ""}, "host"),
        ({"client_id": ""}, "client id"),
        ({"password": "x"}, "password"),
        ({"receive_maximum": 0}, "receive_maximum 0"),
        ({"receive_maximum": 65_536}, "receive_maximum 65536"),
        ({"outgoing_messages_max": 0}, "outgoing_messages_max 0"),
        ({"keepalive_seconds": 0}, "keepalive_seconds 0"),
        ({"subscriptions": ("a/#/b",)}, "a/#/b"),
        ({"subscriptions": ("a+",)}, "a\\+"),
        ({"subscriptions": ("",)}, "filter"),
        ({"will": Will("a/+", b"")}, "topic"),
        ({"will": Will("a", bytes(65_536))}, "will"),
    ],
)
def test_a_setting_that_cannot_work_is_named(wrong: dict[str, Any], said: str) -> None:
    with pytest.raises(LinkError, match=said):
        MqttSettings(**{"host": "localhost", "client_id": "d", **wrong})


def test_tls_files_are_looked_at_first(tmp_path: Path) -> None:
    missing = tmp_path / "missing.pem"
    for tls in (Tls(ca_file=missing), Tls(certificate_file=missing), Tls(key_file=missing)):
        with pytest.raises(LinkError, match="there is no such file"):
            tls.context()
    garbage = tmp_path / "garbage.pem"
    garbage.write_text("no certificate")
    for tls in (Tls(ca_file=garbage), Tls(certificate_file=garbage), Tls(certificate_file=garbage, key_file=garbage)):
        with pytest.raises(LinkError, match=r"garbage\.pem"):
            tls.context()
    with pytest.raises(LinkError, match="needs its certificate"):
        Tls(key_file=garbage).context()
    with pytest.raises(LinkError, match="not encrypted"):
        MqttSettings.from_url("mqtt://localhost", client_id="d", tls=Tls())
