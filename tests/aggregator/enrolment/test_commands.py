"""The commands of enrolment."""

import json
import os
from pathlib import Path

import pytest

from aggregator.__main__ import main
from aggregator.enrolment.authority import begin
from tests.aggregator.enrolment.authorities import NOW, at, line


def test_the_commands_from_end_to_end(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["new-authority"]) == 0
    assert main(["enrol", "--role", "broker", "--device", "broker", "--host", "localhost", "--host", "::1"]) == 0
    assert (Path("authority") / "broker" / "broker.pem").is_file()
    assert main(["enrol", "--device", "watch-1", "--out", "for-watch-1"]) == 0
    assert main(["enrol", "--device", "viewer", "--role", "viewer", "--password"]) == 0
    assert main(["revoke", "--device", "watch-1"]) == 0
    assert main(["renew-crl", "--days", "90"]) == 0
    said = capsys.readouterr()
    assert "--tls-certificate for-watch-1/watch-1.pem --tls-key for-watch-1/watch-1.key" in said.out
    assert "kill -HUP" in said.out
    assert said.err == ""
    secrets = [(Path("enrolled") / "viewer.password").read_text().strip()]
    secrets += [
        path.read_text().splitlines()[1] for path in (Path("authority/ca.key"), Path("for-watch-1/watch-1.key"))
    ]
    assert not any(secret in said.out for secret in secrets)
    assert main(["enrolled"]) == 0
    shown = capsys.readouterr().out.splitlines()
    assert [row.split()[:4] for row in shown] == [
        ["broker", "broker", "certificate", "valid"],
        ["watch-1", "device", "certificate", "revoked"],
        ["viewer", "viewer", "password", "valid"],
    ]
    assert main(["enrolled", "--json"]) == 0
    assert [one["name"] for one in json.loads(capsys.readouterr().out)] == ["broker", "watch-1", "viewer"]


def test_a_password_in_the_environment_is_no_flag(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for secret in ("hunter2", "true"):
        for name in ("PASSWORD", "FEDKD_PASSWORD"):
            monkeypatch.setenv(name, secret)
    monkeypatch.setenv("FEDKD_DEVICE", "watch-1")
    assert main(["new-authority"]) == 0
    assert main(["enrol"]) == 0
    assert (Path("enrolled") / "watch-1.pem").is_file()
    assert "hunter2" not in "".join(capsys.readouterr())


def test_a_list_near_its_end_is_warned_of_at_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["new-authority"]) == 0
    assert main(["renew-crl", "--days", "20"]) == 0
    assert main(["enrolled"]) == 0
    assert capsys.readouterr().err.count("the broker refuses everybody then: renew-crl") == 2


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["enrol", "--device", "a"], "make one with: asyncfedkd aggregator new-authority"),
        (["revoke", "--device", "a"], "there is none"),
        (["enrolled", "--authority", "missing"], "authority missing: there is none"),
        (["renew-crl"], "there is none"),
        (["enrol"], "--device is missing (or set FEDKD_DEVICE)"),
        (["enrol", "--device", "a", "--role", "king"], "--role"),
        (["enrol", "--device", "a", "--days", "0"], "--days"),
        (["new-authority", "--days", "x"], "--days"),
    ],
)
def test_what_is_missing_or_wrong_is_one_line(
    capsys: pytest.CaptureFixture[str], arguments: list[str], said: str
) -> None:
    assert said in line(capsys, *arguments)


def test_damaged_files_are_one_line(capsys: pytest.CaptureFixture[str], folder: Path) -> None:
    good = {name: (folder / name).read_bytes() for name in ("issued.json", "ca.key", "broker/ca.pem")}
    begin(Path("other"), name="other", days=1, now=lambda: NOW)
    for name, data in (
        ("issued.json", b"{"),
        ("issued.json", b'{"issued": [{"kind": "x"}]}'),
        ("ca.key", b"nonsense"),
        ("ca.key", (Path("other") / "ca.key").read_bytes()),
        ("broker/ca.pem", b""),
    ):
        (folder / name).write_bytes(data)
        assert name.rpartition("/")[2] in line(capsys, "enrolled", "--authority", str(folder))
        (folder / name).write_bytes(good[name])
    assert main(["enrolled", "--authority", str(folder)]) == 0


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_that_cannot_be_written_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    Path("closed").mkdir(mode=0o500)
    assert "Permission denied" in line(capsys, "new-authority", "--authority", "closed/ca")


def test_a_file_in_the_way_is_one_line(capsys: pytest.CaptureFixture[str], folder: Path) -> None:
    Path("file").write_text("")
    assert "file" in line(capsys, "new-authority", "--authority", "file/ca")
    assert "file" in line(capsys, "enrol", "--device", "a", "--authority", str(folder), "--out", "file")
    with at(folder) as authority:
        assert authority.register.issued == (), "refused before anything was issued"
