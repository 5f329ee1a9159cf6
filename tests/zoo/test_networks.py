"""Networks of people's own kind go through the whole way as real programs; docs/networks.md is the table of it."""

import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch

from device_client.learning.parameters import load_vector
from device_client.task import Task, inputs_of, logits_in, outputs_of
from device_client.tasks.loading import load_task
from tests.zoo.programs import Learned, Programs, programs

HOUSE = Path(__file__).parents[2]
TASKS = HOUSE / "tests" / "zoo" / "tasks.py"
TABLE = HOUSE / "docs" / "networks.md"
NETWORKS = {
    "lstm": "LSTM",
    "gru": "GRU",
    "transformer": "Transformer encoder",
    "resnet1d": "1-D ResNet, BatchNorm",
    "inception": "InceptionTime, BatchNorm",
    "unet": "U-Net, BatchNorm, per pixel",
    "mobilenet": "MobileNet-like, BatchNorm, ReLU6",
    "bert": "BERT-like, dict in and out",
    "tied": "tied embedding, next token",
    "frozen": "frozen backbone, scalar weight",
    "spectral": "spectral normalisation",
    "bf16": "bfloat16 weights",
    "tcn": "TCN, weight normalisation",
    "instance_norm": "InstanceNorm, running statistics",
}
VERSIONS = 2


@pytest.fixture(scope="module")
def started(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Programs]:
    with programs(tmp_path_factory.mktemp("zoo")) as made:
        yield made


@pytest.mark.parametrize("name", NETWORKS)
def test_a_network_goes_all_the_way(name: str, started: Programs) -> None:
    spec = f"{TASKS}:{name}"
    task = load_task(spec, data=None)
    learned = started.federation(spec, name=task.name, devices=task.devices, versions=VERSIONS)
    assert np.isfinite([metrics["loss"] for metrics in learned.evaluations.values()]).all()
    assert learned.exported.version is not None
    assert learned.exported.version >= VERSIONS
    assert np.isfinite(learned.exported.weights).all()
    assert not np.array_equal(learned.exported.weights, learned.initial_model.weights)
    assert _largest_difference(task, learned) < (2e-2 if name == "bf16" else 1e-4)
    assert _row(NETWORKS[name], learned) in TABLE.read_text()


def _largest_difference(task: Task, learned: Learned) -> float:
    """Between torch and ONNX, over a few examples."""
    student = task.student().eval()
    load_vector(student, learned.exported.layout, learned.exported.weights)
    batch = task.held_out().batch(torch.arange(7))
    with torch.no_grad():
        expected = logits_in(outputs_of(student, batch)).numpy()
    session = onnxruntime.InferenceSession(str(learned.onnx))
    inputs = inputs_of(batch)
    named = inputs if isinstance(inputs, dict) else {"inputs": inputs}
    found = session.run(["logits"], {name: tensor.numpy() for name, tensor in named.items()})[0]
    return float(np.abs(found - expected).max())


def _row(network: str, learned: Learned) -> str:
    numbers = learned.initial_model.layout.size
    return f"| {network} | {numbers:,} | yes | yes | yes | yes | yes |"


def test_the_table_has_no_other_rows() -> None:
    rows = re.findall(r"^\| ([^|]+) \| [\d,]+ \|", TABLE.read_text(), flags=re.MULTILINE)
    assert rows == list(NETWORKS.values())
