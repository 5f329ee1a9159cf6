"""Two sites find out how many rows they share, and nothing else, from files of keyed hashes."""

import json
import signal
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from device_client.__main__ import main
from device_client.data.faults import DataError
from device_client.data.fingerprints import read_fingerprints, read_key


@pytest.fixture(autouse=True)
def _signals() -> Iterator[None]:
    """Commands handle signals in their own way."""
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


TASK = """
import numpy as np
from torch import nn
from device_client.task import Examples, Task

IMAGES = np.random.default_rng(0).random((9, 1, 8, 8))

def rows(images, names):
    return Examples.of(images, [0] * len(images), names, sources=["film " + name for name in names])

def site():
    held = np.concatenate([IMAGES[6:], {held_out}])
    return Task(
        name="films", classes=("a", "b"), student=lambda: nn.Linear(1, 2), devices=("d1",),
        device_data=lambda _: rows(IMAGES[[0, 1, 2, 2]], ["anna", "anna", "bert", "bert"]),
        held_out=lambda: rows(held, ["carl"] * (len(held) - 1) + ["{last}"]),
    )
"""


class Site:
    """A task file of one site, and the command with its flags."""

    def __init__(self, folder: Path, held_out: str = "IMAGES[:0]", last: str = "dora") -> None:
        folder.mkdir()
        self.folder = folder
        (folder / "films.py").write_text(TASK.format(held_out=held_out, last=last))
        (folder / "key").write_text("0123456789abcdef0123456789abcdef\n")

    def run(self, *flags: str) -> int:
        own = ["--task", f"{self.folder / 'films.py'}:site", "--key", str(self.folder / "key")]
        return main(["fingerprints", *own, *flags])


def test_another_program_finds_copies_by_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    hospital, evaluator = Site(tmp_path / "a"), Site(tmp_path / "b", held_out="np.rot90(IMAGES[2:3], axes=(2, 3))")
    file = tmp_path / "a.json"
    assert hospital.run("--device", "d1", "--out", str(file)) == 0
    assert "a.json: 4 rows (device) of task films" in capsys.readouterr().out
    assert evaluator.run("--held-out", "--against", str(file)) == 2
    shown = capsys.readouterr()
    assert "a.json (device, 4 rows) has 1 of our 4 images, in 1 of 4 rows" in shown.out
    assert "the held-out data stands on another side" in shown.err
    theirs = tmp_path / "b.json"
    assert evaluator.run("--held-out", "--out", str(theirs)) == 0
    assert hospital.run("--device", "d1", "--against", str(theirs)) == 2
    assert "has 1 of our 3 images, in 2 of 4 rows" in capsys.readouterr().out, "our copies count, theirs are not known"
    assert Site(tmp_path / "c").run("--held-out", "--against", str(file)) == 0


