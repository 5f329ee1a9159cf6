"""The command line: whatever a user gets wrong is one line and exit code 2; a stop request is a clean end."""

import os
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from aggregator.initial_model import read_initial_model
from device_client.__main__ import PROGRAM, main
from device_client.model_files import read_model, write_model
from device_client.settings import RunSettings
from device_client.tasks.loading import BUILT_IN
from tests.broker.mosquitto import Mosquitto, free_port
from tests.conftest import MakeMosquitto
from tests.device_client.test_evaluator import ROOT
from tests.waiting import ended
from tests.wire_contract.announcements import announce
from wire_contract import codec, topics
from wire_contract.layout import digest
from wire_contract.link.mqtt import MqttLink
from wire_contract.link.mqtt_settings import MqttSettings
from wire_contract.link.protocol import Delivery

COMMANDS = {name: command.settings_class() for name, command in PROGRAM.commands.items()}
REPOSITORY = Path(__file__).parents[2]
OWN = """
from torch import nn
from device_client.task import Examples, Recipe, Task

def some(*_):
    return Examples.of([[0.0], [1.0]] * 40, [0, 1] * 40)

def make(**more):
    return Task(
        name="own", classes=("a", "b"), student=lambda: nn.Linear(1, 2), device_data=some, held_out=some,
        devices=("d1", "d2"), recipe=Recipe(epochs=100_000, teacher_epochs=1), **more,
    )

def plain():
    return make()

def taught():
    return make(teacher=lambda: nn.Sequential(nn.Linear(1, 8), nn.ReLU(), nn.Linear(8, 2)), teacher_data=some)

def badly_named():
    import dataclasses
    return dataclasses.replace(make(), name="a/b")
"""


@pytest.fixture(autouse=True)
def _as_it_was(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    for name in [name for name in os.environ if name.startswith("FEDKD_") and name != "FEDKD_WHEEL_FOLDER"]:
        monkeypatch.delenv(name)
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.fixture
def own(tmp_path: Path) -> str:
    path = tmp_path / "own.py"
    path.write_text(OWN, encoding="utf-8")
    return str(path)


def complaint(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """The one line of a command that ends with code 2."""
    assert main(arguments) == 2
    shown = capsys.readouterr()
    assert shown.err.startswith("device_client: ")
    assert shown.err.count("\n") == 1
    return shown.err


def test_without_a_command_it_tells_what_there_is(capsys: pytest.CaptureFixture[str]) -> None:
    for arguments in ([], ["--help"]):
        assert main(arguments) == 0
        shown = capsys.readouterr().out
        assert all(f"\n  {name} " in shown for name in COMMANDS)


@pytest.mark.parametrize("name", COMMANDS)
def test_help_tells_defaults_and_units(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main([name, "--help"])
    assert ended.value.code == 0
    shown = " ".join(capsys.readouterr().out.split())
    assert f"usage: python -m device_client {name}" in shown
    assert "(default: 1; FEDKD_THREADS)" in shown or name in {"signing-key", "health", "new-task", "dicom-check"}
    for flag, field in COMMANDS[name].model_fields.items():
        assert field.description, flag
        for unit in ("seconds", "percent"):
            if unit in flag:
                assert unit in field.description, flag


def test_help_and_usage_errors_do_not_wait_for_torch() -> None:
    code = (
        "import sys; from device_client.__main__ import main; main(['run', '--device', 'x']); main([]);"
        "sys.exit('torch' in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=REPOSITORY, capture_output=True)


def test_the_built_in_tasks_are_named_in_the_help() -> None:
    assert all(name in (RunSettings.model_fields["task"].description or "") for name in BUILT_IN)


ONLINE = ("--broker", "mqtt://localhost:1")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("nonsense",), "no command 'nonsense'; there are run, evaluate"),
        (("run", "--task", "har"), "--broker is missing (or set FEDKD_BROKER); --device is missing"),
        (("evaluate", "--task", "nonsense", *ONLINE), "there is no task 'nonsense'"),
        (("evaluate", "--task", "missing.py:task", *ONLINE), "missing.py does not exist"),
        (("evaluate", "--task", "har", *ONLINE), "--data FOLDER"),
        (("evaluate", "--task", "har", "--data", "/nowhere", *ONLINE), "no such folder"),
        (("evaluate", "--task", "har", *ONLINE, "--device", "a/b"), "--device: device 'a/b'"),
        (("export", "--task", "har", "--out", "x"), "or give --model FILE"),
        (("export", "--task", "har", "--out", "x", "--broker", "nonsense"), "--broker: broker URL"),
        (("initial-model", "--task", "har"), "--out is missing"),
    ],
)
def test_usage_errors(capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...], said: str) -> None:
    assert said in complaint(capsys, *arguments)


