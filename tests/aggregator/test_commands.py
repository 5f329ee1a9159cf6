"""The command lines: help, settings, status, and the initial model; whatever is wrong is one line and exit code 2."""

import json
import logging
import os
import sqlite3
import struct
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

import aggregator.__main__ as program
from aggregator.__main__ import main
from aggregator.initial_model import InitialModelError, read_initial_model
from aggregator.ledger import file_format
from aggregator.ledger.file_format import LedgerBusy
from aggregator.ledger.ledger import Ledger
from aggregator.ledger.records import batch_of
from aggregator.ledger.retrying import retry_while_busy
from aggregator.settings import RunSettings, health_file_of
from tests.aggregator.synthetic import (
    CHUNKED,
    LAYOUT,
    SETTINGS,
    T0,
    TASK,
    SyntheticDevice,
    begin,
    initial_weights,
    write_initial_model,
)
from wire_contract.messages import Evaluation
from wire_contract.program.command_settings import read_settings
from wire_contract.program.health import NotHealthy, check, no_heartbeat
from wire_contract.signatures.key_files import read_signing_key

HOUSE = Path(__file__).parents[2]
BROKER = "mqtt://127.0.0.1:1"


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    monkeypatch.setattr(program, "MqttLink", None)  # no test here may come so far
    monkeypatch.chdir(tmp_path)
    handlers = list(logging.getLogger().handlers)
    yield
    logging.getLogger().handlers[:] = handlers


def line(capsys: pytest.CaptureFixture[str], *arguments: str, code: int = 2) -> str:
    assert main(arguments) == code
    said = capsys.readouterr().err
    assert said.count("\n") == 1, said
    assert said.startswith("aggregator: ")
    return said


