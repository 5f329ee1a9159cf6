"""Method fedkd from the command line: learning, what stays on the device, and taking the local teacher out of it."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnxruntime
import pytest

from device_client.__main__ import main
from device_client.learning.local_teacher import LOCAL_TEACHER_NAME, LocalTeacher, kept_teacher
from device_client.model_files import read_model
from device_client.tasks.loading import load_task
from tests.broker.mosquitto import Mosquitto
from tests.device_client.test_evaluator import ROOT
from tests.waiting import ended
from tests.wire_contract.announcements import announce
from wire_contract import codec, topics
from wire_contract.link.mqtt import MqttLink
from wire_contract.link.mqtt_settings import MqttSettings
from wire_contract.link.protocol import Delivery
from wire_contract.messages import Update

REPOSITORY = Path(__file__).parents[3]
OWN = """
from torch import nn
from device_client.task import Examples, Recipe, Task

def some(*_):
    return Examples.of([[0.0, 1.0], [1.0, 0.0]] * 40, [0, 1] * 40)

class Net(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.body, self.head = nn.Linear(2, width), nn.Linear(width, 2)

    def features(self, inputs):
        return self.body(inputs).relu()

    def classify(self, features):
        return self.head(features)

    def forward(self, inputs):
        return self.classify(self.features(inputs))

def make(**more):
    return Task(name="own", classes=("a", "b"), student=lambda: Net(3), device_data=some, held_out=some, **more)

def alone():
    return make()

def taught():
    return make(teacher=lambda: Net(9), teacher_data=some, recipe=Recipe(teacher_epochs=1))
"""
TEACHER_SIZE = 2 * 9 + 9 + 9 * 2 + 2


@pytest.fixture(autouse=True)
def _as_it_was(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    for name in [name for name in os.environ if name.startswith("FEDKD_")]:
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


def run(own: str, function: str, state: Path, *more: str) -> list[str]:
    flags = ["--broker", "mqtt://localhost:1", "--device", "d1", "--state", str(state), "--method", "fedkd"]
    return ["run", "--task", f"{own}:{function}", *flags, *more]


def complaint(capsys: pytest.CaptureFixture[str], arguments: list[str]) -> str:
    """The one line of a command that ends with code 2."""
    assert main(arguments) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    return said


def kept(own: str, state: Path) -> LocalTeacher:
    """A local teacher in the folder, as a device leaves it that has no student yet."""
    network = load_task(f"{own}:taught", data=None).teacher
    assert network is not None
    teacher = LocalTeacher(network(), None, task="own", path=state / LOCAL_TEACHER_NAME)
    teacher.keep()
    return teacher


def test_what_is_wrong_is_said_before_anything_starts(
    capsys: pytest.CaptureFixture[str], own: str, tmp_path: Path
) -> None:
    state = tmp_path / "state"
    assert "task own has no teacher, which fedkd trains" in complaint(capsys, run(own, "alone", state))
    missing = run(own, "taught", state, "--teacher", str(tmp_path / "missing"))
    assert "missing: No such file" in complaint(capsys, missing)
    assert "--method" in complaint(capsys, run(own, "taught", state, "--method", "nonsense"))
    kept(own, state)  # of a student that shows no hidden states: there is no W_h
    assert f"does not fit the teacher and student of task own; move {LOCAL_TEACHER_NAME} away" in complaint(
        capsys, run(own, "taught", state)
    )
    (state / LOCAL_TEACHER_NAME).write_bytes(b"nothing of the kind")
    assert "teacher.local.safetensors away" in complaint(capsys, run(own, "taught", state))


def test_the_local_teacher_is_exported_and_is_one_to_start_from(
    capsys: pytest.CaptureFixture[str], own: str, tmp_path: Path
) -> None:
    state, out = tmp_path / "state", tmp_path / "out"
    teacher = kept(own, state)
    export = ["export", "--task", f"{own}:taught", "--local-teacher", str(state), "--out", str(out)]
    assert main(export) == 0
    assert "local teacher of task own, 1 rounds" in capsys.readouterr().out
    assert sorted(path.name for path in out.iterdir()) == ["teacher.onnx", "teacher.safetensors"]
    assert read_model(out / "teacher.safetensors", task="own").layout.size == TEACHER_SIZE
    examples = load_task(f"{own}:taught", data=None).held_out().inputs[:5]
    (logits,) = onnxruntime.InferenceSession(str(out / "teacher.onnx")).run(["logits"], {"inputs": examples.numpy()})
    np.testing.assert_allclose(logits, teacher.network(examples).detach().numpy(), atol=1e-5)
    assert "No such file" in complaint(capsys, [*export[:-3], str(tmp_path / "nowhere"), *export[-2:]])
    assert "exclude each other" in complaint(capsys, [*export, "--model", str(out / "teacher.safetensors")])


@pytest.mark.e2e
def test_a_device_tells_how_both_learn_and_sends_the_student_alone(
    mosquitto: Mosquitto, own: str, tmp_path: Path
) -> None:
    assert main(["initial-model", "--task", f"{own}:taught", "--out", str(tmp_path / "model")]) == 0
    assert main(["pretrain-teacher", "--task", f"{own}:taught", "--out", str(tmp_path / "teacher")]) == 0
    model, state = read_model(tmp_path / "model"), tmp_path / "state"
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
    updates = topics.topic_filter("update", root=ROOT, task="own")
    link = MqttLink(MqttSettings.from_url(mosquitto.url, client_id="aggregator", subscriptions=(updates,)))
    link.publish(topics.build("model", root=ROOT, task="own"), codec.encode(made.manifest), retain=True)
    arguments = run(own, "taught", state, "--broker", mosquitto.url, "--teacher", str(tmp_path / "teacher"))
    with (
        subprocess.Popen(
            [sys.executable, "-m", "device_client", *arguments], cwd=REPOSITORY, stdout=subprocess.PIPE, text=True
        ) as device,
        ended(device),
    ):
        payloads: list[bytes] = []
        while not payloads:
            assert device.poll() is None
            for event in link.receive(count=9, timeout_seconds=0.1):
                if isinstance(event, Delivery):
                    payloads.append(event.payload)
                    link.ack(event)
        device.send_signal(signal.SIGTERM)
        device.communicate()
    link.close()
    assert device.returncode == 0
    update = codec.decode(payloads[0], Update)
    assert set(update.metrics) == {"loss", "accuracy", "teacher_loss", "teacher_accuracy"}
    assert update.layout_fingerprint == model.layout.fingerprint
    assert kept_teacher(state, task="own").rounds == 1
    with_projection = read_model(state / LOCAL_TEACHER_NAME).layout.size
    assert with_projection == TEACHER_SIZE + 3 * 9
