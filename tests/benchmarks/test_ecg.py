"""The table of kinds of heartbeats: metrics by class, intervals by patient, with and without a patient."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from benchmarks.__main__ import main
from benchmarks.ecg import confusion_by_person, metrics_of, patients_of, with_intervals
from device_client.task import Examples
from device_client.tasks.ecg_beats import FILE
from tests.device_client.tasks.test_ecg import fields

LABELS = ("N", "S", "V", "F", "Q")


class Answering(nn.Module):
    """Answers with the class that is the first interval."""

    def forward(self, _beats: torch.Tensor, intervals: torch.Tensor) -> torch.Tensor:
        return nn.functional.one_hot(intervals[:, 0].long(), 5).float()


def test_confusions_are_counted_by_patient() -> None:
    intervals = np.array([[0.0] * 3, [1.0] * 3, [1.0] * 3])
    examples = Examples.of((np.zeros((3, 1, 128)), intervals), [0, 0, 1], ["b", "a", "b"])
    counts = confusion_by_person(Answering(), examples, 5)
    assert patients_of(examples) == ["a", "b"]
    assert counts[0, 0].tolist() == [0, 1, 0, 0, 0]
    assert counts[1, 0, 0] == counts[1, 1, 1] == 1
    assert counts.sum() == 3


def test_metrics_follow_from_a_confusion() -> None:
    confusion = np.zeros((5, 5), dtype=np.int64)
    confusion[0, 0], confusion[0, 1], confusion[1, 1], confusion[2, 0], confusion[2, 2] = 8, 2, 1, 1, 3
    values = metrics_of(confusion, LABELS)
    assert float(values["accuracy"]) == pytest.approx(12 / 15)
    assert float(values["recall_V"]) == pytest.approx(3 / 4)
    assert float(values["f1_S"]) == pytest.approx(2 / 4)
    assert float(values["macro_f1"]) == pytest.approx((16 / 19 + 2 / 4 + 6 / 7) / 3)
    assert np.isnan(values["f1_F"])
    assert np.isnan(values["recall_F"])


def test_an_interval_is_that_of_the_patients() -> None:
    alike = np.zeros((2, 4, 5, 5), dtype=np.int64)  # two models, four patients
    alike[:, :, [0, 1, 2], [0, 1, 2]] = 10
    sure = with_intervals(alike, LABELS)
    assert sure["accuracy"] == {"mean": 1.0, "low": 1.0, "high": 1.0}
    assert "f1_F" not in sure
    differing = alike.copy()
    differing[:, 0, 0] = [0, 10, 0, 0, 0]  # all normal beats of one of four patients are missed
    found = with_intervals(differing, LABELS)["recall_N"]
    assert found["mean"] == pytest.approx(0.75)
    assert found["low"] <= 0.5
    assert found["high"] == 1.0


def test_the_command_prints_a_table(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    np.savez(tmp_path / FILE, **fields())
    figures = tmp_path / "ecg.json"
    command = ("ecg", "--data", str(tmp_path), "--seeds", "1", "--versions", "1", "--without", "103")
    assert main([*command, "--json", str(figures)]) == 0
    shown = capsys.readouterr().out
    assert "test persons: 2 patients, beats N 4 S 5 V 5 F 5 Q 5" in shown
    assert "test persons without 103: 1 patients" in shown
    assert all(f"F1 {label}" in shown for label in LABELS)
    (whole, part) = json.loads(figures.read_text())["tested"]["test"]
    assert set(whole["arms"]) == {"federated", "pooled", "alone"}
    assert part["without"] == ["103"]
    assert main([*command, "--arms", "together"]) != 0
    assert "--arms: together; known: federated, pooled, alone" in capsys.readouterr().err