def run_line(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    return line(capsys, "--task", TASK, "--broker", BROKER, *arguments)


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


# -- the initial model


def test_a_new_ledger_needs_an_initial_model(capsys: pytest.CaptureFixture[str]) -> None:
    assert "asyncfedkd device initial-model --task toy" in run_line(capsys)


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


def test_status_of_a_ledger_on_which_nothing_ran(capsys: pytest.CaptureFixture[str]) -> None:
    """Once it said "version 0, updated 1970"."""
    Ledger(Path("ledger.sqlite3"), task=TASK).close()
    assert main(["status"]) == 0
    text = capsys.readouterr().out
    assert "1970" not in text
    assert "version      none: the aggregator has never run on this ledger; start it with --initial-model" in text


def test_an_initial_model_of_another_layout_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with Ledger(Path("ledger.sqlite3"), task=TASK) as ledger:
        begin(ledger)
    write_initial_model(Path("other"), CHUNKED)
    assert "its layout is not the one of ledger" in run_line(capsys, "--initial-model", "other")


def test_an_initial_model_comes_back_in_the_order_of_its_layout(tmp_path: Path) -> None:
    layout, weights = read_initial_model(write_initial_model(tmp_path / "m"), task=TASK)
    assert layout == LAYOUT
    assert weights.tobytes() == initial_weights().tobytes()


def model_file(path: Path, metadata: dict[str, str], **tensors: np.ndarray) -> Path:
    student = {"role": "initial-model", **metadata}
    save_file(tensors or {"a": np.zeros(2, dtype=np.float32)}, path, metadata=student)
    return path


@pytest.mark.parametrize(
    ("layout", "said"),
    [
        (None, "its metadata has no layout"),
        ("", "truncated"),
        ("nonsense", "malformed"),
        ("{}", "Expected `array`"),
        ('[["a"]]', "length"),
        ('[["a", ["2"]]]', "Expected `int`"),
        ('[["a", [2.5]]]', "Expected `int`"),
        ('[["a", [0]]]', "empty shape"),
        ('[["a", [3]]]', "has shape"),
        ('[["b", [2]]]', "missing tensors"),
        ('[["a", [2]], ["a", [2]]]', "stands twice"),
        ('[["a", [1000000000000]]]', "can be published"),
        ('[["a", [2, 99999999999999999999]]]', "can be published"),
        ('[["a", [1, 1, 1, 1, 1, 1, 1, 1, 2]]]', "length <= 8"),
        ("[]", "can be published"),
        ("[" * 100_000, "got `array`"),
    ],
)
def test_a_layout_that_cannot_be_is_refused(tmp_path: Path, layout: str | None, said: str) -> None:
    path = model_file(tmp_path / "m", {"task": TASK} | ({} if layout is None else {"layout": layout}))
    with pytest.raises(InitialModelError, match=said) as caught:
        read_initial_model(path, task=TASK)
    assert "make one with: asyncfedkd device initial-model" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_files_that_are_no_initial_model(tmp_path: Path) -> None:
    good = '[["a", [2]]]'
    bad = {"a": np.array([1, np.nan], dtype=np.float32)}
    large = {"a": np.array([1, 1e300])}
    garbage, huge = tmp_path / "garbage", tmp_path / "huge"
    garbage.write_bytes(b"nonsense" * 9)
    huge.write_bytes(struct.pack("<Q", 2**62) + b"{}")
    for path, said in (
        (tmp_path / "missing", "there is no such file"),
        (tmp_path, "there is no such file"),
        (garbage, "make one with"),
        (huge, "make one with"),
        (model_file(tmp_path / "task", {"task": "other", "layout": good}), "is for task 'other', not 'toy'"),
        (model_file(tmp_path / "nan", {"task": TASK, "layout": good}, **bad), "not finite"),
        (model_file(tmp_path / "f64", {"task": TASK, "layout": good}, **large), "not finite"),
    ):
        with pytest.raises(InitialModelError, match=said) as caught:
            read_initial_model(path, task=TASK)
        assert "\n" not in str(caught.value)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody who may not read")
def test_an_initial_model_that_may_not_be_read_is_not_said_to_be_missing(tmp_path: Path) -> None:
    path = write_initial_model(tmp_path / "m")
    path.chmod(0o600)
    for folder in (tmp_path, *tmp_path.parents):
        if folder.stat().st_mode & 0o055 == 0o055:
            break  # as are all above it
        folder.chmod(0o755)
    os.seteuid(65_534)
    try:
        with pytest.raises(InitialModelError, match="Permission denied"):
            read_initial_model(path, task=TASK)
    finally:
        os.seteuid(0)


def test_a_model_that_float16_cannot_hold_is_refused_at_the_start(capsys: pytest.CaptureFixture[str]) -> None:
    tensors = {"a": np.array([1, 70_000], dtype=np.float32)}
    model_file(Path("m"), {"task": TASK, "layout": '[["a", [2]]]'}, **tensors)
    assert "over the largest float16" in run_line(capsys, "--initial-model", "m")


@pytest.mark.parametrize("role", ["teacher", "local-teacher", "something newer", None])
def test_a_line_is_begun_only_from_a_file_that_says_it_holds_a_student(
    capsys: pytest.CaptureFixture[str], role: str | None
) -> None:
    write_initial_model(Path("m"), role=role)
    said = run_line(capsys, "--initial-model", "m")
    assert ("does not say that it holds a student" if role is None else "not an initial model") in said
    assert "asyncfedkd device initial-model --task toy" in said
    with Ledger(Path("ledger.sqlite3"), task=TASK) as ledger:
        assert ledger.layout() is None, "nothing was begun"


def test_a_file_without_a_role_does_for_a_line_that_stands_and_a_teacher_does_not() -> None:
    read_initial_model(write_initial_model(Path("m"), role=None), task=TASK, is_published=False)
    with pytest.raises(InitialModelError, match="holds a teacher, not an initial model or a published model"):
        read_initial_model(write_initial_model(Path("m"), role="teacher"), task=TASK, is_published=False)


def test_a_line_may_begin_from_an_exported_model(tmp_path: Path) -> None:
    read_initial_model(write_initial_model(tmp_path / "m", role="published-model"), task=TASK)


# -- status


def test_status_of_what_is_no_ledger(capsys: pytest.CaptureFixture[str]) -> None:
    assert "there is no such file" in line(capsys, "status", "--ledger", "missing")


def test_status_shows_what_the_ledger_holds(capsys: pytest.CaptureFixture[str]) -> None:
    path = Path("ledger.sqlite3")
    with Ledger(path, task=TASK) as ledger:
        model_line = begin(ledger)
        device = SyntheticDevice("watch")
        merged = device.payload(model_line)
        payloads = (merged, merged, b"nonsense", device.payload(model_line, base_digest=bytes(32)))
        judged = [model_line.judge(device.parsed, payload) for payload in payloads]
        evaluation = Evaluation(
            task=TASK,
            device="judge",
            version=0,
            digest=bytes(32),
            samples=3,
            metrics={"accuracy": 0.875, "\x1b[2J": 0.5},
        )
        ledger.commit_batch(batch_of(judged, [evaluation]), now=T0 + 60)
        # While the aggregator runs.
        assert main(["status"]) == 0
        text = capsys.readouterr().out
        assert main(["status", "--ledger", str(path), "--json"]) == 0
        found = json.loads(capsys.readouterr().out)
    assert text.splitlines() == [
        "task         toy",
        "version      0",
        "devices      1",
        f"merged       1 updates, {len(merged)} bytes; 1 wait for the next version",
        "duplicates   1",
        "refused      2 (malformed 1, unknown_base 1)",
        "updated      2023-11-14T22:14:20+00:00",
        r"evaluation   version 0: \x1b[2J 0.5, accuracy 0.875",
    ]
    assert (found["merged"], found["duplicates"], found["refused"]) == (1, 1, 2)
    assert (found["task"], found["evaluation"]) == (SETTINGS.task, {"accuracy": 0.875, "\x1b[2J": 0.5})


def test_status_says_how_many_devices_the_next_version_lacks(capsys: pytest.CaptureFixture[str]) -> None:
    path = Path("ledger.sqlite3")
    with Ledger(path, task=TASK) as ledger:
        model_line = begin(ledger)
        ledger.note_devices_min(3)

        def shown() -> list[str]:
            assert main(["status"]) == 0
            return [told for told in capsys.readouterr().out.splitlines() if told.startswith("missing")]

        assert shown() == [], "nobody waits"
        devices = [
            SyntheticDevice(name, incarnation=b"inc%05d" % number)
            for number, name in enumerate(("watch-1", "watch-1", "watch-2"))
        ]
        judged = [model_line.judge(device.parsed, device.payload(model_line)) for device in devices]
        ledger.commit_batch(batch_of(judged), now=T0 + 60)
        assert shown() == ["missing      1 more device for the next version (--devices-min)"]
        ledger.note_devices_min(2)
        assert shown() == []


def test_status_is_json_whatever_evaluators_say(capsys: pytest.CaptureFixture[str]) -> None:
    with Ledger(Path("ledger.sqlite3"), task=TASK) as ledger:
        begin(ledger)
        metrics = {"loss": 1.7e308}
        evaluations = [
            Evaluation(task=TASK, device=device, version=0, digest=bytes(32), samples=3, metrics=metrics)
            for device in ("evaluator", "evaluator-1")
        ]
        ledger.commit_batch(batch_of([], evaluations), now=T0)
    assert main(["status", "--json"]) == 0
    assert json.loads(capsys.readouterr().out, parse_constant=pytest.fail)["evaluation"] == {"loss": 1.7e308}


def test_a_key_is_made_and_named(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert main(["signing-key", "--out", "model.pem"]) == 0
    key_id = read_signing_key(tmp_path / "model.pem").public.key_id.hex()
    assert f"key {key_id}: model.pem is private, model.pem.pub is for the devices" in capsys.readouterr().out
    assert "is there already" in line(capsys, "signing-key", "--out", "model.pem")


def test_keys_that_cannot_be_used_are_one_line(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert main(["signing-key", "--out", "model.pem"]) == 0
    capsys.readouterr()
    assert "key file none.pem: No such file" in run_line(capsys, "--signing-key", "none.pem")
    assert "holds a public key" in run_line(capsys, "--signing-key", "model.pem", "--signing-key", "model.pem.pub")
    assert "no such folder" in run_line(capsys, "--device-keys", "none")
    (tmp_path / "keys").mkdir()
    (tmp_path / "keys" / "watch.pub").write_text("nonsense")
    assert "watch.pub" in run_line(capsys, "--device-keys", "keys")
    assert "needs --signing-key" in run_line(capsys, "--model-lifetime-seconds", "3600")


def test_keys_come_from_flags_or_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    base = ["--task", TASK, "--broker", BROKER]
    flags = ["--signing-key", "old.pem", "--signing-key", "new.pem"]
    assert read_settings(RunSettings, [*base, *flags], program="x").signing_key == (Path("old.pem"), Path("new.pem"))
    monkeypatch.setenv("FEDKD_SIGNING_KEY", "old.pem,new.pem")
    assert read_settings(RunSettings, base, program="x").signing_key == (Path("old.pem"), Path("new.pem"))
    monkeypatch.delenv("FEDKD_SIGNING_KEY")
    assert read_settings(RunSettings, base, program="x").signing_key == ()
