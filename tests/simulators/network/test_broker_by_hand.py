"""`asyncfedkd broker` as a person starts it: no files, a password that is given or printed."""

import re
import signal
import subprocess
import sys
from pathlib import Path

from tests.broker.mosquitto import free_port
from tests.waiting import ended
from wire_contract.link.mqtt import MqttLink
from wire_contract.link.mqtt_settings import MqttSettings

HOUSE = Path(__file__).parents[3]
COMMAND = [sys.executable, "-m", "asyncfedkd", "broker"]


def started(*arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [*COMMAND, *arguments], cwd=HOUSE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def url_told_by(broker: subprocess.Popen[str]) -> str:
    assert broker.stdout is not None
    for line in broker.stdout:
        if told := re.search(r"export FEDKD_BROKER=(\S+) FEDKD_MQTT=3\.1\.1$", line.rstrip()):
            return told[1]
    raise AssertionError(broker.communicate())


def assert_lets_in(url: str) -> None:
    link = MqttLink(MqttSettings.from_url(url, client_id="somebody", protocol="3.1.1"))
    try:
        assert link.publish("fedkd/v1/x", b"x").wait(60)
    finally:
        link.close()


def test_it_tells_how_to_reach_it() -> None:
    with started("--port", "0", "--websocket-port", "0") as broker, ended(broker):
        url = url_told_by(broker)
        assert re.fullmatch(r"mqtt://fedkd:[\w-]{12}@127\.0\.0\.1:\d+", url)
        assert broker.stdout is not None
        assert re.fullmatch(r"For browsers: ws://127\.0\.0\.1:\d+/mqtt, as user fedkd\n", broker.stdout.readline())
        assert_lets_in(url)
        broker.send_signal(signal.SIGINT)
        _, complaint = broker.communicate(timeout=60)
    assert (broker.returncode, complaint) == (0, "")


def test_user_password_and_port_are_given() -> None:
    port = free_port()
    with started("--port", str(port), "--username", "me", "--password", "p/w") as broker, ended(broker):
        url = url_told_by(broker)
        assert url == f"mqtt://me:p%2Fw@127.0.0.1:{port}"
        assert_lets_in(url)
        again = subprocess.run(
            [*COMMAND, "--port", str(port)], cwd=HOUSE, capture_output=True, text=True, timeout=60, check=False
        )
        assert again.returncode == 2
        assert again.stderr.startswith(f"simulators: port {port} of 127.0.0.1: Address already in use")
        assert again.stderr.count("\n") == 1
