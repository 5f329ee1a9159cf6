"""Finds a task: a built-in one by name, or the user's own by file or module."""

import importlib
import importlib.util
import inspect
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import TypeVar

from device_client.slow_work import slow_work
from device_client.task import Task, TaskError
from device_client.tasks import ecg, har, physiotherapy
from device_client.tasks.checking import checked
from device_client.tasks.mammography import crops, films
from device_client.tasks.user_code import user_code

T = TypeVar("T")
BUILT_IN: Mapping[str, Callable[[Path | None], Task]] = {
    "physiotherapy": physiotherapy.task,
    "har": har.task,
    "ecg": ecg.task,
    "mammography": films.task,
    "mammography-efficientnet": films.task_with_pretrained_teacher,
    "mammography-crops": crops.task,
}
"""Each takes the data folder that the user gave; None: none was given."""


def load_task(spec: str, *, data: Path | None) -> Task:
    """The task that `spec` names.

    Args:
        spec: a built-in name, `path/to/file.py:function` or `package.module:function`. The function returns a
            `Task` and takes nothing, or the data folder.
        data: the data folder that the user gave; None: none was given.

    Raises:
        TaskError: there is no such task, or its data is missing or invalid.
    """
    if spec in BUILT_IN:
        return _said_when_slow(checked(BUILT_IN[spec](data)))
    place, colon, function = spec.rpartition(":")
    if not colon or not place or not function:
        raise TaskError(
            f"there is no task {spec!r}; known: {', '.join(sorted(BUILT_IN))}, or your own as path/to/file.py:function"
        )
    module = _module_at(Path(place)) if place.endswith(".py") else _module_named(place)
    make = getattr(module, function, None)
    if isinstance(make, Task):
        raise TaskError(f"task {spec}: {function} is a Task; give the name of a function that returns it")
    if not callable(make):
        raise TaskError(f"task {spec}: {place} has no function {function!r}")
    arguments = _arguments_of(make, data, spec)
    with _data_hint(arguments), user_code(f"task {spec}: {function}"):
        task = make(*arguments)
    if not isinstance(task, Task):
        raise TaskError(f"task {spec}: {function} returned {type(task).__name__}, not device_client.task.Task")
    return _said_when_slow(checked(task), arguments)


@contextmanager
def _data_hint(arguments: tuple[Path | None, ...]) -> Iterator[None]:
    """Adds to a fault about None that the task takes a data folder, and none was given."""
    try:
        yield
    except TaskError as error:
        if arguments == (None,) and "None" in str(error) and "--data" not in str(error):
            raise TaskError(f"{error}; the task takes a data folder, and none was given: --data FOLDER") from error
        raise


def _said_when_slow(task: Task, arguments: tuple[Path | None, ...] = ()) -> Task:
    """The task; a function of it that takes more than a moment says so on standard error.

    `arguments` are those that the task was made with.
    """
    teacher, teacher_data = task.teacher, task.teacher_data

    def call(what: str, function: Callable[[], T]) -> T:
        with _data_hint(arguments), slow_work(f"task {task.name}: {what}"):
            return function()

    return replace(
        task,
        student=lambda: call("student()", task.student),
        teacher=None if teacher is None else lambda: call("teacher()", teacher),
        device_data=lambda device: call(f"device_data({device!r})", lambda: task.device_data(device)),
        held_out=lambda: call("held_out()", task.held_out),
        teacher_data=None if teacher_data is None else lambda: call("teacher_data()", teacher_data),
    )


def _arguments_of(make: Callable[..., object], data: Path | None, spec: str) -> tuple[Path | None, ...]:
    """The data folder, if the function takes one."""
    with user_code(f"task {spec}"):
        signature = inspect.signature(make)
    possible: tuple[tuple[Path | None, ...], ...] = ((data,), ())
    for arguments in possible:
        with suppress(TypeError):
            signature.bind(*arguments)
            return arguments
    raise TaskError(
        f"task {spec}: {signature} takes arguments that are not known here; the function may take the data folder, or "
        "nothing: give the others a default"
    )


def _module_at(path: Path) -> ModuleType:
    if not path.is_file():
        raise TaskError(f"task file {path} does not exist; give path/to/file.py:function")
    name = f"asyncfedkd_task_{path.stem}"
    found = importlib.util.spec_from_file_location(name, path)
    assert found is not None
    assert found.loader is not None
    folder = str(path.resolve().parent)
    if folder not in sys.path:
        # Modules beside the file can be imported. At the end, so that none of them hides a library.
        sys.path.append(folder)
    module = importlib.util.module_from_spec(found)
    sys.modules[name] = module  # dataclasses look up their own module there
    try:
        with user_code(f"task file {path}", "cannot be imported"):
            found.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module


def _module_named(name: str) -> ModuleType:
    with user_code(f"task module {name}", "cannot be imported"):
        return importlib.import_module(name)
