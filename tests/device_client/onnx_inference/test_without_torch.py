"""`predict` and `evaluate --onnx` as programs where torch is not installed."""

import csv
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from device_client.learning.evaluation import evaluate
from device_client.learning.seeding import seeded
from tests.device_client.onnx_inference.exported import COUNT, KINDS, LABELS, exported, task_of
from tests.documents import HOUSE

BLOCKED = """
import sys
class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {"torch", "psutil", "onnx", "onnxscript", "safetensors"}:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
sys.meta_path.insert(0, Absent())
from device_client.__main__ import main
sys.exit(main(sys.argv[1:]))
"""


def without_torch(*words: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", BLOCKED, *map(str, words)]
    return subprocess.run(command, cwd=HOUSE, capture_output=True, text=True, check=False)


@pytest.fixture(scope="module", params=KINDS)
def kind_and_onnx(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path]:
    return request.param, exported(task_of(request.param)[0], tmp_path_factory.mktemp("model"))


def test_evaluation_measures_what_torch_measures(tmp_path: Path, kind_and_onnx: tuple[str, Path]) -> None:
    kind, onnx = kind_and_onnx
    task, inputs, targets = task_of(kind)
    with seeded(5):
        student = task.student()
    expected = evaluate(student, task.held_out(), task)
    np.savez(tmp_path / "held-out.npz", **inputs, **({} if targets is None else {"targets": targets}))
    done = without_torch("evaluate", "--onnx", onnx, "--inputs", tmp_path / "held-out.npz", "--log-format", "json")
    assert done.returncode == 0, done.stderr
    event = json.loads(done.stdout)
    assert event["version"] == 12
    assert event["main_metric"] == task.objective.main
    assert event["higher_is_better"] == task.objective.higher_is_better
    assert event["metrics"] == pytest.approx(expected, rel=1e-4, abs=1e-5)


def test_predictions_are_those_of_torch(tmp_path: Path, kind_and_onnx: tuple[str, Path]) -> None:
    kind, onnx = kind_and_onnx
    task, inputs, _targets = task_of(kind)
    with seeded(5):
        student = task.student().eval()
    tensors = [torch.from_numpy(values) for values in inputs.values()]
    with torch.no_grad():
        outputs = student(*tensors)
    logits = outputs["logits"] if isinstance(outputs, dict) else outputs
    np.savez(tmp_path / "inputs.npz", **inputs)
    out = tmp_path / "out.jsonl"
    done = without_torch("predict", "--model", onnx, "--inputs", tmp_path / "inputs.npz", "--out", out)
    assert done.returncode == 0, done.stderr
    assert "version 12" in done.stderr
    rows = [json.loads(line) for line in out.read_text().splitlines()]
    assert [row["example"] for row in rows] == list(range(COUNT))
    match task.objective.kind:
        case "classification":
            assert [row["class"] for row in rows] == [LABELS[index] for index in logits.argmax(dim=1).tolist()]
            shares = [[row["probabilities"][label] for label in LABELS] for row in rows]
            np.testing.assert_allclose(shares, logits.softmax(dim=1), atol=1e-5)
        case "multi_label":
            shares = [[row["probabilities"][label] for label in LABELS] for row in rows]
            np.testing.assert_allclose(shares, logits.sigmoid(), atol=1e-5)
            assert [row["labels"] for row in rows] == [
                [label for label, chosen in zip(LABELS, row, strict=True) if chosen] for row in (logits >= 0).tolist()
            ]
        case "per_pixel":
            assert [row["classes"] for row in rows] == np.asarray(LABELS)[logits.argmax(dim=1).numpy()].tolist()
        case "per_token":
            assert [row["classes"] for row in rows] == logits.argmax(dim=-1).tolist()
        case "regression":
            numbers = [[row["outputs"]["pulse"], row["outputs"]["load"]] for row in rows]
            np.testing.assert_allclose(numbers, logits, atol=1e-5)
        case _:
            np.testing.assert_allclose([row["outputs"] for row in rows], logits, atol=1e-5)


def test_tables_are_read_and_written(tmp_path: Path) -> None:
    task, inputs, targets = task_of("classification")
    onnx, table, out = exported(task, tmp_path, version=None), tmp_path / "examples.csv", tmp_path / "out.csv"
    with table.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["label", *"abcdef"])
        for row, label in zip(inputs["inputs"].tolist(), targets.tolist(), strict=True):
            writer.writerow([LABELS[label], *row])
    assert without_torch("predict", "--model", onnx, "--inputs", table, "--out", out).returncode == 0
    with out.open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == COUNT
    assert list(rows[0]) == ["example", "class", *(f"probability_{label}" for label in LABELS)]
    assert max(LABELS, key=lambda label: float(rows[7][f"probability_{label}"])) == rows[7]["class"]
    done = without_torch("evaluate", "--onnx", onnx, "--inputs", table, "--log-format", "json")
    assert done.returncode == 0, done.stderr
    right = sum(row["class"] == LABELS[label] for row, label in zip(rows, targets.tolist(), strict=True))
    assert json.loads(done.stdout)["metrics"]["accuracy"] == pytest.approx(right / COUNT)


def test_a_reader_that_has_enough_ends_predict_quietly(tmp_path: Path) -> None:
    task, inputs, _targets = task_of("classification")
    onnx, path = exported(task, tmp_path, version=None), tmp_path / "x.npy"
    np.save(path, inputs["inputs"])
    end, start = os.pipe()
    os.close(end)  # as `head` does; a write to `start` then fails
    command = [sys.executable, "-c", BLOCKED, "predict", "--model", str(onnx), "--inputs", str(path)]
    with open(start, "wb") as closed:  # noqa: PTH123 — a file descriptor
        done = subprocess.run(command, cwd=HOUSE, stdout=closed, stderr=subprocess.PIPE, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def test_without_onnxruntime_the_extra_is_named(tmp_path: Path) -> None:
    code = BLOCKED.replace('"torch", ', '"torch", "onnxruntime", ')
    command = [sys.executable, "-c", code, "predict", "--model", str(tmp_path), "--inputs", "x.npy"]
    done = subprocess.run(command, cwd=HOUSE, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "pip install 'asyncfedkd[onnx]'" in done.stderr
