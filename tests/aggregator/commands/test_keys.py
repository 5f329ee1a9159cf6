"""`signing-key`, and keys that a run is given."""

from pathlib import Path

import pytest

from aggregator.__main__ import main
from aggregator.settings import RunSettings
from tests.aggregator.commands.lines import BROKER, line, run_line
from tests.aggregator.synthetic import (
    TASK,
)
from wire_contract.program.command_settings import read_settings
from wire_contract.signatures.key_files import read_signing_key


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
