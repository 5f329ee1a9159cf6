"""Writes a new task and its test."""

import keyword
import sys
from importlib.util import find_spec
from pathlib import Path
from textwrap import indent

from device_client.starts.kinds import STARTS, Kind
from wire_contract.errors import TopicError
from wire_contract.program.command_settings import UsageError
from wire_contract.topics import check_name

BUILT_IN_TASKS = frozenset(
    {"ecg", "har", "mammography", "mammography-crops", "mammography-efficientnet", "physiotherapy"}
)
"""As in `tasks/loading.py`, whose module imports torch; another task of such a name would be taken for it."""
_TASK = '''\
"""The task {name}: {what}

`read` makes its data up. Replace it by a function that reads yours, `network` by your network, and the names of devices
and persons by yours. Then:

    asyncfedkd device check-task --task {name}.py:task
    python -m pytest test_{name}.py

The first passes a batch through everything, in seconds, and names the first fault. The second looks whether it learns.
"""

import zlib

import numpy as np
from torch import {torch}

from device_client.task import {imported}

{constants}
EXAMPLES = 120
DEVICES = {{f"device-{{number}}": (f"person-{{number}}",) for number in range(1, 7)}}
"""The persons whose data each device holds."""
HELD_OUT = ("person-7", "person-8")
"""Persons on whose data models are measured: none of them may be on a device."""


def read(person: str) -> Examples:
    """{about}"""
    random = np.random.default_rng(zlib.crc32(person.encode()))
{data}


{network}


def task() -> Task:
    """What `--task {name}.py:task` names."""
    return Task(
        name="{name}",
        {objective},
        student=network,
        device_data=lambda device: pooled([read(person) for person in DEVICES[device]]),
        devices=tuple(DEVICES),
        held_out=lambda: pooled([read(person) for person in HELD_OUT]),
        recipe=Recipe(epochs=2, learning_rate=5e-3),
    )
'''
_TEST = '''\
"""The task {name} learns, and no person is on two sides."""

import torch
from {name} import task

from device_client.learning.asyncfedkd import train_alone
from device_client.learning.evaluation import evaluate
from device_client.learning.seeding import seeded
from device_client.task import check_split, pooled


def test_a_student_trained_on_all_devices_data_is_better_than_a_fresh_one() -> None:
    torch.set_num_threads(1)  # a small network is faster on one
    own = task()
    objective, held_out = own.objective, own.held_out()
    with seeded(0):
        student = own.student()
    before = evaluate(student, held_out, own)[objective.main]
    together = pooled([own.device_data(device) for device in own.devices])
    train_alone(student, None, together, own.recipe, objective=objective, epochs=10, seed=0)
    after = evaluate(student, held_out, own)[objective.main]
    assert after > before if objective.higher_is_better else after < before, (before, after)


def test_no_person_is_on_two_sides() -> None:
    own = task()
    devices = pooled([own.device_data(device) for device in own.devices])
    check_split({{"device": devices.persons, "held-out": own.held_out().persons}})
'''


def write_start(name: str, kind: Kind, folder: Path) -> tuple[Path, Path]:
    """Writes NAME.py and test_NAME.py; returns their paths.

    Raises:
        UsageError: the name cannot be used, a file exists, or one cannot be written.
    """
    _check_task_name(name)
    start = STARTS[kind]
    parts = {
        "name": name,
        "what": start.what if start.what.endswith("?") else f"{start.what}.",
        "torch": "Tensor, nn" if "Tensor" in start.network else "nn",
        "imported": ", ".join(sorted({"Examples", "Recipe", "Task", "pooled", *start.imported}, key=_order)),
        "constants": start.constants,
        "about": start.about,
        "data": indent(start.data, "    "),
        "network": start.network,
        "objective": start.objective,
    }
    files = folder / f"{name}.py", folder / f"test_{name}.py"
    for path in files:
        if path.exists():
            raise UsageError(f"{path} exists and is not overwritten; choose another name, or move it away")
    if find_spec(name) is not None:
        raise UsageError(f"NAME: {name} is an installed module, which {name}.py would hide; choose another name")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for path, template in zip(files, (_TASK, _TEST), strict=True):
            with path.open("x", encoding="utf-8") as file:
                file.write(template.format(**parts))
    except OSError as error:
        raise UsageError(f"{error.filename or folder}: {error.strerror}") from None
    return files


def _order(name: str) -> tuple[bool, str]:
    """Classes before functions, as ruff sorts imports."""
    return name[0].islower(), name


def _check_task_name(name: str) -> None:
    suggestion = "".join(one if one.isascii() and one.isalnum() else "_" for one in name).strip("_").lower()
    hint = f", such as {suggestion}" if suggestion.isidentifier() and not keyword.iskeyword(suggestion) else ""
    if not name.isascii() or not name.isidentifier() or keyword.iskeyword(name):
        raise UsageError(
            f"NAME: {name!r} cannot be the name of a Python module; use letters, digits and _, not a digit first{hint}"
        )
    try:
        check_name(name, "task")
    except TopicError as error:
        raise UsageError(f"NAME: {error}") from None
    if name in BUILT_IN_TASKS or name in sys.stdlib_module_names:
        what = "a task of asyncfedkd" if name in BUILT_IN_TASKS else "a module of Python"
        raise UsageError(f"NAME: {name} is {what}; choose another name")
