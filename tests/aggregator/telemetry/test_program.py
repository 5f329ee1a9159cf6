"""The commands and settings; and a whole aggregator with telemetry, a broker and a real InfluxDB."""

import csv
import json
import os
import re
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from aggregator.__main__ import main
from aggregator.settings import RunSettings
from aggregator.telemetry.collecting import Telemetry
from aggregator.telemetry.lines import Point
from aggregator.telemetry.spool import Spool
from tests.aggregator.synthetic import ROOT, TASK, SyntheticDevice, write_initial_model
from tests.aggregator.telemetry.points import FULL_POINTS, update_point
from tests.broker.mosquitto import Mosquitto
from tests.telemetry_server import BUCKET, TOKEN, InfluxDB
from wire_contract.codec import decode, encode
from wire_contract.link.mqtt import MqttLink, MqttSettings
from wire_contract.link.protocol import Delivery
from wire_contract.messages import Manifest, Presence
from wire_contract.program.command_settings import UsageError, read_settings
from wire_contract.topics import build

BROKER = "mqtt://127.0.0.1:1"


@pytest.fixture
def ledger(tmp_path: Path) -> Path:
    """With a spool beside it; the summary does not need the ledger itself."""
    telemetry = Telemetry(Spool(tmp_path / "l.telemetry", bytes_max=1 << 20), task="t", shard=0)
    telemetry.record([update_point(number) for number in range(100)])
    telemetry.record([Point("fedkd_update", ("merged", "none"), {"updates": 40, "version": 100})])
    telemetry.record(FULL_POINTS)
    telemetry.close()
    return tmp_path / "l"


def test_the_summary_counts_and_shows_the_newest(ledger: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["telemetry", "--ledger", str(ledger)]) == 0
    text = capsys.readouterr().out
    assert "112 points" in text
    assert "dropped      0 points, queue in memory full" in text
    assert "fedkd_update: 102 points of 140 updates in 1 series" in text
    assert "fedkd_version: 1 points in 1 series" in text
    assert re.search(r"recorded_total \d+ points,", text), "a unit, unless the name of the field ends with it"
    for point in FULL_POINTS:
        assert point.measurement + ":" in text


def test_one_measurement_of_a_spool_elsewhere(ledger: Path, capsys: pytest.CaptureFixture[str]) -> None:
    spool = str(ledger) + ".telemetry"
    assert main(["telemetry", "--spool", spool, "--measurement", "fedkd_broker"]) == 0
    text = capsys.readouterr().out
    assert "fedkd_broker: 1 points" in text
    assert "fedkd_update" not in text


def test_the_export_has_every_point_and_field(ledger: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "points.csv"
    assert main(["telemetry", "--ledger", str(ledger), "--csv", str(out)]) == 0
    assert "112 points written" in capsys.readouterr().out
    with out.open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 112
    assert [int(row["version"]) for row in rows[:101]] == list(range(101))
    assert [int(row["time_ns"]) for row in rows] == sorted(int(row["time_ns"]) for row in rows)
    for point in FULL_POINTS:
        told = [row for row in rows if row["measurement"] == point.measurement]
        for name in point.fields:
            prefix = next((one for one in ("recall_", "other_") if name.startswith(one)), None)
            column = name if prefix is None else f"{prefix}*"
            assert any(row[column] for row in told), column


def test_the_export_goes_to_the_output(ledger: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["telemetry", "--ledger", str(ledger), "--csv", "-", "--measurement", "fedkd_presence"]) == 0
    head, row = capsys.readouterr().out.splitlines()
    assert head == "time,time_ns,measurement,task,shard,status,device,firmware,role,retained,battery_percent,discarded"
    assert row.endswith("fedkd_presence,t,0,online,device-1,device-1,device-1,True,0.25,device-1")


def test_what_a_device_wrote_runs_neither_in_a_spreadsheet_nor_on_a_terminal(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    telemetry = Telemetry(Spool(tmp_path / "l.telemetry", bytes_max=1 << 20), task="t", shard=0)
    hostile = {
        "device": "watch",
        "firmware": '=HYPERLINK("http://evil","\x1b[2J")',
        "role": "device",
        "retained": False,
    }
    telemetry.record([Point("fedkd_presence", ("online",), hostile)])
    telemetry.close()
    out = tmp_path / "points.csv"
    out.touch(mode=0o644)
    spool = ["telemetry", "--ledger", str(tmp_path / "l"), "--measurement", "fedkd_presence"]
    assert main([*spool, "--csv", str(out)]) == 0
    with out.open(newline="") as file:
        (row,) = csv.DictReader(file)
    assert row["firmware"] == """'=HYPERLINK("http://evil"," [2J")"""
    assert stat.S_IMODE(out.stat().st_mode) == 0o600
    assert main(spool) == 0
    assert "\x1b" not in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--ledger", "nothing"], "there is no such folder"),
        (["--ledger", "l", "--measurement", "other"], "known are fedkd_update, "),
        (["--ledger", "l", "--csv", "no/folder/x.csv"], "No such file"),
    ],
)
def test_a_mistake_is_one_line(
    ledger: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], arguments: list[str], said: str
) -> None:
    monkeypatch.chdir(ledger.parent)
    assert main(["telemetry", *arguments]) == 2
    text = capsys.readouterr().err
    assert text.count("\n") == 1
    assert said in text


