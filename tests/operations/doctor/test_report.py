"""What decides and what is shown, without a broker; and the command as a program."""

import json
import re
import ssl
import subprocess
import sys
from pathlib import Path

import pytest

from operations.doctor import remedies as known
from operations.doctor.capacity import _queue, largest
from operations.doctor.client import OutOfTime, ProbeClient, TimeBudget
from operations.doctor.command import broker_under_test
from operations.doctor.connection import durability, encryption, kind_of
from operations.doctor.finding import Finding, exit_code
from operations.doctor.reachability import Unreached, explained
from operations.doctor.report import WIDTH_CHARACTERS, as_json, shown, summary
from operations.doctor.settings import DoctorSettings
from tests.broker.mosquitto import Mosquitto
from tests.conftest import MakeMosquitto
from tests.documents import README
from tests.operations.doctor.conftest import PatientBudget
from tests.waiting import ended, eventually
from wire_contract.link.mqtt import MqttSettings
from wire_contract.program.command_settings import UsageError, read_settings

OK = Finding(name="will", verdict="ok", line="published when a connection breaks")
WARNING = Finding(name="TLS", verdict="warning", line="not encrypted", remedies=known.ENCRYPTION)
MISSING = Finding(name="queue limit", verdict="missing", line="of 3,000 messages 1,000 were kept", remedies=known.QUEUE)
GONE = Finding(name="reachable", verdict="missing", line="nothing listens on x:1", advice="start the broker")


def read(*arguments: str) -> DoctorSettings:
    return read_settings(DoctorSettings, arguments, program="doctor")


@pytest.mark.parametrize(("findings", "code"), [([OK, WARNING], 0), ([OK, MISSING, WARNING], 1), ([GONE], 2), ([], 0)])
def test_the_exit_code(findings: list[Finding], code: int) -> None:
    assert exit_code(findings) == code
    assert as_json(findings, address="x:1", broker=None, seconds=1.0)["exit_code"] == code


def test_lines_fit_a_terminal_and_say_the_verdict_in_words() -> None:
    long = Finding(name="queue limit", verdict="missing", line="word " * 60, remedies=known.QUEUE)
    for one in (OK, WARNING, MISSING, GONE, long):
        text = shown(one, None)
        assert text.startswith(one.verdict)
        assert max(len(line) for line in text.splitlines()) <= WIDTH_CHARACTERS
        assert text.count(one.name) == 1
    assert "1 ok, 1 missing, 1 warning" in summary([OK, MISSING, WARNING], 3.2)


def test_only_the_settings_of_a_known_broker_are_shown() -> None:
    of_one, of_all = shown(MISSING, "mosquitto"), shown(MISSING, None)
    assert "max_queued_messages 100000" in of_one
    assert "EMQX" not in of_one
    assert {"mosquitto:", "EMQX:", "HiveMQ:", "NATS:"} <= set(of_all.split())
    assert "→" not in shown(Finding(name="x", verdict="ok", line="fine", remedies=known.QUEUE), None)


def test_the_main_remedy_comes_before_the_other() -> None:
    """Once a line of advice began with "or, …", before what it was the alternative to."""
    lines = [line.strip() for line in shown(_queue(asked=3_000, taken=3_000, kept=1_000), "mosquitto").splitlines()]
    advice = [line.removeprefix("→ ") for line in lines if line.startswith("→")]
    assert advice[0].startswith("mosquitto: max_queued_messages")
    assert [one.startswith("or, if fewer messages will ever wait") for one in advice[1:]] == [True]


@pytest.mark.parametrize("limit", [1, 63, 64, 65, 500, 999])
def test_bisection_finds_the_limit_within_a_step(limit: int) -> None:
    tried = []

    def passes(size: int) -> bool:
        tried.append(size)
        return size <= limit

    found = largest(passes, low=1, high=1_000, step=8)
    assert found <= limit < found + 8
    assert len(tried) <= 8


def test_what_is_known_of_versions() -> None:
    assert kind_of("$SYS/broker/version", "mosquitto version 2.0.11") == "mosquitto"
    assert kind_of("$SYS/brokers/a@b/version", "5.8.0") == "EMQX"
    assert kind_of("$SYS/broker/version", "7.1") is None
    assert "autosave_interval" in durability("mosquitto version 2.0.18", "mosquitto").remedies["mosquitto"]
    assert durability("mosquitto version 2.0.18", "mosquitto").verdict == "warning"
    assert "flush_period 0" in durability("mosquitto version 2.1.2", "mosquitto").remedies["mosquitto"]
    assert "in memory" in durability("aMQTT version 0.12.1", None).line
    assert durability("", None).verdict == "not checked"


@pytest.mark.parametrize(
    ("is_local", "password", "days", "verdict"),
    [
        (True, "x", None, "ok"),
        (False, None, None, "warning"),
        (False, "x", None, "missing"),
        (False, "x", 200, "ok"),
        (False, "x", 5, "warning"),
    ],
)
def test_what_encryption_is_worth(is_local: bool, password: str | None, days: int | None, verdict: str) -> None:
    user = f"u:{password}@" if password else ""
    broker = broker_under_test(read("--broker", f"mqtt://{user}broker.example"), TimeBudget(10))
    broker.is_local = is_local
    broker.certificate_ends_unix = None if days is None else 86_400.0 * days
    (found,) = encryption(broker, now_unix=0.0)
    assert found.verdict == verdict