@pytest.mark.parametrize(
    ("function", "arguments", "said"),
    [
        ("plain", ("--device", "d3"), "no device 'd3'; known: d1, d2"),
        ("plain", ("--device", "d1", "--teacher", "x"), "has no teacher; leave out --teacher"),
        ("taught", ("--device", "d1"), "pretrain-teacher --task"),
        ("taught", ("--device", "d1", "--teacher", "missing"), "model file missing: No such file"),
        ("badly_named", ("--device", "d1"), "task 'a/b'"),
        ("plain", ("--device", "d1", "--upload-quiet-hours", "22-6"), "--upload-quiet-hours: quiet hours"),
        ("plain", ("--device", "d1", "--train-approval"), "--train-approval needs --approval FILE"),
        ("plain", ("--device", "d1", "--duty-cycle", "0"), "--duty-cycle"),
        ("plain", ("--device", "d1", "--username", "u", "--password-file", "missing"), "password file missing"),
    ],
)
def test_errors_of_a_run(
    own: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    *,
    function: str,
    arguments: tuple[str, ...],
    said: str,
) -> None:
    state = ("--state", str(tmp_path / "state"))
    assert said in complaint(capsys, "run", "--task", f"{own}:{function}", *ONLINE, *state, *arguments)


def test_an_outbox_that_cannot_be_used(capsys: pytest.CaptureFixture[str], own: str, tmp_path: Path) -> None:
    state = tmp_path / "state"
    command = ("run", "--task", f"{own}:plain", *ONLINE, "--device", "d1", "--state", str(state))
    state.mkdir()
    (state / "outbox.sqlite").write_text("this is no database, however long it is " * 100, encoding="utf-8")
    assert "is damaged" in complaint(capsys, *command)
    (state / "outbox.sqlite").unlink()
    with sqlite3.connect(state / "outbox.sqlite") as foreign:
        foreign.execute("CREATE TABLE other (x)")
    foreign.close()
    assert "outbox" in complaint(capsys, *command)
    (tmp_path / "file").touch()
    assert "file" in complaint(capsys, *command[:-1], str(tmp_path / "file"))


def test_a_health_file_that_is_the_outbox_is_refused(
    capsys: pytest.CaptureFixture[str], own: str, tmp_path: Path
) -> None:
    outbox = tmp_path / "state" / "outbox.sqlite"
    command = ("run", "--task", f"{own}:plain", *ONLINE, "--device", "d1", "--state", str(outbox.parent))
    for _ in ("a new one", "one that is there"):
        assert "is another kind of file" in complaint(capsys, *command, "--health-file", str(outbox))
        assert outbox.read_bytes().startswith(b"SQLite format 3")
    assert "is a folder" in complaint(capsys, *command, "--health-file", str(tmp_path))


def test_initial_models_are_the_same_for_the_same_seed(own: str, tmp_path: Path) -> None:
    digests = []
    for seed in ("1", "1", "2"):
        out = tmp_path / "new" / f"model-{len(digests)}"
        assert main(["initial-model", "--task", f"{own}:plain", "--out", str(out), "--seed", seed]) == 0
        digests.append(digest(read_initial_model(out, task="own").weights))
    assert digests[0] == digests[1] != digests[2]


