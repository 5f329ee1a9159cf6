"""`new-task` writes a task that passes check-task and its own test, and overwrites nothing."""

import importlib
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from device_client.__main__ import main
from device_client.starts.kinds import KINDS, Kind
from device_client.starts.writing import BUILT_IN_TASKS
from device_client.tasks.loading import BUILT_IN


@pytest.fixture(autouse=True)
def _own_modules(tmp_path: Path) -> Iterator[None]:
    """Modules in the folder can be imported, and are forgotten afterwards."""
    path, modules = list(sys.path), set(sys.modules)
    sys.path.insert(0, str(tmp_path))
    yield
    sys.path[:] = path
    for name in set(sys.modules) - modules:
        if str(getattr(sys.modules[name], "__file__", "")).startswith(str(tmp_path)):
            del sys.modules[name]


def new(folder: Path, *arguments: str) -> int:
    return main(["new-task", *arguments, "--out", str(folder)])


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_written_works(kind: Kind, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    name = f"start_of_{kind.replace('-', '_')}"
    assert new(tmp_path, name, "--kind", kind) == 0
    spec = f"{tmp_path / name}.py:task"
    assert spec in capsys.readouterr().out
    assert main(["check-task", "--task", spec, "--skip-onnx"]) == 0
    shown = capsys.readouterr()
    assert f"task {name} is ready to run" in shown.out
    assert "note:" not in shown.out
    importlib.invalidate_caches()
    tests = importlib.import_module(f"test_{name}")
    written = [test for title, test in vars(tests).items() if title.startswith("test_")]
    assert len(written) == 2
    for test in written:
        test()


def test_a_file_that_exists_is_not_overwritten(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "test_mine_of_old.py"
    path.write_text("mine")
    assert new(tmp_path, "mine_of_old") == 2
    assert f"{path} exists and is not overwritten" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["test_mine_of_old.py"]
    assert path.read_text() == "mine"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ((), "NAME is missing"),
        (("my-task",), "NAME: 'my-task' cannot be the name of a Python module; use letters, digits and _"),
        (("my-task",), "such as my_task"),
        (("3d",), "not a digit first"),
        (("class",), "'class' cannot be the name of a Python module"),
        (("",), "NAME is missing"),
        (("größe",), "cannot be the name of a Python module"),
        (("a" * 100,), "NAME: task"),
        (("_hidden",), "NAME: task '_hidden': use 1 to"),
        (("har",), "NAME: har is a task of asyncfedkd"),
        (("json",), "NAME: json is a module of Python"),
        (("torch",), "NAME: torch is an installed module, which torch.py would hide"),
        (("fine", "--kind", "clasification"), "--kind: Input should be 'classification', 'regression'"),
        (("fine", "too"), "'too' belongs to no flag"),
    ],
)
def test_arguments_that_cannot_be_used(
    arguments: tuple[str, ...], said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert new(tmp_path, *arguments) == 2
    shown = capsys.readouterr().err
    assert said in shown
    assert shown.count("\n") == 1
    assert not list(tmp_path.iterdir())


def test_no_start_takes_the_name_of_a_built_in_task() -> None:
    assert set(BUILT_IN) <= BUILT_IN_TASKS
