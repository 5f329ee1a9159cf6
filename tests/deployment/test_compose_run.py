"""compose.yaml, lived through: its processes with its commands, environment, mounts and order, without containers.

What this cannot show: that the images build, and that Docker gives a volume to its owner. InfluxDB is Debian's 1.6
behind a shim, so the script that makes its tokens runs in test_scripts.py, and Grafana is only read.
"""

import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from aggregator.ledger.reading import read_journal, read_totals
from device_client.learning.parameters import layout_of, vector_of
from device_client.model_files import ModelFile, write_model
from device_client.tasks import physiotherapy
from tests.deployment.compose_file import REPOSITORY, read_services
from tests.deployment.uncontained import SECONDS_MAX, Uncontained
from tests.documents import blocks
from tests.telemetry_server import TOKEN, InfluxDB
from tests.waiting import ended, eventually

pytestmark = pytest.mark.e2e

HERE = ("setup", "initial-model", "broker", "aggregator", "evaluator", "teacher", "person-03", "person-04")
ELSEWHERE = ("influxdb", "influxdb-setup", "grafana", "person-05", "person-06", "person-07", "person-08")


def test_every_service_is_either_started_here_or_named_as_one_that_is_not() -> None:
    assert set(read_services()) == {*HERE, *ELSEWHERE}


@pytest.fixture
def stack(tmp_path: Path, influxdb: InfluxDB) -> Iterator[Uncontained]:
    port = urlsplit(influxdb.url).port
    assert port is not None
    # With the default keepalive it would take the aggregator, and so the test, up to 50 s to notice a silent broker.
    stack = Uncontained(
        tmp_path / "stack",
        HERE,
        outside={"influxdb": port, "influxdb-setup": 0},
        added={"FEDKD_KEEPALIVE_SECONDS": "5"},
    )
    tokens = stack.volume("influxdb-tokens")
    tokens.mkdir(parents=True)
    (tokens / "write").write_text(TOKEN)
    # As on any but the first `make up`, the teacher is there: to train one takes longer than all the rest, and
    # test_readme.py runs that command. This one has learned nothing, which is all the same here.
    teacher = physiotherapy.task().teacher()
    layout = layout_of(teacher)
    weights = vector_of(teacher, layout)
    models = stack.volume("models")
    models.mkdir()
    write_model(models / "teacher.safetensors", ModelFile(task="physiotherapy", layout=layout, weights=weights))
    yield stack
    stack.stop()


def status(stack: Uncontained) -> dict[str, Any]:
    """What the aggregator's own command says."""
    done = subprocess.run(
        [sys.executable, "-m", "aggregator", "status", "--json"],
        env=stack.environment(stack.services["aggregator"]),
        capture_output=True,
        check=True,
    )
    return json.loads(done.stdout)


def health(stack: Uncontained, service: str, *flags: str) -> tuple[int, str]:
    """Exit code and line of a service's health check, with a shorter patience than in a container."""
    words = [*stack.services[service].healthcheck[1:], "--age-seconds-max", "12", *flags]
    environment = stack.environment(stack.services[service])
    done = subprocess.run([sys.executable, *words], env=environment, capture_output=True, text=True, check=False)
    return done.returncode, done.stdout + done.stderr


def a_stopped_program_and_a_lost_broker_are_seen(stack: Uncontained) -> None:
    def until(service: str, code: int, said: str, *flags: str) -> None:
        deadline = time.monotonic() + SECONDS_MAX
        while True:
            found, line = health(stack, service, *flags)
            if found == code and said in line:
                return
            assert time.monotonic() < deadline, f"{service}: {found}, {line}\n{stack.report()}"
            time.sleep(1.0)  # each look is a process

    watched = ("aggregator", "evaluator", "person-03")
    for service in watched:
        until(service, 0, "works")
        stack.processes[service].send_signal(signal.SIGSTOP)
    for service in watched:
        until(service, 2, "does not respond")
        stack.processes[service].send_signal(signal.SIGCONT)
        until(service, 0, "works")
    stack.processes["broker"].send_signal(signal.SIGSTOP)
    until("aggregator", 2, "no connection to the broker")
    until("aggregator", 0, "responds, but", "--live")
    stack.processes["broker"].send_signal(signal.SIGCONT)
    until("aggregator", 0, "works")


def a_device_joins_as_documented(stack: Uncontained, device: str) -> None:
    """The `device run` of docs/deployment.md, on a machine that has only what the document says to bring."""
    (command,) = (
        command
        for block in blocks(REPOSITORY / "docs" / "deployment.md")
        for command in block
        if command.startswith("asyncfedkd device run --task physiotherapy")
    )
    machine = stack.folder / "machine"
    machine.mkdir()
    for brought in ("clients/ca.pem", f"clients/{device}.pem", f"clients/{device}.key", "signing/models.key.pub"):
        shutil.copy(stack.secret(f"secrets/{brought}"), machine)
    shutil.copy(stack.volume("models") / "teacher.safetensors", machine)
    command = command.replace("HOST:8883", f"localhost:{stack.port('broker', 8883)}").replace("person-03", device)
    words = [sys.executable, "-m", "asyncfedkd", *shlex.split(command)[1:]]
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    log = machine / "log"
    with (
        log.open("wb") as out,
        subprocess.Popen(words, cwd=machine, env=environment, stdout=out, stderr=out) as process,
        ended(process),
    ):
        ledger = stack.volume("ledger") / "ledger.sqlite3"
        eventually(
            lambda: process.poll() is not None or any(one.device == device for one in read_journal(ledger)),
            seconds_max=SECONDS_MAX,
        )
        assert process.poll() is None, log.read_text()


@pytest.mark.timeout(500)
def test_up_learn_down(stack: Uncontained, influxdb: InfluxDB) -> None:
    stack.start()
    assert {"broker", "aggregator"} <= stack.healthy
    deadline = time.monotonic() + SECONDS_MAX
    ledger = stack.volume("ledger") / "ledger.sqlite3"
    while True:
        totals = read_totals(ledger)
        told = influxdb.count("fedkd_update", "device") and influxdb.count("fedkd_version", "version")
        if totals.version and totals.evaluated_version and told:
            break
        assert time.monotonic() < deadline, f"{totals}\n{stack.report()}"
        time.sleep(0.5)
    assert totals.merged
    assert status(stack)["merged"] >= totals.merged
    # What is told of the broker comes over a second connection of the aggregator, under the same name.
    assert stack.log("broker").count("already connected, closing old connection") == 0, stack.log("broker")
    for name in stack.healthy:
        assert stack.check(name) == 0, stack.report()
    a_device_joins_as_documented(stack, "person-05")

    a_stopped_program_and_a_lost_broker_are_seen(stack)

    codes = stack.stop()
    assert set(codes) == {"broker", "aggregator", "evaluator", "person-03", "person-04"}, stack.report()
    assert set(codes.values()) == {0}, f"{codes}\n{stack.report()}"
    assert stack.check("broker") != 0, "the check must see a broker that is gone"
    complaints = [line for line in stack.report().splitlines() if "Traceback" in line or " ERROR " in line]
    assert not complaints, stack.report()