def test_settings_come_from_the_environment_too(own: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FEDKD_TASK", f"{own}:plain")
    monkeypatch.setenv("FEDKD_OUT", str(tmp_path / "model"))
    assert main(["initial-model"]) == 0
    assert read_model(tmp_path / "model").task == "own"


def test_a_teacher_is_made_and_a_student_is_none(capsys: pytest.CaptureFixture[str], own: str, tmp_path: Path) -> None:
    out = tmp_path / "teacher"
    assert main(["pretrain-teacher", "--task", f"{own}:taught", "--out", str(out)]) == 0
    assert "accuracy on held-out data" in capsys.readouterr().out
    taught = read_model(out, task="own")
    assert taught.layout.size == 34
    assert main(["pretrain-teacher", "--task", f"{own}:taught", "--out", str(out), "--epochs", "3"]) == 0
    assert (read_model(out, task="own").weights != taught.weights).any(), "trained for longer"
    assert "has no teacher" in complaint(capsys, "pretrain-teacher", "--task", f"{own}:plain", "--out", str(out))
    out = tmp_path / "student"
    assert main(["initial-model", "--task", f"{own}:taught", "--out", str(out)]) == 0
    capsys.readouterr()
    command = ("run", "--task", f"{own}:taught", *ONLINE, "--device", "d1", "--state", str(tmp_path / "state"))
    assert "holds an initial model, not a teacher" in complaint(capsys, *command, "--teacher", str(out))
    plain = tmp_path / "before roles"
    write_model(plain, replace(read_model(out), role=None))
    assert "does not fit the teacher" in complaint(capsys, *command, "--teacher", str(plain))


def test_an_initial_model_is_made_of_a_student_and_of_no_teacher(
    capsys: pytest.CaptureFixture[str], own: str, tmp_path: Path
) -> None:
    old, teacher, out = tmp_path / "old", tmp_path / "teacher", tmp_path / "out"
    make = ["initial-model", "--task", f"{own}:taught", "--out"]
    assert main([*make, str(old), "--seed", "5"]) == 0
    write_model(old, replace(read_model(old), role=None))
    assert main(["pretrain-teacher", "--task", f"{own}:taught", "--out", str(teacher)]) == 0
    capsys.readouterr()
    assert main([*make, str(out), "--weights", str(old)]) == 0
    assert digest(read_initial_model(out, task="own").weights) == digest(read_model(old).weights)
    assert "holds a teacher" in complaint(capsys, *make, str(out), "--weights", str(teacher))
    write_model(teacher, replace(read_model(teacher), role=None))
    assert "does not fit the student" in complaint(capsys, *make, str(out), "--weights", str(teacher))


def test_an_export_without_a_model_is_one_line(capsys: pytest.CaptureFixture[str], own: str, tmp_path: Path) -> None:
    out = str(tmp_path / "out")
    broker = f"mqtt://127.0.0.1:{free_port()}"
    command = ["export", "--task", f"{own}:plain", "--broker", broker, "--out", out, "--wait-seconds", "0"]
    assert main(command) == 2
    assert "no model of task own within 0 s: " in capsys.readouterr().err.splitlines()[-1]


@pytest.mark.parametrize("command", ["run", "evaluate", "export"])
def test_a_refused_password_is_one_line(
    capsys: pytest.CaptureFixture[str], make_mosquitto: MakeMosquitto, own: str, tmp_path: Path, command: str
) -> None:
    broker = make_mosquitto(users={"d1": "right"})
    broker.start()
    more = {
        "run": ("--device", "d1", "--state", str(tmp_path / "state")),
        "evaluate": (),
        "export": ("--out", str(tmp_path / "out")),
    }[command]
    url = broker.url.replace("://", "://d1:wrong@")
    said = complaint(capsys, command, "--task", f"{own}:plain", "--broker", url, *more)
    assert "refused the connection" in said
    assert "wrong" not in said


def publish_model(mosquitto: Mosquitto, own: str, tmp_path: Path) -> None:
    """Version 0 of the plain task, as an aggregator would."""
    assert main(["initial-model", "--task", f"{own}:plain", "--out", str(tmp_path / "model")]) == 0
    model = read_model(tmp_path / "model")
    made = announce(
        model.weights,
        task="own",
        version=0,
        parent=None,
        layout=model.layout,
        encoding="float32",
        shards=1,
        update_bytes_max=1 << 20,
        published_at=1000.0,
    )
    link = MqttLink(MqttSettings.from_url(mosquitto.url, client_id="aggregator"))
    published = link.publish(topics.build("model", root=ROOT, task="own"), codec.encode(made.manifest), retain=True)
    assert published.wait(60)
    link.close()


@pytest.mark.e2e
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_in_the_middle_of_training_is_a_clean_end(
    mosquitto: Mosquitto, own: str, tmp_path: Path, number: signal.Signals
) -> None:
    publish_model(mosquitto, own, tmp_path)
    flags = ["--task", f"{own}:plain", "--broker", mosquitto.url, "--device", "d1", "--state", str(tmp_path / "state")]
    command = [sys.executable, "-m", "device_client", "run", *flags]
    with (
        subprocess.Popen(command, cwd=REPOSITORY, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as device,
        ended(device),
    ):
        assert device.stdout is not None
        for line in device.stdout:
            if line.startswith("training on model 0"):
                device.send_signal(number)
                break
        rest, errors = device.communicate()
    assert (device.returncode, errors) == (0, "")
    assert rest.splitlines()[-1] == "stopped"


@pytest.mark.parametrize("command", ["run", "evaluate"])
def test_a_full_disk_under_the_log_ends_no_program(
    mosquitto: Mosquitto, own: str, tmp_path: Path, command: str
) -> None:
    """/dev/full refuses each line as a full disk does. The task's training takes longer than anybody waits."""
    publish_model(mosquitto, own, tmp_path)
    told: list[str] = []
    topic_of_interest = {"run": "/presence/", "evaluate": "/evaluation/"}[command]
    listener = MqttLink(MqttSettings.from_url(mosquitto.url, client_id="listener", subscriptions=("fedkd/v1/#",)))
    name = {"run": "d1", "evaluate": "evaluator"}[command]
    flags = ["--task", f"{own}:plain", "--broker", mosquitto.url, "--device", name]
    flags += ["--state", str(tmp_path / "state")] if command == "run" else []
    with (
        Path("/dev/full").open("w") as full,
        subprocess.Popen(
            [sys.executable, "-m", "device_client", command, *flags],
            cwd=REPOSITORY,
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
        ) as device,
        ended(device),
    ):
        while not any(topic_of_interest in topic for topic in told):
            assert device.poll() is None, device.communicate()
            events = listener.receive(count=10, timeout_seconds=1.0)
            told += [event.topic for event in events if isinstance(event, Delivery)]
        device.send_signal(signal.SIGTERM)
        _, errors = device.communicate()
    listener.close()
    assert (device.returncode, errors) == (0, "")


def test_an_error_that_cannot_be_written_keeps_its_exit_code() -> None:
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            [sys.executable, "-m", "device_client", "run", "--nonsense"], cwd=REPOSITORY, stderr=full, check=False
        )
    assert done.returncode == 2
