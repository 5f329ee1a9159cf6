"""The local teacher outlives restarts and kills, and says in one line what is wrong with its file."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from device_client import model_files
from device_client.learning.local_teacher import LOCAL_TEACHER_NAME, LocalTeacher, kept_teacher
from device_client.learning.parameters import layout_of, vector_of
from device_client.learning.seeding import seeded
from device_client.model_files import ModelFileError, read_model

REPOSITORY = Path(__file__).parents[3]


def local_teacher(path: Path | None, *, hidden: int = 4, task: str = "t", seed: int = 1) -> LocalTeacher:
    with seeded(seed):
        network = nn.Sequential(nn.Linear(2, hidden), nn.Linear(hidden, 3))
        return LocalTeacher(network, nn.Linear(5, hidden, bias=False), task=task, path=path)


def change(teacher: LocalTeacher, amount: float) -> None:
    """As a round of training might."""
    with torch.no_grad():
        for parameter in [*teacher.network.parameters(), *(teacher.projection or nn.Identity()).parameters()]:
            parameter.add_(amount)


def same(one: LocalTeacher, other: LocalTeacher) -> bool:
    assert one.projection is not None
    assert other.projection is not None
    return all(
        torch.equal(ours, theirs)
        for first, second in ((one.network, other.network), (one.projection, other.projection))
        for ours, theirs in zip(first.parameters(), second.parameters(), strict=True)
    )


def test_what_is_kept_comes_back_with_its_rounds(tmp_path: Path) -> None:
    path = tmp_path / "new folder" / LOCAL_TEACHER_NAME
    first = local_teacher(path)
    assert (first.rounds, path.exists()) == (0, False)
    for _ in range(2):
        change(first, 0.1)
        first.keep()
    again = local_teacher(path, seed=2)
    assert same(first, again)
    assert (first.rounds, again.rounds) == (2, 2)
    assert path.stat().st_mode & 0o777 == 0o600, "it has learned from private data"


def test_a_round_given_up_leaves_no_trace(tmp_path: Path) -> None:
    path = tmp_path / LOCAL_TEACHER_NAME
    teacher, fresh = local_teacher(path), local_teacher(None)
    change(teacher, 0.1)
    teacher.give_up()
    assert same(teacher, fresh)
    assert not path.exists()
    change(teacher, 0.1)
    teacher.keep()
    content = path.read_bytes()
    change(teacher, 0.1)
    teacher.give_up()
    assert same(teacher, local_teacher(path))
    assert path.read_bytes() == content


def test_numbers_that_are_not_finite_are_not_kept(tmp_path: Path) -> None:
    teacher = local_teacher(tmp_path / LOCAL_TEACHER_NAME)
    change(teacher, float("nan"))
    teacher.keep()
    assert teacher.rounds == 0
    assert same(teacher, local_teacher(None))
    assert not list(tmp_path.iterdir())


def test_in_memory_nothing_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    teacher = local_teacher(None)
    change(teacher, 0.1)
    teacher.keep()
    assert teacher.rounds == 1
    assert not list(tmp_path.iterdir())


KILLED = """
import os, signal, sys
from pathlib import Path
from tests.device_client.learning.test_local_teacher import change, local_teacher

teacher = local_teacher(Path(sys.argv[1]))
os.fsync = lambda _: os.kill(os.getpid(), signal.SIGKILL)
change(teacher, 0.1)
teacher.keep()
"""


def test_killed_in_the_middle_of_writing_the_one_before_is_still_there(tmp_path: Path) -> None:
    path = tmp_path / LOCAL_TEACHER_NAME
    teacher = local_teacher(path)
    change(teacher, 0.1)
    teacher.keep()
    killed = subprocess.run([sys.executable, "-c", KILLED, str(path)], cwd=REPOSITORY, check=False)
    assert killed.returncode == -9
    assert len(list(tmp_path.iterdir())) == 2, "it was killed while it wrote"
    again = local_teacher(path)
    assert same(teacher, again)
    assert again.rounds == 1
    again.keep()
    assert list(tmp_path.iterdir()) == [path], "what the kill left behind is cleared away"


def cut_short(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-5])


def one_bit(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-2] ^= 1
    path.write_bytes(content)


def emptied(path: Path) -> None:
    path.write_bytes(b"")


def of_another_task(path: Path) -> None:
    path.unlink()
    local_teacher(path, task="other").keep()


def of_another_teacher(path: Path) -> None:
    path.unlink()
    local_teacher(path, hidden=7).keep()


def of_students_without_hidden_states(path: Path) -> None:
    path.unlink()
    LocalTeacher(local_teacher(None).network, None, task="t", path=path).keep()


@pytest.mark.parametrize(
    ("harm", "said"),
    [
        (cut_short, "model file"),
        (one_bit, "is damaged"),
        (emptied, "model file"),
        (of_another_task, "is of task 'other', not 't'"),
        (of_another_teacher, "does not fit the teacher and student of task t"),
        (of_students_without_hidden_states, "does not fit the teacher and student of task t"),
    ],
)
def test_a_file_that_cannot_be_used_says_what_to_do(tmp_path: Path, harm: Callable[[Path], None], said: str) -> None:
    path = tmp_path / LOCAL_TEACHER_NAME
    local_teacher(path).keep()
    harm(path)
    with pytest.raises(ModelFileError, match=said) as caught:
        local_teacher(path)
    assert "\n" not in str(caught.value)
    assert str(path) in str(caught.value)
    assert "teacher.local.safetensors away" in str(caught.value)
    assert path.exists(), "nothing is thrown away"


def test_a_full_disk_is_told_once_and_the_teacher_is_kept_in_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / LOCAL_TEACHER_NAME
    told: list[str] = []
    network = nn.Sequential(nn.Linear(2, 4), nn.Linear(4, 3))
    teacher = LocalTeacher(network, None, task="t", path=path, warn=told.append)
    teacher.keep()
    write = model_files.write_whole

    def full(path: Path, *_: object, **__: object) -> None:
        raise ModelFileError(f"{path}: cannot be written: No space left on device")

    monkeypatch.setattr(model_files, "write_whole", full)
    for _ in range(3):
        change(teacher, 0.1)
        teacher.keep()
    assert read_model(path).rounds == 1
    (line,) = told
    assert "No space left on device" in line
    kept = vector_of(network, layout_of(network))
    teacher.give_up()
    np.testing.assert_array_equal(vector_of(network, layout_of(network)), kept)

    monkeypatch.setattr(model_files, "write_whole", write)
    change(teacher, 0.1)
    teacher.keep()
    assert read_model(path).rounds == 5
    monkeypatch.setattr(model_files, "write_whole", full)
    teacher.keep()
    assert len(told) == 2


def test_the_teacher_alone_can_be_taken_from_the_folder(tmp_path: Path) -> None:
    teacher = local_teacher(tmp_path / LOCAL_TEACHER_NAME)
    change(teacher, 0.1)
    teacher.keep()
    found = kept_teacher(tmp_path, task="t")
    assert found.layout == layout_of(teacher.network)
    assert found.rounds == 1
    np.testing.assert_array_equal(found.weights, vector_of(teacher.network, found.layout))
    assert read_model(tmp_path / LOCAL_TEACHER_NAME).layout.size == found.layout.size + 20, "W_h stays there"
    with pytest.raises(ModelFileError, match="No such file"):
        kept_teacher(tmp_path / "nowhere", task="t")
