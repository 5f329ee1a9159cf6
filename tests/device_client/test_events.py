"""Event lines: what a device tells never ends its work."""

import errno
import json
import os
import subprocess
import sys
from io import StringIO
from pathlib import Path
from typing import Any

import pytest

from device_client.events import EventLog

HOUSE = Path(__file__).parents[2]


def log_to(out: Any, log_format: Any = "json") -> EventLog:
    return EventLog(out, unix=lambda: 1_763_665_200.0, log_format=log_format)


def test_lines_are_there_at_once(tmp_path: Path) -> None:
    with (tmp_path / "log").open("w") as out:
        log_to(out)("model", version=7, bytes=12)
        text = (tmp_path / "log").read_text()
    assert json.loads(text) == {"at": 1_763_665_200.0, "event": "model", "version": 7, "bytes": 12}
    out_in_memory = StringIO()
    log_to(out_in_memory, "text")("model", version=7, bytes=12)
    assert out_in_memory.getvalue() == "model 7 received (full size 12 bytes)\n"


def test_what_could_not_be_written_is_counted_and_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first line still fits in half."""
    write, space = os.write, [20]

    def small_disk(descriptor: int, data: bytes) -> int:
        if not space[0]:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        fits = data[: space[0]]
        space[0] -= len(fits)
        return write(descriptor, fits)

    monkeypatch.setattr(os, "write", small_disk)
    with (tmp_path / "log").open("w") as out:
        log = log_to(out)
        for version in range(4):
            log("model", version=version, bytes=12)
        space[0] = 1_000
        log("model", version=4, bytes=12)
        log("model", version=5, bytes=12)
    first, *whole = (tmp_path / "log").read_text().splitlines()
    assert len(first) == 20
    told = [json.loads(line) for line in whole]
    assert [row.get("message", row.get("version")) for row in told] == ["4 event lines could not be written", 4, 5]


def test_a_character_that_the_terminal_lacks_is_escaped(tmp_path: Path) -> None:
    with (tmp_path / "log").open("w", encoding="ascii") as out:
        log_to(out, "text")("warning", message="Gerät ≥ 3")
    assert (tmp_path / "log").read_text() == "warning: Ger\\xe4t \\u2265 3\n"


@pytest.mark.parametrize("out", [None, "closed"])
def test_without_anywhere_to_write_it_goes_on(tmp_path: Path, out: Any) -> None:
    if out == "closed":
        out = (tmp_path / "log").open("w")
        out.close()
    log_to(out)("stopped")


CHATTER = """
import sys
from device_client.events import EventLog
log = EventLog(sys.stdout, unix=lambda: 0.0, log_format="text")
for version in range(2_000):
    log("model", version=version, bytes=12)
"""


@pytest.mark.parametrize("out", ["/dev/full", "no reader", "no descriptor"])
def test_a_program_ends_in_order_whatever_became_of_its_output(out: str) -> None:
    """/dev/full refuses each write as a full disk does. Python's own buffer would be flushed at the end, and turn the
    exit code to 120.
    """
    if out == "/dev/full" and not Path(out).exists():
        pytest.skip("no /dev/full here")
    command = {"/dev/full": '"$@" > /dev/full', "no reader": '"$@" | true', "no descriptor": '"$@" >&-'}[out]
    done = subprocess.run(
        ["bash", "-o", "pipefail", "-c", command, "bash", sys.executable, "-c", CHATTER],
        cwd=HOUSE,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
