"""Identifiers stay where the films are: looked for in all that a device writes, says and sends."""

import json
import logging
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from torch import nn

from device_client.data.dicom.film import FilmSettings
from device_client.data.dicom.folder.dataset import FilmDataset
from device_client.data.dicom.folder.intake import FilmFolder, take_in
from device_client.data.dicom.folder.labels import read_labels
from device_client.data.faults import DataError
from device_client.data.leakage import check_sides, side_of
from device_client.learning.evaluation import evaluate
from device_client.learning.parameters import layout_of, load_vector, vector_of
from device_client.task import SplitError, Task
from simulators.films.folder import Plan, films_of
from simulators.films.writing import write
from simulators.world import server
from simulators.world.federation import VirtualDevice, run_asynchronous
from simulators.world.local_trainers import AsyncFedKDTrainer
from simulators.world.server import Rules
from tests.device_client.data.extras import extra

pydicom = extra("pydicom")
HOUSE = Path(__file__).parents[5]
TAGS = (
    *("PatientName", "PatientID", "AccessionNumber", "InstitutionName", "ReferringPhysicianName"),
    *("OperatorsName", "StationName", "DeviceSerialNumber", "StudyID", "StudyDescription", "PatientComments"),
    *("OtherPatientNames", "InstitutionAddress", "ProtocolName", "ImageComments", "SeriesDescription"),
)
DATES = {"PatientBirthDate": "19470811", "StudyDate": "19470812"}
CLASSES = ("no", "yes")
SIZE = (32, 24)


def canaries(patient: int) -> dict[str, str]:
    return {name: f"Canary{name[:6]}{patient}" for name in TAGS}


@pytest.fixture
def films(tmp_path: Path) -> tuple[Path, set[str]]:
    """A folder whose tags, file names and folder names all identify; and what to look for."""
    folder = tmp_path / "CanaryHospital"
    secret = {"canary", *DATES.values()}
    for number, (film, _row) in enumerate(films_of(Plan(patients=6, films=2, rows=200))):
        patient = number // 2
        for name, value in {**canaries(patient), **DATES}.items():
            setattr(film, name, value)
        secret |= {str(film.StudyInstanceUID), str(film.SOPInstanceUID), str(film.SeriesInstanceUID)}
        place = folder / f"CanaryFolder{patient}"
        place.mkdir(parents=True, exist_ok=True)
        write(film, place / f"CanaryFile{number}.dcm", "explicit")
        if number == 0:
            whole = (place / f"CanaryFile{number}.dcm").read_bytes()
            (folder / "CanaryCut.dcm").write_bytes(whole[:-1000])
            (folder / "CanaryHead.dcm").write_bytes(whole[:900])
    (folder / "CanaryNote.txt").write_text("Canary")
    rows = "".join(f"{canaries(patient)['PatientID']},{CLASSES[patient % 2]}\n" for patient in range(6))
    (tmp_path / "CanaryLabels.csv").write_text(f"PatientID,label\n{rows}")
    return folder, {word.lower() for word in secret}


def assert_silent(content: bytes, secret: set[str]) -> None:
    text = content.decode("latin-1").lower()
    assert [word for word in secret if word in text] == []


def taken_in(films: Path, cache: Path) -> FilmFolder:
    labels = read_labels(films.parent / "CanaryLabels.csv")
    return take_in(films, cache, FilmSettings(spacing_mm=5.0, crop=True), labels=labels)


def network() -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(SIZE[0] * SIZE[1], 2))


