"""docs/deployment.md, "A changed student": its commands on a living system of real programs and a real broker."""

import json
import re
import shlex
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from aggregator.ledger.file_format import LedgerError
from aggregator.ledger.reading import Totals, read_totals
from tests.broker.mosquitto import Mosquitto
from tests.documents import HOUSE, blocks
from tests.e2e.test_readme import Reader, reader
from tests.waiting import eventually

pytestmark = pytest.mark.e2e

DEPLOYMENT = HOUSE / "docs" / "deployment.md"
PATIENCE_SECONDS = 180.0
OWN_TASK = "examples/own_task.py:task"


@pytest.fixture
def somebody(tmp_path: Path) -> Iterator[Reader]:
    broker = Mosquitto(tmp_path / "broker")
    broker.start()
    try:
        with reader(tmp_path) as found:
            found.environment |= {"FEDKD_BROKER": f"mqtt://127.0.0.1:{broker.port}", "FEDKD_LOG_FORMAT": "json"}
            yield found
    finally:
        broker.kill()


def commands() -> list[str]:
    (found,) = [block for block in blocks(DEPLOYMENT) if any("begin-line" in command for command in block)]
    return found


def totals(folder: Path, number: int = 1) -> Totals | None:
    try:
        return read_totals(folder / ("bearings.sqlite3" if number == 1 else f"bearings.{number}.sqlite3"))
    except LedgerError:
        return None


def version(folder: Path, number: int = 1) -> int:
    found = totals(folder, number)
    return -1 if found is None else found.version


def events(log: Path, name: str) -> list[dict[str, Any]]:
    found = [json.loads(line) for line in log.read_text().splitlines() if line.startswith("{")]
    return [event for event in found if event["event"] == name]


def device(somebody: Reader, name: str, *, task: str = OWN_TASK, teacher: str = "bearings-teacher.safetensors") -> Path:
    """Leaves a device running; returns its log."""
    somebody.leave_running(
        f"asyncfedkd device run --task {task} --device {name} --state state/{name} --teacher {teacher} "
        "--retrain-after-seconds 1"
    )
    return somebody.running[-1][2]


def stop(somebody: Reader, log: Path, *, kill: bool = False) -> None:
    """Ends the program with this log."""
    (entry,) = [entry for entry in somebody.running if entry[2] == log]
    somebody.running.remove(entry)
    (entry[1].kill if kill else entry[1].terminate)()
    entry[1].wait(PATIENCE_SECONDS)


def wait(somebody: Reader, true: Any) -> None:
    def checked() -> bool:
        somebody.all_run()
        return bool(true())

    eventually(checked, seconds_max=PATIENCE_SECONDS)


def journal(path: Path) -> list[tuple[str, bytes, int]]:
    with closing(sqlite3.connect(path)) as db:
        return db.execute("SELECT device, incarnation, sequence FROM journal ORDER BY id").fetchall()


def outbox(path: Path) -> tuple[bytes, int, list[int]]:
    """Incarnation, updates made, and sequences without a receipt."""
    with closing(sqlite3.connect(path)) as db:
        incarnation, made = db.execute("SELECT incarnation, last_sequence FROM identity").fetchone()
        return incarnation, made, [sequence for (sequence,) in db.execute("SELECT sequence FROM queue")]


