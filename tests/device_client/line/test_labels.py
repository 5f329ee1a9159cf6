"""Commands on one task name with other labels: refused by name before anything is trained, measured or written."""

from pathlib import Path

import pytest

from device_client.__main__ import main
from device_client.model_files import read_model
from tests.broker.mosquitto import Mosquitto
from tests.wire_contract.announcements import announce
from wire_contract import codec, topics
from wire_contract.link.mqtt import MqttLink
from wire_contract.link.mqtt_settings import MqttSettings

TWO = str(Path(__file__).with_name("two.py"))
SORTED = "classes are (lie, run, sit, walk); the line's are (sit, walk, run, lie), the same names in another order"
THREE = "classes are (sit, walk, run); the line's are (sit, walk, run, lie)"


def initial(folder: Path, task: str = "a") -> Path:
    path = folder / f"{task}.safetensors"
    assert main(["initial-model", "--task", f"{TWO}:{task}", "--out", str(path)]) == 0
    return path


def publish(broker: Mosquitto, path: Path) -> None:
    """Version 0, as an aggregator publishes it."""
    file = read_model(path)
    made = announce(
        file.weights,
        task=file.task,
        version=0,
        parent=None,
        layout=file.layout,
        encoding="float32",
        shards=1,
        update_bytes_max=1 << 20,
        published_at=1_000.0,
        description=file.line,
    )
    link = MqttLink(MqttSettings.from_url(broker.url, client_id="aggregator"))
    topic = topics.build("model", root=topics.DEFAULT_ROOT, task=file.task)
    assert link.publish(topic, codec.encode(made.manifest), retain=True).wait(60)
    link.close()


def complaint(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """The line with which a command ends, with the code of what a restart does not fix."""
    capsys.readouterr()
    assert main(arguments) == 2
    return capsys.readouterr().err.splitlines()[-1]


@pytest.mark.broker
@pytest.mark.parametrize(
    ("task", "said"),
    [("sorted_", SORTED), ("three", THREE)],
)
def test_each_program_refuses_a_line_of_other_labels(
    mosquitto: Mosquitto, capsys: pytest.CaptureFixture[str], tmp_path: Path, task: str, said: str
) -> None:
    publish(mosquitto, initial(tmp_path))
    named = ("--task", f"{TWO}:{task}", "--broker", mosquitto.url)
    out = tmp_path / "out"
    assert f"this evaluator's {said}" in complaint(capsys, "evaluate", *named)
    assert f"this export's {said}" in complaint(capsys, "export", *named, "--out", str(out))
    assert not out.exists()
    if task == "sorted_":  # with another layout a device waits, as the line of its student may begin later
        state = tmp_path / "state"
        teacher = str(tmp_path / "teacher")
        assert main(["pretrain-teacher", "--task", f"{TWO}:{task}", "--out", teacher]) == 0
        told = complaint(capsys, "run", *named, "--device", "d", "--state", str(state), "--teacher", teacher)
        assert f"this device's {said}" in told
        assert "Give this device the task that the line was made with" in told


@pytest.mark.broker
def test_an_evaluator_of_another_student_names_the_tensors(
    mosquitto: Mosquitto, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    publish(mosquitto, initial(tmp_path))
    told = complaint(capsys, "evaluate", "--once", "--task", f"{TWO}:wide", "--broker", mosquitto.url)
    assert "0.weight is (8, 16) in the model and (12, 16) here" in told


@pytest.mark.parametrize(("task", "said"), [("sorted_", SORTED), ("three", THREE)])
def test_files_of_other_labels_are_refused(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, task: str, said: str
) -> None:
    path, out = initial(tmp_path), tmp_path / "out"
    said = said.replace("the line's", "the file's")
    named = ("--task", f"{TWO}:{task}", "--out", str(out))
    assert said in complaint(capsys, "export", *named, "--model", str(path))
    assert said in complaint(capsys, "initial-model", *named, "--weights", str(path))
    assert not out.exists()


def test_a_teacher_of_another_order_is_refused(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    teacher = str(tmp_path / "teacher")
    assert main(["pretrain-teacher", "--task", f"{TWO}:a", "--out", teacher]) == 0
    device = (
        "--task",
        f"{TWO}:sorted_",
        "--broker",
        "mqtt://localhost:1",
        "--device",
        "d",
        "--state",
        str(tmp_path / "s"),
    )
    told = complaint(capsys, "run", *device, "--teacher", teacher)
    assert SORTED.replace("the line's", "the teacher file's") in told
    assert "make it again: asyncfedkd device pretrain-teacher" in told