def test_rows_that_two_devices_share_are_counted_without_an_error(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    site, file = Site(tmp_path / "a"), str(tmp_path / "a.json")
    assert site.run("--device", "d1", "--out", file, "--against", file) == 2, "it is not there yet"
    assert site.run("--device", "d1", "--out", file) == 0
    assert site.run("--device", "d1", "--against", file) == 0
    assert "3 of our 3 images, in 4 of 4 rows" in capsys.readouterr().out


def test_a_file_shows_neither_names_nor_order_nor_number_and_names_only_on_request(tmp_path: Path) -> None:
    site, file = Site(tmp_path / "a"), tmp_path / "a.json"
    assert site.run("--device", "d1", "--out", str(file)) == 0
    content = json.loads(file.read_text())
    assert set(content) == {"format", "version", "task", "side", "key", "rows", "images", "tensors"}
    assert content["images"] == sorted(content["images"])
    assert len(content["images"]) == 3, "a row that occurs twice is there once"
    assert site.run("--device", "d1", "--out", str(file), "--names") == 0
    named = json.loads(file.read_text())
    assert (len(named["persons"]), len(named["sources"])) == (2, 2)
    assert not any(name in file.read_text() for name in ("anna", "bert", "d1"))
    (site.folder / "key").write_text("another key of some length")
    assert site.run("--device", "d1", "--out", str(file)) == 0
    assert not set(json.loads(file.read_text())["images"]) & set(content["images"]), (
        "nothing is the same without the key"
    )


def test_persons_are_compared_where_both_sites_name_them(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    hospital, evaluator = Site(tmp_path / "a"), Site(tmp_path / "b", held_out="IMAGES[3:4]", last="bert")
    file = str(tmp_path / "a.json")
    assert hospital.run("--device", "d1", "--out", file, "--names") == 0
    assert evaluator.run("--held-out", "--against", file) == 0, "images alone"
    assert evaluator.run("--held-out", "--against", file, "--names") == 2
    assert "1 of our 2 persons, in 1 of 4 rows" in capsys.readouterr().out


def test_rows_that_are_no_images_are_counted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    site, file = Site(tmp_path / "a"), str(tmp_path / "a.json")
    path = site.folder / "films.py"
    path.write_text(path.read_text().replace("(9, 1, 8, 8)", "(9, 6, 20)").replace("IMAGES[:0]", "IMAGES[1:2]"))
    assert site.run("--device", "d1", "--out", file) == 0
    assert site.run("--held-out", "--against", file) == 0, "they may be equal for good reasons"
    assert "1 of our 4 inputs, in 1 of 4 rows" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--out", "x"], "give one of --device NAME, --teacher-data and --held-out"),
        (["--held-out", "--teacher-data", "--out", "x"], "give one of --device NAME"),
        (["--held-out"], "give --out FILE, --against FILE or both"),
        (["--teacher-data", "--out", "x"], "task films has no teacher_data; leave out --teacher-data"),
        (["--held-out", "--against", "{}/films.py"], "is no file of fingerprints; make it"),
        (["--held-out", "--against", "{}/none"], "does not exist"),
    ],
)
def test_what_is_missing(flags: list[str], said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    site = Site(tmp_path / "a")
    assert site.run(*[flag.format(site.folder) for flag in flags]) == 2
    assert said in capsys.readouterr().err


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"version": 2}, "version 2 of this format is not known; update this program"),
        ({"images": ["x"]}, "images is no list of hashes"),
        ({"images": 5}, "images is no list of hashes"),
        ({"persons": None}, "persons is no list of hashes"),
        ({"rows": "4"}, "task, side, key or rows is missing"),
        ({"side": "moon"}, "task, side, key or rows is missing"),
        ({"format": "?"}, "is no file of fingerprints"),
    ],
)
def test_damaged_files(change: dict[str, object], said: str, tmp_path: Path) -> None:
    site, file = Site(tmp_path / "a"), tmp_path / "a.json"
    assert site.run("--device", "d1", "--out", str(file)) == 0
    assert read_fingerprints(file).rows == 4
    file.write_text(json.dumps(json.loads(file.read_text()) | change))
    with pytest.raises(DataError, match=said):
        read_fingerprints(file)
    file.write_bytes(np.random.default_rng(0).bytes(200))
    with pytest.raises(DataError, match="is no file of fingerprints"):
        read_fingerprints(file)


def test_another_key_or_task_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    site, file = Site(tmp_path / "a"), tmp_path / "a.json"
    assert site.run("--device", "d1", "--out", str(file)) == 0
    (site.folder / "key").write_text("another key of some length")
    assert site.run("--held-out", "--against", str(file)) == 2
    assert "was made with another key, so nothing can be compared" in capsys.readouterr().err
    file.write_text(file.read_text().replace('"films"', '"other"'))
    assert site.run("--held-out", "--against", str(file)) == 2
    assert "is of task other, and this is films" in capsys.readouterr().err
    (site.folder / "key").write_text("short\n")
    with pytest.raises(DataError, match="a key needs at least 16 bytes; make one"):
        read_key(site.folder / "key")