@pytest.mark.timeout(900)
def test_a_changed_student_on_a_living_fleet(somebody: Reader, tmp_path: Path) -> None:
    for command in (
        f"asyncfedkd device initial-model --task {OWN_TASK} --out bearings.safetensors",
        f"asyncfedkd device pretrain-teacher --task {OWN_TASK} --out bearings-teacher.safetensors --epochs 1",
    ):
        somebody.copy(command)
    somebody.leave_running(
        "asyncfedkd aggregator --task bearings --ledger bearings.sqlite3 --initial-model bearings.safetensors "
        "--updates-per-version 2"
    )
    aggregator = somebody.running[-1][2]
    old = [device(somebody, f"machine-{number}") for number in (1, 2, 3)]
    wait(somebody, lambda: version(tmp_path) >= 2)

    export, initial, begin, run, status, close = commands()
    somebody.copy(export)
    somebody.copy(initial)
    refused = somebody.run(re.sub(r" --teacher-is-published", "", run))
    assert refused.returncode == 2
    assert "holds a published model, not a teacher; if the student of an earlier line" in refused.stderr
    somebody.copy(begin)
    stop(somebody, old[0], kill=True)
    somebody.leave_running(run)  # machine-1, with the state of before
    new = [somebody.running[-1][2]]
    stop(somebody, old[1])
    arguments = shlex.split(run)
    new.append(
        device(somebody, "machine-2", task=arguments[4], teacher="before/model.safetensors --teacher-is-published")
    )
    before = version(tmp_path)
    wait(somebody, lambda: version(tmp_path, 2) >= 1)
    assert [event["line"] for log in new for event in events(log, "moved")] == ["bearings.2"] * 2
    assert "serving line bearings.2" in aggregator.read_text()

    # The old line goes on with its last device, and a new one.
    old.append(device(somebody, "machine-4"))
    wait(somebody, lambda: version(tmp_path) > before)
    stop(somebody, aggregator, kill=True)
    somebody.leave_running("asyncfedkd aggregator --task bearings --ledger bearings.sqlite3 --updates-per-version 2")
    reached = version(tmp_path), version(tmp_path, 2)
    wait(somebody, lambda: version(tmp_path) > reached[0] and version(tmp_path, 2) > reached[1])
    for task, number in ((OWN_TASK, 1), ("examples/next_student.py:task", 2)):
        somebody.copy(f"asyncfedkd device evaluate --task {task} --device evaluator-{number} --once")
        wait(somebody, lambda number=number: getattr(totals(tmp_path, number), "evaluated_version", None) is not None)

    somebody.copy(close)
    wait(somebody, lambda: all(events(log, "moved") for log in (old[2], old[3])))
    told = somebody.run(status)
    assert re.findall(r"^(?:task|closed) +(\S+)", told.stdout, re.MULTILINE)[0] == "bearings"
    assert "bearings.2" in told.stdout
    assert "\nclosed " in told.stdout
    merged = totals(tmp_path)
    assert merged is not None
    ended = merged.merged
    reached_2 = version(tmp_path, 2)
    wait(somebody, lambda: version(tmp_path, 2) > reached_2)
    assert getattr(totals(tmp_path), "merged", None) == ended

    for _, process, _ in reversed(somebody.running):
        process.terminate()
        assert process.wait(PATIENCE_SECONDS) == 0, somebody.logs()
    _audit(tmp_path)


def _audit(folder: Path) -> None:
    """Every update was merged once in its own line, refused, or still waits."""
    for number, ledger, name in (
        (1, "bearings.sqlite3", "outbox.sqlite"),
        (2, "bearings.2.sqlite3", "outbox.2.sqlite"),
    ):
        merged = journal(folder / ledger)
        assert len(set(merged)) == len(merged), "no update counts twice"
        found = totals(folder, number)
        assert found is not None
        refused, waiting, made = found.refused, 0, 0
        known = set()
        for path in sorted(folder.glob(f"state/machine-*/{name}")):
            incarnation, last, queue = outbox(path)
            known.add(incarnation)
            made += last
            in_journal = {sequence for _, one, sequence in merged if one == incarnation}
            waiting += len([sequence for sequence in queue if sequence not in in_journal])
        assert {incarnation for _, incarnation, _ in merged} <= known
        assert made <= len(merged) + refused + waiting, "nothing is lost"


def test_the_section_has_the_commands_that_are_run_here() -> None:
    assert [shlex.split(command)[2] for command in commands()] == [
        "export",
        "initial-model",
        "begin-line",
        "run",
        "status",
        "close-line",
    ]
