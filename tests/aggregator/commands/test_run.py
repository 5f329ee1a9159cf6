"""`run`: its settings, its ledger, and what keeps it from starting."""

import sqlite3
import time
from contextlib import closing
from pathlib import Path

import pytest

import aggregator.__main__ as program
from aggregator.__main__ import main
from aggregator.ledger import file_format
from aggregator.ledger.file_format import LedgerBusy
from aggregator.ledger.ledger import Ledger
from aggregator.ledger.retrying import retry_while_busy
from aggregator.settings import RunSettings, health_file_of
from tests.aggregator.commands.lines import BROKER, line, run_line
from tests.aggregator.synthetic import (
    TASK,
    begin,
    write_initial_model,
)
from wire_contract.program.command_settings import read_settings
from wire_contract.program.health import NotHealthy, check, no_heartbeat

HOUSE = Path(__file__).parents[3]


def test_help_names_defaults_and_units(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["--help"])
    assert ended.value.code == 0
    text = " ".join(capsys.readouterr().out.split())
    for word in ("python -m aggregator COMMAND", "--updates-per-version", "60; FEDKD_VERSION_SECONDS", "bytes"):
        assert word in text
    for field in RunSettings.model_fields.values():
        assert field.description


def test_no_arguments_say_what_is_missing(capsys: pytest.CaptureFixture[str]) -> None:
    said = line(capsys)
    assert "--task is missing (or set FEDKD_TASK)" in said
    assert "--broker is missing (or set FEDKD_BROKER)" in said


def test_flags_win_over_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FEDKD_TASK", "from-environment")
    monkeypatch.setenv("FEDKD_BROKER", BROKER)
    monkeypatch.setenv("FEDKD_UPDATES_PER_VERSION", "7")
    settings = read_settings(RunSettings, ["--task", "from-flag"], program="p")
    assert (settings.task, settings.updates_per_version, settings.shards) == ("from-flag", 7, 1)
    line_settings = settings.line_settings()
    assert (line_settings.task, line_settings.updates_per_version) == ("from-flag", 7)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--updates-per-version", "0"], "--updates-per-version"),
        (["--version-seconds", "nan"], "--version-seconds"),
        (["--version-seconds", "-1"], "--version-seconds"),
        (["--server-rate", "0"], "--server-rate"),
        (["--norm-ratio-max", "nan"], "--norm-ratio-max"),
        (["--slot-norm-ratio", "1e-200"], "--slot-norm-ratio"),
        (["--slot-norm-ratio", "inf"], "--slot-norm-ratio"),
        (["--model-encoding", "int3"], "--model-encoding"),
        (["--staleness-decay", "hyperbolic"], "--staleness-decay"),
        (["--update-bytes-max", "99999999"], "--update-bytes-max"),
        (["--shard", "1"], "shard 1 does not exist"),
        (["--delta-bytes", "30000"], "need --delta-message-bytes-max 31024 or more"),
        (["--delta-message-bytes-max", "300000"], "--delta-message-bytes-max"),
        (["--task", "a/b"], "--task"),
        (["--task", f"{HOUSE}/examples/own_task.py:task"], "here give --task bearings"),
        (["--task", f"{HOUSE}/examples/own_task.py"], "here give --task bearings"),
        (["--task", "my.tasks:bearings"], "here give the `name` that its Task has"),
        (["--task", "missing.py:task"], "here give the `name` that its Task has"),
        (["--broker", "nonsense"], "--broker"),
        (["--root", "a/b/c/d/e/f"], "--root"),
        (["--nonsense"], "nonsense"),
        (["--password-file", "missing"], "missing"),
    ],
)
def test_a_wrong_setting_is_named(capsys: pytest.CaptureFixture[str], arguments: list[str], said: str) -> None:
    write_initial_model(Path("initial.safetensors"))
    assert said in run_line(capsys, "--initial-model", "initial.safetensors", *arguments)


@pytest.mark.parametrize("arguments", [(), ("--initial-model", "missing")], ids=["none", "no such file"])
def test_a_start_that_fails_leaves_no_ledger(capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...]) -> None:
    run_line(capsys, *arguments)
    assert not Path("ledger.sqlite3").exists()


@pytest.mark.parametrize("flag", ["--health-file", "--metrics-file"])
def test_a_file_that_is_the_ledger_or_of_another_kind_is_refused(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, flag: str
) -> None:
    path, other = tmp_path / "ledger.sqlite3", tmp_path / "other"
    assert "is the ledger's; give a file of its own" in run_line(capsys, flag, "ledger.sqlite3")
    assert not path.exists()
    with Ledger(path, task=TASK) as ledger:
        begin(ledger)
    Path("link").symlink_to(path)
    other.write_bytes(b"a letter")
    for name, said in (("link", "the ledger's"), ("ledger.sqlite3-wal", "the ledger's"), ("other", "another kind")):
        assert said in run_line(capsys, flag, name)
    assert other.read_bytes() == b"a letter"
    assert "already the --health-file" in run_line(capsys, "--health-file", "same", "--metrics-file", "same")
    assert main(["check-ledger"]) == 0


def test_a_folder_is_no_ledger(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    assert "folder is a folder; give the name of a file" in run_line(capsys, "--ledger", "folder")
    assert "folder is a folder" in line(capsys, "status", "--ledger", "folder")
    assert [file.name for file in tmp_path.iterdir()] == ["folder"], "no lock, no heartbeat"


def test_a_start_waits_for_a_full_disk(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    class Reached(Exception):
        """The start went on to the link."""

    path = tmp_path / "ledger.sqlite3"
    said: list[str] = []
    with Ledger(path, task=TASK) as ledger:
        begin(ledger)
    with closing(sqlite3.connect(path)) as db:
        db.execute("UPDATE meta SET value = 'the boot before' WHERE key = 'boot'")
        db.commit()
    real = file_format.connect

    def read_only(path: Path) -> sqlite3.Connection:
        db = real(path)
        db.execute("PRAGMA query_only = 1")  # what a full disk is to SQLite, but for the code
        return db

    def pause(_stopped: object, _seconds: float) -> None:
        with pytest.raises(NotHealthy) as caught:
            check(health_file_of(path), now=time.monotonic(), age_seconds_max=60.0, ready=True)
        said.append(str(caught.value))
        if len(said) == 3:
            monkeypatch.setattr("aggregator.ledger.ledger.connect", real)

    def reached(_settings: object) -> None:
        raise Reached

    monkeypatch.setattr("aggregator.ledger.ledger.connect", read_only)
    monkeypatch.setattr(program, "_pause", pause)
    monkeypatch.setattr(program, "MqttLink", reached)
    with pytest.raises(Reached):
        main(["--task", TASK, "--broker", BROKER])
    assert len(said) == 3
    assert all("free disk space" in one for one in said), "alive, and says what it waits for"
    assert [record.message.endswith("waiting, nothing is lost") for record in caplog.records].count(True) == 1
    assert not health_file_of(path).exists()


def test_a_start_that_waits_can_be_stopped() -> None:
    def busy() -> None:
        raise LedgerBusy("database is locked")

    pauses: list[float] = []
    ended = retry_while_busy(busy, heartbeat=no_heartbeat, pause=pauses.append, should_stop=lambda: len(pauses) > 2)
    assert ended is None
