"""Programs that people look at, as they look at them: in a real terminal, whose last screen tells the result."""

import json
import os
import re
import signal
from contextlib import suppress
from pathlib import Path
from urllib.request import urlopen

import pytest

from tests.broker.mosquitto import Mosquitto
from tests.e2e.small_demo import DEMO_SECONDS_MAX, data_wheel
from tests.terminal import Ended, Terminal
from tests.waiting import PATIENCE_SECONDS

pytestmark = pytest.mark.e2e

QUICK = ("--quick", "--devices", "2", "--versions", "5", "--baselines-seconds", str(DEMO_SECONDS_MAX))
ONE_CORE = frozenset({min(os.sched_getaffinity(0))})


@pytest.mark.timeout(DEMO_SECONDS_MAX + 60)
def test_a_demo_ends_with_a_report_whatever_its_baselines_do(tmp_path: Path) -> None:
    """One program makes no headway, as on a slow machine, and one dies; that once took the report with it."""
    data_wheel()
    out = tmp_path / "demo"
    with Terminal(["-m", "simulators", "demo", "--out", str(out), *QUICK, "--baselines-seconds", "1"]) as terminal:
        for who, number in (("centralised", signal.SIGSTOP), ("local", signal.SIGKILL)):
            os.kill(terminal.found(lambda who=who: baseline(out, who), seconds_max=DEMO_SECONDS_MAX), number)
        ended = terminal.ended(seconds_max=DEMO_SECONDS_MAX)
    assert ended.code == 0, ended.output
    assert names_report(ended, out), ended.text
    facts = json.loads((out / "summary.json").read_text())
    assert facts["missing"][0] == "pooled data"
    assert len(facts["missing"]) > 1
    for said in (ended.text, (out / "report.html").read_text()):
        assert f"{facts['accuracy']:.1%}" in said
        assert "pooled data" in said
        # A terminal breaks a line that is too long anywhere, also in a word.
        assert "notfinished1safterthefederation" in "".join(said.split())
        assert "local.log" in said


def baseline(out: Path, who: str) -> int | None:
    """The process that measures it, once there is one."""
    for process in Path("/proc").iterdir():
        with suppress(OSError):  # it is no process, or has just ended
            # A fork goes by its own name, and has the command line of the fork server, which tells the folder.
            if (process / "comm").read_text().strip() == who and str(out) in (process / "cmdline").read_text():
                return int(process.name)
    return None


@pytest.mark.timeout(DEMO_SECONDS_MAX + 60)
def test_the_last_screen_of_a_demo_shows_the_result(tmp_path: Path) -> None:
    """In the smallest terminal and on one core; the demo above has a larger terminal and all cores."""
    data_wheel()
    out = tmp_path / "demo"
    arguments = ["-m", "simulators", "demo", "--out", str(out), *QUICK]
    with Terminal(arguments, columns=80, rows=24, cores=ONE_CORE) as terminal:
        ended = terminal.ended(seconds_max=DEMO_SECONDS_MAX)
    assert ended.code == 0, ended.output
    assert "Traceback" not in ended.output
    facts = json.loads((out / "summary.json").read_text())
    for figure in (facts["accuracy"], facts["accuracy_centralised"], facts["accuracy_local_mean"]):
        assert f"{figure:.1%}" in ended.text, ended.text
    assert not facts["missing"]
    assert names_report(ended, out), ended.text


def names_report(ended: Ended, out: Path) -> bool:
    said = "".join(ended.screen)  # a long path goes on in the next line
    return re.sub(r"\s", "", f"report: {out / 'report.html'}") in re.sub(r"\s", "", said)


def test_the_doctor_in_a_terminal(mosquitto: Mosquitto) -> None:
    arguments = ["-m", "simulators", "doctor", "--broker", mosquitto.url, "--queue-messages", "10"]
    with Terminal(arguments, columns=80, rows=24) as terminal:
        ended = terminal.ended(seconds_max=PATIENCE_SECONDS)
    assert ended.code in {0, 1}, ended.output
    assert "Traceback" not in ended.output
    assert re.search(r"^\d+ ok.*, in \d+ s$", ended.text, re.MULTILINE), ended.text
    assert "programs need is " in ended.text, "the outcome is what stands last"


@pytest.mark.parametrize(("columns", "rows"), [(100, 30), (80, 24)], ids=str)
def test_the_page_is_served_from_a_terminal_until_control_c(columns: int, rows: int) -> None:
    arguments = ["-m", "simulators", "watch", "--websocket", "ws://127.0.0.1:9/mqtt", "--port", "0"]
    with Terminal(arguments, columns=columns, rows=rows) as terminal:
        terminal.until("Ctrl-C stops it", seconds_max=PATIENCE_SECONDS)
        shown = re.search(r"http://127\.0\.0\.1:\d+/", " ".join(terminal.screen))
        assert shown is not None
        with urlopen(shown[0], timeout=PATIENCE_SECONDS) as page:
            assert b"<title>asyncfedkd</title>" in page.read()
        terminal.type("\x03")
        ended = terminal.ended(seconds_max=PATIENCE_SECONDS)
    assert ended.code == 0, ended.output
    assert "Traceback" not in ended.output
