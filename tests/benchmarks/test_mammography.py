"""The benchmark of crops of mammograms, its whole path on generated crops, and its scores."""

import json
from pathlib import Path

import numpy as np
import pytest

from benchmarks.__main__ import main
from benchmarks.mammography.rows import images_of_rows
from benchmarks.mammography.scores import class_scores, ranking_difference, ranking_score
from device_client.tasks.mammography.crops import SMALL_FILE, read_file
from tests.device_client.tasks.mammography.crop_files import write_crops

PERSONS = np.repeat(np.array(list("abcdefgh")), 2)
POSITIVE = np.arange(16) % 4 < 2


def test_a_perfect_model_has_no_width_and_equal_models_do_not_differ() -> None:
    scores = [POSITIVE.astype(np.float64)]
    assert ranking_score(scores, POSITIVE, PERSONS) == {"mean": 1.0, "low": 1.0, "high": 1.0}
    unsure = [np.random.default_rng(0).random(16)]
    assert ranking_difference(unsure, unsure, POSITIVE, PERSONS) == {"mean": 0.0, "low": 0.0, "high": 0.0}
    assert ranking_difference(scores, unsure, POSITIVE, PERSONS)["low"] > 0


def test_balanced_accuracy_is_the_mean_recall() -> None:
    labels = (np.arange(16) % 8 == 0).astype(np.int64)
    found = class_scores([np.zeros(16, dtype=np.int64)], labels, PERSONS)
    assert found["accuracy"]["mean"] == pytest.approx(14 / 16)
    assert found["balanced_accuracy"]["mean"] == pytest.approx(0.5)
    assert found["accuracy"]["low"] < 14 / 16


def test_rows_are_the_published_rotations(tmp_path: Path) -> None:
    path = write_crops(tmp_path, large=False) / SMALL_FILE
    images, made_of = images_of_rows(path, "rows_all")
    with np.load(path) as archive:
        turned = archive["rows_all"][:, 1] == 1
    row = int(np.flatnonzero(turned)[0])
    np.testing.assert_array_equal(images[row], np.rot90(read_file(path).pixels[made_of[row]]))


def test_the_command_measures_all_parts(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data, further, figures = tmp_path / "data", tmp_path / "further", tmp_path / "figures.json"
    write_crops(data / "mias48", large=False, patients=24)
    write_crops(data / "mias", large=True, patients=24)
    write_crops(further, large=True, patients=6, first=500)
    command = ["mammography", "--data", str(data), "--seeds", "1", "--effort", "0.01", "--processes", "1"]
    assert main([*command, "--test-data", str(further), "--json", str(figures)]) == 0
    shown = capsys.readouterr().out
    assert shown.count("leaky") == 2
    assert "LEAKY" in shown
    found = json.loads(figures.read_text())
    assert "LEAKY" in found["seed_protocol"]["warning"]
    assert found["seed_protocol"]["rows_all"]["exact_look_up"] > 0.95
    assert set(found["patient_split"]["centred"]["auc"]) == {"federated", "centralised", "teacher", "local_mean"}
    assert "off_centre" in found["patient_split"]["further_patients"]
    assert "asynchronous_seconds" in found["stragglers"]
    assert main([*command, "--parts", "films"]) != 0
    assert "--parts: films; known: seed_protocol, patient_split, stragglers" in capsys.readouterr().err
    assert main([*command, "--test-data", str(data)]) != 0
    assert "person 1, " in capsys.readouterr().err
    assert main([*command, "--test-data", str(tmp_path)]) != 0
    assert "there is neither mias48.npz nor mias_roi_224.npz" in capsys.readouterr().err
