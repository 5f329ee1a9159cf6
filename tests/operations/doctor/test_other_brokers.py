"""What the doctor says of brokers that are not mosquitto."""

import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from operations.doctor.finding import exit_code
from simulators.network.embedded_broker import await_url, launch
from simulators.processes.processes import Processes
from tests.broker.mosquitto import START_SECONDS_MAX, free_port, listens
from tests.broker.nats import nats_program
from tests.operations.doctor.conftest import Examine, nothing_is_left


@pytest.fixture
def nats_port(tmp_path: Path) -> Iterator[int]:
    """nats-server with JetStream and an MQTT listener, and otherwise its defaults."""
    port, client_port = free_port(), free_port()
    config, log = tmp_path / "nats.conf", tmp_path / "nats.log"
    config.write_text(
        f'server_name: doctor\nlisten: "127.0.0.1:{client_port}"\njetstream {{ store_dir: "{tmp_path / "store"}" }}\n'
        f'mqtt {{ listen: "127.0.0.1:{port}", ack_wait: "5s" }}\n'
    )
    with log.open("wb") as output:
        process = subprocess.Popen([nats_program(), "-c", str(config)], stdout=output, stderr=output)
    deadline = time.monotonic() + START_SECONDS_MAX
    while not listens(port):
        if process.poll() is not None or time.monotonic() > deadline:
            process.kill()
            pytest.fail(f"nats-server did not start:\n{log.read_text()}")
        time.sleep(0.02)
    yield port
    process.terminate()
    process.wait(START_SECONDS_MAX)


@pytest.mark.broker
def test_nats(nats_port: int, examine_broker: Examine) -> None:
    examined = examine_broker(f"mqtt://127.0.0.1:{nats_port}", kind="NATS", queue_messages=300)
    assert examined.named("missing") == set()
    assert examined.broker.protocol == "3.1.1"
    assert "3.1.1 only, which is enough" in examined.one("MQTT versions").line
    assert "does not report its version" in examined.one("broker's memory").line
    assert examined.one("durable session").verdict == "ok"
    assert exit_code(examined.findings) == 0
    nothing_is_left(examined)


def test_the_embedded_broker(tmp_path: Path, examine_broker: Examine, monkeypatch: pytest.MonkeyPatch) -> None:
    """Amqtt 0.12.1 keeps what comes while a client is away, but not what it has once delivered."""
    monkeypatch.setattr("operations.doctor.delivery.REDELIVERY_SECONDS_MAX", 3.0)
    with Processes(tmp_path / "logs") as processes:
        broker = launch(processes, tmp_path)
        url = await_url(broker, processes)
        user = {"username": broker.credentials.username, "password": broker.credentials.password}
        examined = examine_broker(url, queue_messages=100, **user)
        nothing_is_left(examined, sessions=False)
    assert "3.1.1 only" in examined.one("MQTT versions").line
    assert examined.one("anonymous access").verdict == "ok"
    assert examined.one("durable session").verdict == "ok"
    assert examined.one("retained").verdict == "ok"
    assert examined.named("missing") == {"QoS 1 redelivery"}
    assert exit_code(examined.findings) == 1