def run_settings(*arguments: str) -> RunSettings:
    return read_settings(RunSettings, ["--task", "t", "--broker", BROKER, *arguments], program="p")


def test_settings(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert run_settings().telemetry
    assert not run_settings("--no-telemetry").telemetry
    assert run_settings("--ledger", "a/b.sqlite3").spool_of(Path("a/b.sqlite3")) == Path("a/b.sqlite3.telemetry")
    monkeypatch.setenv("FEDKD_INFLUX_URL", "https://influx.example:8086/")
    monkeypatch.setenv("FEDKD_TELEMETRY_FLUSH_SECONDS", "5")
    token = tmp_path / "token"
    token.write_text("secret\n")
    settings = run_settings("--influx-token-file", str(token))
    assert (settings.influx_url, settings.telemetry_flush_seconds) == ("https://influx.example:8086", 5.0)
    access = settings.influx_access()
    assert access is not None
    assert access.read_token() == "secret"
    token.write_text("\n")
    with pytest.raises(UsageError, match="first line is empty"):
        settings.influx_access()
    token.unlink()
    with pytest.raises(UsageError, match="No such file"):
        settings.influx_access()


@pytest.mark.parametrize("url", ["localhost:8086", "http://", "ftp://x", "http://user:secret@x", "http://x:port"])
def test_a_wrong_url_is_said_without_secrets(url: str) -> None:
    with pytest.raises(UsageError, match="--influx-url: must be like http://") as said:
        run_settings("--influx-url", url)
    assert "secret" not in str(said.value)


def test_a_token_without_a_server_is_a_mistake() -> None:
    with pytest.raises(UsageError, match="needs --influx-url"):
        run_settings("--influx-token-file", "t")


def until(true: Callable[[], object], what: str) -> None:
    deadline = time.monotonic() + 60
    while not true():
        assert time.monotonic() < deadline, f"still waiting: {what}"
        time.sleep(0.05)


@pytest.mark.e2e
def test_a_whole_aggregator_writes_to_a_real_server(mosquitto: Mosquitto, influxdb: InfluxDB, tmp_path: Path) -> None:
    (tmp_path / "token").write_text(TOKEN)
    ledger = tmp_path / "ledger.sqlite3"
    command = [sys.executable, "-m", "aggregator", "--task", TASK, "--broker", mosquitto.url, "--root", ROOT]
    command += ["--ledger", str(ledger), "--initial-model", str(write_initial_model(tmp_path / "m.safetensors"))]
    command += ["--updates-per-version", "3", "--influx-url", influxdb.url, "--influx-bucket", BUCKET]
    command += ["--influx-token-file", str(tmp_path / "token"), "--telemetry-flush-seconds", "0.1"]
    log = tmp_path / "log"
    with log.open("wb") as output:
        program = subprocess.Popen(command, stdout=output, stderr=output, env={**os.environ, "PYTHONWARNINGS": "error"})
    device = SyntheticDevice("watch-1")
    model = build("model", root=ROOT, task=TASK)
    link = MqttLink(MqttSettings(host="127.0.0.1", port=mosquitto.port, client_id="d", subscriptions=(model,)))
    try:
        manifests: list[Manifest] = []

        def has_model() -> bool:
            for event in link.receive(count=10, timeout_seconds=0.05):
                if isinstance(event, Delivery):
                    manifests.append(decode(event.payload, Manifest))
                    link.ack(event)
            return bool(manifests)

        until(has_model, "the first model")
        online = encode(Presence(status="online", firmware="w 1", capability={"battery_percent": "90"}))
        link.publish(build("presence", root=ROOT, task=TASK, device=device.name), online, retain=True)
        for name in ("watch-1", "watch-2", "watch-3"):
            sender = SyntheticDevice(name)
            base = {"base_version": manifests[0].version, "base_digest": manifests[0].digest}
            link.publish(sender.topic, sender.payload(**base))
        until(lambda: influxdb.count("fedkd_update", "weight") == 3, f"the updates; log: {log.read_text()}")
        until(lambda: influxdb.count("fedkd_version", "version") >= 1, "the version")
        until(lambda: influxdb.count("fedkd_presence", "battery_percent") == 1, "the presence")
    finally:
        program.send_signal(signal.SIGTERM)
        code = program.wait(60)
        link.close()
    assert code == 0, log.read_text()
    *_, fleet = influxdb.query("SELECT * FROM fedkd_fleet ORDER BY time")  # one at the end, and one a minute
    assert (fleet["devices_known"], fleet["devices_contributing"], fleet["devices_online"]) == (3, 3, 1)
    assert fleet["weight_gini"] == pytest.approx(0.0)
    status = subprocess.run(
        [sys.executable, "-m", "aggregator", "status", "--ledger", str(ledger), "--json"],
        capture_output=True,
        check=True,
    )
    assert json.loads(status.stdout)["merged"] == 3
