"""What is exported is the same network, for any batch size; and who finds no model is not kept waiting for ever."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
from torch import Tensor, nn

from device_client.downlink.model_feed import ModelFeed, models_only
from device_client.export import ExportedFiles, ExportError, await_model, export
from device_client.learning.networks import STUDENT, Sensor, WindowClassifier
from device_client.learning.parameters import layout_of, vector_of
from device_client.learning.seeding import seeded
from device_client.model_files import ModelFile, read_model
from device_client.task import Examples, Task, regression
from tests.device_client.test_evaluator import ROOT, TASK, publish, version
from wire_contract.errors import LayoutError
from wire_contract.layout import digest
from wire_contract.link.memory import MemoryBroker, MemoryLink

CLASSES = ("walk", "sit", "run")
SENSOR = Sensor(samples=50, acceleration_unit=9.81)


def windows(count: int) -> Tensor:
    return torch.randn(count, 6, SENSOR.samples, generator=torch.Generator().manual_seed(count))


def task_with(examples: int) -> Task:
    held_out = Examples(inputs=windows(examples), labels=torch.zeros(examples, dtype=torch.int64))
    return Task(
        name="har",
        classes=CLASSES,
        student=lambda: WindowClassifier(SENSOR, STUDENT, len(CLASSES)),
        device_data=lambda _: held_out,
        held_out=lambda: held_out,
    )


def model_of(student: nn.Module, *, number: int | None = 12) -> ModelFile:
    layout = layout_of(student)
    return ModelFile(task="har", layout=layout, weights=vector_of(student, layout), version=number)


@pytest.fixture(scope="module")
def student() -> nn.Module:
    with seeded(3):
        return WindowClassifier(SENSOR, STUDENT, len(CLASSES)).eval()


@pytest.fixture(scope="module")
def files(student: nn.Module, tmp_path_factory: pytest.TempPathFactory) -> ExportedFiles:
    # One held-out example only: the batch must be dynamic all the same.
    return export(task_with(1), model_of(student), tmp_path_factory.mktemp("export") / "new")


def test_onnx_and_torch_agree_for_any_batch(files: ExportedFiles, student: nn.Module) -> None:
    session = onnxruntime.InferenceSession(str(files.onnx))
    for count in (1, 2, 3, 17, 128):
        inputs = windows(count)
        (logits,) = session.run(["logits"], {"inputs": inputs.numpy()})
        with torch.no_grad():
            expected = student(inputs).numpy()
        assert logits.shape == (count, len(CLASSES))
        np.testing.assert_allclose(logits, expected, atol=1e-5)


def test_the_files_say_what_they_are(files: ExportedFiles, student: nn.Module) -> None:
    found = read_model(files.safetensors, task="har")
    assert found.version == 12
    np.testing.assert_array_equal(found.weights, model_of(student).weights)
    about = onnxruntime.InferenceSession(str(files.onnx)).get_modelmeta().custom_metadata_map
    assert (about["task"], about["version"], json.loads(about["classes"])) == ("har", "12", list(CLASSES))
    assert (about["objective"], about["main_metric"], about["labels"]) == (
        "classification",
        "accuracy",
        about["classes"],
    )
    assert about["digest"] == digest(found.weights).hex()
    assert sorted(path.name for path in files.safetensors.parent.iterdir()) == ["model.onnx", "model.safetensors"]


def test_a_model_of_another_task_is_refused(tmp_path: Path) -> None:
    with pytest.raises(LayoutError):
        export(task_with(2), model_of(nn.Linear(2, 2)), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_regression_with_two_inputs(tmp_path: Path) -> None:
    held_out = Examples.of({"wave": np.ones((4, 3)), "age": np.ones((4, 1))}, targets=np.ones((4, 2)))

    class Student(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(4, 2)

        def forward(self, *, wave: Tensor, age: Tensor) -> Tensor:
            numbers: Tensor = self.layer(torch.cat([wave, age], dim=1))
            return numbers

    task = Task(
        name="har",
        objective=regression(("pulse", "effort")),
        student=Student,
        device_data=lambda _: held_out,
        held_out=lambda: held_out,
    )
    files = export(task, model_of(Student(), number=None), tmp_path)
    session = onnxruntime.InferenceSession(str(files.onnx))
    about = session.get_modelmeta().custom_metadata_map
    assert (json.loads(about["inputs"]), json.loads(about["outputs"])) == (["wave", "age"], ["outputs"])
    assert (about["objective"], about["main_metric"], about["labels"]) == ("regression", "mae", '["pulse", "effort"]')


class Undecided(nn.Linear):
    """Its way depends on the numbers in it."""

    def forward(self, inputs: Tensor) -> Tensor:
        return super().forward(inputs if inputs.sum() > 0 else -inputs)


def test_the_weights_of_a_student_that_onnx_cannot_hold_are_written(tmp_path: Path) -> None:
    task = replace(task_with(2), student=lambda: Undecided(SENSOR.samples, len(CLASSES)))
    with pytest.raises(ExportError, match=r"cannot trace .* \(.*_export.py:\d+\); .*model\.safetensors was written"):
        export(task, model_of(task.student()), tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["model.safetensors"]


def test_weights_that_are_not_finite_are_not_exported(tmp_path: Path) -> None:
    student = nn.Linear(SENSOR.samples, len(CLASSES))
    with torch.no_grad():
        student.bias[1:] = float("nan")
    task = replace(task_with(2), student=lambda: student)
    with pytest.raises(ExportError, match="not exported: 2 of 3 numbers of bias are not finite"):
        export(task, model_of(student), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_half_precision_does_not_round_the_exported_weights(tmp_path: Path) -> None:
    with seeded(1):
        exact = nn.Linear(SENSOR.samples, len(CLASSES))
    task = replace(task_with(2), student=lambda: nn.Linear(SENSOR.samples, len(CLASSES)).bfloat16())
    files = export(task, model_of(exact), tmp_path)
    inputs = windows(3)
    (logits,) = onnxruntime.InferenceSession(str(files.onnx)).run(None, {"inputs": inputs.numpy()})
    np.testing.assert_allclose(logits, exact(inputs).detach().numpy(), atol=1e-5)


class Stopwatch:
    """Each look takes a second."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        self.now += 1.0
        return self.now


def feed_of(broker: MemoryBroker) -> ModelFeed:
    link = MemoryLink(broker, "export", subscriptions=models_only(ROOT, TASK))
    return ModelFeed(link, task=TASK, root=ROOT, emit=lambda _event, **_fields: None)


def test_the_newest_model_of_the_broker() -> None:
    broker = MemoryBroker()
    for number in (1, 2):
        publish(broker, version(number))
    model = await_model(feed_of(broker), wait_seconds=0.0, monotonic=Stopwatch())
    assert model is not None
    assert (model.task, model.version) == (TASK, 2)
    assert digest(model.weights) == version(2).published.digest


def test_waiting_for_a_model_has_an_end() -> None:
    clock = Stopwatch()
    assert await_model(feed_of(MemoryBroker()), wait_seconds=10.0, monotonic=clock) is None
    assert clock.now <= 12