def test_cache_manifest_logs_updates_and_scores_hold_no_identifier(
    tmp_path: Path,
    films: tuple[Path, set[str]],
    capfd: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    folder, secret = films
    caplog.set_level(logging.DEBUG)
    taken = taken_in(folder, tmp_path / "cache")
    assert sum(film.usable for film in taken.files) == 12
    assert len(taken.labelled) == 12
    persons = sorted({film.record.patient for film in taken.labelled})
    data = {f"hospital-{at}": FilmDataset(taken, CLASSES, SIZE, patients=persons[at::3]) for at in range(2)}
    held_out = FilmDataset(taken, CLASSES, SIZE, patients=persons[2::3])
    task = Task(
        name="films",
        classes=CLASSES,
        student=network,
        teacher=network,
        device_data=lambda device: data[device],
        held_out=lambda: held_out,
        devices=tuple(data),
    )
    payloads: list[bytes] = []
    real = server.VirtualServer.take

    def take(self: server.VirtualServer, device: str, payload: bytes) -> object:
        payloads.append(payload)
        return real(self, device, payload)

    monkeypatch.setattr(server.VirtualServer, "take", take)
    student = task.student()
    layout = layout_of(student, task.recipe.statistics)
    devices = [VirtualDevice(name=name, round_seconds=1.0) for name in data]
    trainer = AsyncFedKDTrainer(task, data, task.teacher(), layout, seed=0)
    rules = Rules(updates_per_version=2, server_rate=1.0, update_encoding="float32", delta_encoding="float32")
    state = run_asynchronous(devices, trainer, vector_of(student, layout), layout, rules=rules, versions=2)
    load_vector(student, layout, state.weights)
    scores = evaluate(student, held_out, task)
    assert len(payloads) >= 4
    for payload in payloads:
        assert_silent(payload, secret)
    printed = capfd.readouterr()
    assert_silent(json.dumps(scores).encode(), secret)
    assert_silent((printed.out + printed.err + caplog.text).encode(), secret)
    for path in (tmp_path / "cache").rglob("*"):
        assert_silent(path.name.encode(), secret)
        assert_silent(path.read_bytes(), secret)
    assert_silent(repr([taken, vars(held_out), *taken.files]).replace(str(tmp_path), "").encode(), secret)


def test_exceptions_hold_no_identifier(tmp_path: Path, films: tuple[Path, set[str]]) -> None:
    folder, secret = films
    taken = taken_in(folder, tmp_path / "cache")
    whole = FilmDataset(taken, CLASSES, SIZE)
    labels = tmp_path / "CanaryLabels.csv"

    def change_cache() -> None:
        for path in (tmp_path / "cache").glob("*.film"):
            path.unlink()
        whole[0]

    def wrong_labels() -> None:
        labels.write_text("PatientID,label\nCanary,no\nCanary,yes\n")
        read_labels(labels)

    for fault in (
        lambda: FilmDataset(taken, ("other",), SIZE),
        lambda: check_sides({"one": side_of(whole), "two": side_of(whole)}),
        lambda: take_in(folder / "CanaryNone", tmp_path / "cache", FilmSettings(spacing_mm=5.0, crop=True)),
        lambda: take_in(folder / "CanaryCut.dcm", tmp_path / "cache", FilmSettings(spacing_mm=5.0, crop=True)),
        lambda: take_in(folder, folder / "CanaryCut.dcm", FilmSettings(spacing_mm=5.0, crop=True)),
        change_cache,
        wrong_labels,
    ):
        with pytest.raises((DataError, SplitError)) as caught:
            fault()
        assert_silent(str(caught.value).encode(), secret)
        assert caught.value.__cause__ is None
        assert caught.value.__context__ is None or caught.value.__suppress_context__, "it would be printed, too"


TASK = """
from torch import nn
from device_client.data.dicom.film import FilmSettings
from device_client.data.dicom.folder.dataset import FilmDataset
from device_client.data.dicom.folder.intake import take_in
from device_client.data.dicom.folder.labels import read_labels
from device_client.task import Task


def task(folder):
    classes, size = ("no", "yes"), (32, 24)
    labels = read_labels(folder.parent / "CanaryLabels.csv", classes)
    taken = take_in(folder, folder.parent / "cache", FilmSettings(spacing_mm=5.0, crop=True), labels=labels)
    persons = sorted({film.record.patient for film in taken.labelled})
    data = {f"hospital-{at}": FilmDataset(taken, classes, size, patients=persons[at::3]) for at in range(2)}

    def network():
        return nn.Sequential(nn.Flatten(), nn.Linear(size[0] * size[1], 2))

    return Task(
        name="films",
        classes=classes,
        student=network,
        teacher=network,
        device_data=lambda device: data[device],
        teacher_data=lambda: FilmDataset(taken, classes, size, patients=persons[2::6]),
        held_out=lambda: FilmDataset(taken, classes, size, patients=persons[5::6]),
        devices=tuple(data),
    )
"""


def test_a_real_program_prints_and_writes_no_identifier(tmp_path: Path, films: tuple[Path, set[str]]) -> None:
    folder, secret = films
    (tmp_path / "films.py").write_text(TASK)
    common = ["--task", f"{tmp_path / 'films.py'}:task", "--data", str(folder)]
    out = tmp_path / "out"
    out.mkdir()
    for command in (
        ["check-task", *common, "--skip-onnx", "--shortcuts"],
        ["initial-model", *common, "--out", str(out / "initial.safetensors")],
        ["pretrain-teacher", *common, "--out", str(out / "teacher.safetensors")],
    ):
        ended = subprocess.run(
            [sys.executable, "-m", "device_client", *command], capture_output=True, check=False, cwd=HOUSE
        )
        assert ended.returncode == 0, ended.stderr.decode()
        printed = (ended.stdout + ended.stderr).replace(str(folder).encode(), b"")
        assert_silent(printed, secret)
    files = [path for path in out.rglob("*") if path.is_file()]
    assert len(files) >= 2
    for path in files:
        assert_silent(path.read_bytes(), secret)


def test_pixels_are_not_what_is_looked_for() -> None:
    """A check of the check: it finds a word between other bytes."""
    with pytest.raises(AssertionError):
        assert_silent(np.zeros(9).tobytes() + b"\0xCanaryPatien1\xff", {"canary"})
