"""Finds a task: a built-in one by name, or the user's own by file or module."""

import importlib
import importlib.util
import inspect
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from types import ModuleType

from device_client.task import Task, TaskError
from device_client.tasks import har, physiotherapy

BUILT_IN: Mapping[str, Callable[[Path | None], Task]] = {
    "physiotherapy": physiotherapy.task,
    "har": har.task,
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
        return BUILT_IN[spec](data)
    place, colon, function = spec.rpartition(":")
    if not colon or not place or not function:
        raise TaskError(
            f"there is no task {spec!r}; known: {', '.join(sorted(BUILT_IN))}, or your own as path/to/file.py:function"
        )
    module = _module_at(Path(place)) if place.endswith(".py") else _module_named(place)
    make = getattr(module, function, None)
    if not callable(make):
        raise TaskError(f"task {spec}: {place} has no function {function!r}")
    task = make(data) if inspect.signature(make).parameters else make()
    if not isinstance(task, Task):
        raise TaskError(f"task {spec}: {function} returned {type(task).__name__}, not device_client.task.Task")
    return task


def _module_at(path: Path) -> ModuleType:
    if not path.is_file():
        raise TaskError(f"task file {path} does not exist; give path/to/file.py:function")
    name = f"asyncfedkd_task_{path.stem}"
    found = importlib.util.spec_from_file_location(name, path)
    assert found is not None
    assert found.loader is not None
    module = importlib.util.module_from_spec(found)
    sys.modules[name] = module  # dataclasses look up their own module there
    try:
        found.loader.exec_module(module)
    except Exception as error:
        del sys.modules[name]
        raise TaskError(f"task file {path} cannot be imported: {type(error).__name__}: {error}") from error
    return module


def _module_named(name: str) -> ModuleType:
    try:
        return importlib.import_module(name)
    except Exception as error:
        raise TaskError(f"task module {name} cannot be imported: {type(error).__name__}: {error}") from error