def test_errors_of_sockets_in_words() -> None:
    for error in (TimeoutError(), ConnectionResetError(), OSError(113, "No route to host"), ssl.SSLError(1, "x")):
        found = explained(error, host="h", port=1)
        assert isinstance(found, Unreached)
        assert "h:1" in found.line
        assert found.advice


def test_waits_end_with_the_budget() -> None:
    now = 0.0
    budget = TimeBudget(10, clock=lambda: now)
    assert budget.limit(3) == 3
    now = 8.0
    assert budget.limit(3) == 2
    now = 10.0
    with pytest.raises(OutOfTime):
        budget.limit(3)


def test_what_is_there_is_heard_however_late_one_looks(mosquitto: Mosquitto) -> None:
    """A machine that was busy elsewhere takes no silence for the broker's."""
    settings = MqttSettings.from_url(mosquitto.url, client_id="ear", clean_start=True, subscriptions=("#",))
    with ProbeClient(settings, TimeBudget(60)) as client:
        assert client.publish("mark", b"mark") == "acknowledged"
        eventually(lambda: bool(client._received or client._link.waiting))
        assert [one.topic for one in client.receive(bool, seconds=0.0)] == ["mark"]


def test_probes_stay_apart_from_what_is_in_use() -> None:
    settings = read("--broker", "mqtt://watch:s@h", "--task", "har", "--client-id", "live", "--root", "mine/v1")
    broker = broker_under_test(settings, TimeBudget(10))
    assert broker.task.startswith("doctor-")
    assert broker.topic("model").startswith(f"mine/v1/{broker.task}/")
    assert all(role.client_id != "live" for role in broker.roles.values())
    assert broker.device == "watch"
    assert not broker.two_roles
    assert len(broker.client_id("aggregator")) + 2 <= 23  # what every MQTT 3.1.1 broker takes
    with pytest.raises(UsageError, match="--probe-task: must begin with doctor"):
        read("--broker", "mqtt://h", "--probe-task", "har")
    with pytest.raises(UsageError, match="--websocket: must be like ws://"):
        read("--broker", "mqtt://h", "--websocket", "http://h")


def test_the_aggregators_user_is_not_the_devices() -> None:
    flags = ("--aggregator-username", "boss", "--aggregator-password", "p")
    broker = broker_under_test(read("--broker", "mqtt://watch:s@h", *flags), TimeBudget(10))
    assert broker.two_roles
    assert (broker.roles["aggregator"].username, broker.roles["aggregator"].password) == ("boss", "p")
    broker = broker_under_test(read("--broker", "mqtt://watch:s@h", *flags[:2]), TimeBudget(10))
    assert broker.roles["aggregator"].password is None  # and not that of the device, out of the URL


def doctor(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "simulators", "doctor", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=180)


def test_the_command(make_mosquitto: MakeMosquitto, tmp_path: Path) -> None:
    broker = make_mosquitto(config="allow_anonymous true")  # with its defaults
    broker.start()
    file = tmp_path / "out" / "doctor.json"
    done = doctor("--broker", broker.url, "--json", str(file))
    assert done.returncode == 1, done.stderr
    assert done.stderr == ""
    assert max(len(line) for line in done.stdout.splitlines()) <= WIDTH_CHARACTERS
    quoted = re.search(r"^```\n(missing .*?)^```", README.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)
    assert quoted is not None
    for finding in re.findall(r"^\S.*\n(?:^ +.*\n)*", quoted[1], re.MULTILINE):
        assert finding in done.stdout, "README quotes what a mosquitto with its defaults gets"
    report = json.loads(file.read_text())
    assert report["kind"] == "mosquitto"
    assert [one["name"] for one in report["findings"] if one["verdict"] == "missing"] == ["queue limit"]
    assert report["exit_code"] == 1


def test_it_can_be_stopped_and_leaves_nothing(mosquitto: Mosquitto) -> None:
    # With a queue that takes long to look at, so that it is at work for some time after the line that is waited for.
    command = [sys.executable, "-m", "simulators", "doctor", "--broker", mosquitto.url, "--queue-messages", "10000"]
    with (
        subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process,
        ended(process),
    ):
        assert process.stdout is not None
        for line in process.stdout:
            if "durable session" in line:
                process.terminate()
                break
        _, complaint = process.communicate(timeout=60)
    assert process.returncode == 130
    assert complaint == "doctor: interrupted; the remaining checks were not run\n"
    looker = MqttSettings.from_url(mosquitto.url, client_id="looker", clean_start=True, subscriptions=("#",))
    with ProbeClient(looker, PatientBudget(20)) as client:
        client.publish("mark", b"mark")
        assert [one.topic for one in client.receive(bool)] == ["mark"]
    # What was not ended would be there still: neither session nor connection is.
    begun = set(re.findall(r"as (doctor-\S+) \(p\d, c0", mosquitto.log))
    gone = set(re.findall(r"as (doctor-\S+) \(p\d, c1", mosquitto.log))
    assert begun
    assert begun <= gone


def test_the_command_says_what_is_wrong_in_one_line() -> None:
    for arguments, words in ((["--broker", "nonsense"], "broker URL"), ([], "--broker is missing")):
        done = doctor(*arguments)
        assert done.returncode == 2
        assert words in done.stderr
        assert done.stderr.count("\n") == 1
