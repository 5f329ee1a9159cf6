"""The commands of docs/deployment.md on a ledger that a real aggregator uses, with a real broker and devices."""

import subprocess
import sys

import pytest

from aggregator.ledger.backup import check_ledger
from aggregator.ledger.reading import read_totals
from tests.aggregator.synthetic import identities
from tests.broker.mosquitto import Mosquitto
from tests.e2e.aggregator_process import REPOSITORY, poll, turn_until
from tests.e2e.aggregator_stage import Stage

pytestmark = pytest.mark.e2e


def command(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "aggregator", *words], cwd=REPOSITORY, capture_output=True, text=True, check=False
    )


def test_a_backup_of_a_running_aggregator_brings_its_line_back(stage: Stage, mosquitto: Mosquitto) -> None:
    stage.port = mosquitto.port
    backup = stage.folder / "backup.sqlite3"
    process = stage.aggregator()
    senders = stage.senders(2, updates=8)
    turn_until(senders, lambda: all(len(sender.receipts) >= 3 for sender in senders))
    done = command("backup", "--ledger", str(stage.ledger), "--out", str(backup))
    assert done.returncode == 0, done.stderr
    held = check_ledger(backup)
    assert held.version > 0
    assert f"version {held.version} of task toy" in done.stdout

    turn_until(senders, lambda: all(sender.done for sender in senders))
    poll(lambda: read_totals(stage.ledger).waiting == 0, "for the last version")
    newest, everything = read_totals(stage.ledger).version, identities(stage.ledger)
    assert newest > held.version
    kept = identities(backup)
    assert kept == everything[: len(kept)], "as of one moment, nothing between is missing"

    restore = ("restore", "--backup", str(backup), "--ledger", str(stage.ledger))
    refused = command(*restore, "--replace")
    assert refused.returncode == 2
    assert "is using it" in refused.stderr
    assert process.stop() == 0
    refused = command(*restore)
    assert refused.returncode == 2
    assert "already exists; with --replace" in refused.stderr
    done = command(*restore, "--replace")
    assert done.returncode == 0, done.stderr
    assert f"if a version above {held.version} was ever published" in done.stdout

    moved = command("move-forward", "--ledger", str(stage.ledger), "--version", str(newest + 1))
    assert moved.returncode == 0, moved.stderr
    again = stage.aggregator()
    manifest, _ = stage.late_joiner(lambda manifest, _: manifest.version == newest + 1)
    assert manifest.parent == held.version
    assert again.stop() == 0
