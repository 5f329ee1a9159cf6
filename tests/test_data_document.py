"""The examples of docs/data.md are run, on files written here."""

import re
import sys
import warnings
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from device_client.task import Task
from simulators.films.folder import LABELS, Plan, make_films
from tests.device_client.data.extras import extra
from tests.documents import HOUSE

BLOCKS = re.findall(r"^```python\n(.*?)^```", (HOUSE / "docs" / "data.md").read_text(), re.DOTALL | re.MULTILINE)


def run(word: str) -> dict[str, Any]:
    (block,) = (block for block in BLOCKS if word in block)
    names: dict[str, Any] = {}
    exec(compile(block, "docs/data.md", "exec"), names)
    return names


@pytest.fixture(autouse=True)
def in_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_every_example_is_run() -> None:
    assert len(BLOCKS) == 6, "all of them are in the tests below"


def test_time_series(in_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (in_folder / "recordings").mkdir()
    for person in ("s01", "s02", "s03"):
        (in_folder / "recordings" / f"{person}.csv").write_text(
            "t,ax,ay,az,activity\n"
            + "".join(f"{row * 20},0,0,1,{'rest' if row < 150 else 'walk'}\n" for row in range(300))
        )
    names = run("def task(folder)")
    task = names["task"](in_folder / "recordings")
    assert isinstance(task, Task)
    assert task.devices == ("s01",)
    inputs, label = task.examples_of("s01")[0]
    assert tuple(inputs.shape) == (3, 100)
    assert int(label) == 0
    monkeypatch.setitem(sys.modules, "activity", SimpleNamespace(FORM=names["FORM"]))
    run("labelled.npz")
    with np.load(in_folder / "labelled.npz") as labelled:
        assert labelled["inputs"].shape == (4, 3, 100), "of five windows one is half rest, half walk"


def test_wfdb_records(in_folder: Path) -> None:
    wfdb = extra("wfdb")
    (in_folder / "mitdb").mkdir()
    at = np.arange(1, 60) * 360
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # wfdb 4.3 writes by calls that pandas 3.1 deprecates
        wfdb.wrsamp(
            "201",
            fs=360,
            units=["mV"],
            sig_name=["MLII"],
            p_signal=np.zeros((60 * 360, 1)) + np.arange(60 * 360)[:, None] * 1e-4,
            fmt=["16"],
            write_dir="mitdb",
        )
        notes = ["(AFIB"] + [""] * 58
        wfdb.wrann("201", "atr", at, ["+"] + ["N"] * 58, aux_note=notes, fs=360, write_dir="mitdb")
    assert len(run("read_beats")["beats"]) == 56
    rhythms = run("read_fixed_windows")["rhythms"]
    assert set(rhythms.labels.tolist()) == {1}


def test_images(in_folder: Path) -> None:
    image = extra("PIL.Image")
    for name in ("benign", "malignant"):
        (in_folder / "films" / name).mkdir(parents=True)
        image.new("L", (80, 70), 128).save(in_folder / "films" / name / "patient7_left.png")
    images = run("read_images")["images"]
    assert tuple(images.examples().inputs.shape) == (2, 1, 64, 64)
    assert set(images.persons.tolist()) == {"7"}


def test_a_folder_of_films(in_folder: Path) -> None:
    extra("pydicom")
    make_films(in_folder / "films", Plan(patients=2, films=1, rows=200, findings=("normal",)))
    (in_folder / "films" / LABELS).rename(in_folder / LABELS)
    films = run("take_in")["films"](in_folder)
    assert tuple(films[0][0].shape) == (1, 256, 192)
    assert films.labels.tolist() == [0, 0]
