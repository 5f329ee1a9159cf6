"""The demo as its user starts it: a small one to its end, and every way in which it cannot begin or go on."""

import json
import os
import signal
import socket
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import MakeMosquitto
from tests.e2e.small_demo import DEMO_SECONDS_MAX, SMALL, SmallDemo, data_wheel, ended, start
from tests.waiting import eventually

pytestmark = pytest.mark.e2e


@pytest.fixture
def wheel() -> Path:
    """The data of the task."""
    return data_wheel()


def programs_of(out: Path) -> list[int]:
    """Processes that still have this run's folder on their command line, or write into it."""
    found = []
    for process in Path("/proc").iterdir():
        try:
            words = (process / "cmdline").read_bytes().decode(errors="replace")
        except OSError:
            continue
        if process.name.isdecimal() and str(out) in words and int(process.name) != os.getpid():
            found.append(int(process.name))
    return found


@pytest.fixture
def out(tmp_path: Path) -> Iterator[Path]:
    yield tmp_path / "demo"
    assert programs_of(tmp_path / "demo") == []


@pytest.mark.timeout(DEMO_SECONDS_MAX + 60)
def test_small_demo_ends_with_balanced_ledgers_and_a_report(small_demo: SmallDemo) -> None:
    out, code, said, error = small_demo
    assert code == 0, said + error
    assert programs_of(out) == []
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
    assert code == 2, error
    assert len(error.splitlines()) == 1
    assert "check user name and password" in error
    assert "wrong@" not in said + error


def test_no_data_and_no_network_is_one_line(out: Path, tmp_path: Path) -> None:
    nowhere = {"PIP_INDEX_URL": "http://127.0.0.1:9/", "PIP_RETRIES": "0", "PIP_CONFIG_FILE": os.devnull}
    code, _, error = ended(
        start("--out", str(out), "--plain", FEDKD_WHEEL_FOLDER=str(tmp_path), PIP_NO_CACHE_DIR="1", **nowhere)
    )
    assert code == 2
    *waiting, fault = error.splitlines()  # a slow machine is told what takes so long
    assert all("still working" in line for line in waiting)
    assert "could not be fetched" in fault


def pid_of(out: Path, name: str) -> int | None:
    """The process of one of the demo's programs, by its client id."""
    for pid in programs_of(out):
        with suppress(OSError):  # it has just ended
            if f"fedkd-demo-{name}\0" in Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace"):
                return pid
    return None


@pytest.mark.usefixtures("wheel")
def test_a_program_that_dies_is_named(out: Path) -> None:
    demo = start("--out", str(out), *SMALL, "--quick")
    eventually(lambda: pid_of(out, "aggregator") is not None, seconds_max=DEMO_SECONDS_MAX)
    pid = pid_of(out, "aggregator")
    assert pid is not None
    os.kill(pid, signal.SIGKILL)
    code, _, error = ended(demo)
    assert code == 1
    assert "aggregator ended unexpectedly by signal 9" in error


@pytest.mark.usefixtures("wheel")
@pytest.mark.parametrize(("number", "expected"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_an_interrupted_demo_leaves_nobody_behind(out: Path, number: signal.Signals, expected: int) -> None:
    demo = start("--out", str(out), *SMALL, "--quick")
    eventually(lambda: pid_of(out, "aggregator") is not None, seconds_max=DEMO_SECONDS_MAX)
    demo.send_signal(number)
    code, _, error = ended(demo)
    assert code == expected
    assert f"stopped by {number.name}" in error
    assert programs_of(out) == []
