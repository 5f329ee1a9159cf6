"""`check-task`: one batch of a task through everything, and the first fault. `fingerprints`: its rows elsewhere."""

import json
import time
from collections import Counter
from pathlib import Path

from torch import nn

from device_client.commands.run import teacher_from
from device_client.commands.setup import loaded_task, user_errors
from device_client.data.faults import DataError
from device_client.data.fingerprints import (
    Fingerprints,
    SideName,
    encoded,
    fingerprints,
    in_common,
    read_fingerprints,
    read_key,
)
from device_client.data.leakage import Side, side_of, tensors_of
from device_client.learning.accelerator import accelerator_of
from device_client.task import Data, SplitError, Task, TaskError
from device_client.trial.report import about, as_json, shown
from device_client.trial.settings import CheckTaskSettings, FingerprintsSettings
from device_client.trial.shortcuts import shortcut_table, shortcuts_as_json
from device_client.trial.steps import examine
from device_client.trial.trial import Trial
from wire_contract.files.atomic_write import write_atomically
from wire_contract.program.command_settings import UsageError

_SHOWN = {"tensors": "inputs"}


@user_errors()
def check_task(settings: CheckTaskSettings) -> None:
    """Runs the steps of a trial, and prints each as it ends.

    Raises:
        UsageError: the first fault.
    """
    started = time.monotonic()
    task = loaded_task(settings)
    file = settings.teacher

    def read_teacher(task: Task) -> nn.Module:
        assert file is not None
        return teacher_from(task, file, may_be_published=True)

    trial = Trial(
        task=task,
        devices=settings.device,
        read_teacher=None if file is None else read_teacher,
        update_bytes=settings.update_bytes,
        with_onnx=not settings.skip_onnx,
        with_shortcuts=settings.shortcuts,
        accelerator=accelerator_of(settings.accelerator),
    )
    if not settings.json_output:
        print(about(task), flush=True)
    steps = []
    for step in examine(trial):
        steps.append(step)
        if not settings.json_output:
            print(shown(step), flush=True)
    seconds = time.monotonic() - started
    if settings.json_output:
        print(json.dumps({**as_json(task, steps, seconds), **shortcuts_as_json(trial)}, indent=2))
    error = steps[-1].error
    if error is not None:
        raise UsageError(steps[-1].line) from error
    if not settings.json_output:
        if trial.shortcuts:
            print(shortcut_table(trial.shortcuts))
        print(f"task {task.name} is ready to run; checked in {seconds:.1f} s")


@user_errors()
def show_fingerprints(settings: FingerprintsSettings) -> None:
    """Writes the keyed hashes of this site's rows, and counts those that other sites have too.

    Raises:
        UsageError: rows are on two sides of the split; or the data, the key or a file cannot be used.
    """
    key = read_key(settings.key)
    others = {path: read_fingerprints(path) for path in settings.against}
    task = loaded_task(settings)
    name, parts = _chosen_side(task, settings)
    side, tensors = Side(), Counter[bytes]()
    for data in parts:
        side.add(side_of(data))
        tensors.update(tensors_of(data))
    own = fingerprints(side, tensors, task=task.name, name=name, key=key, with_names=settings.names)
    if settings.out is not None:
        write_atomically(settings.out, encoded(own))
        print(f"{settings.out}: {side.rows:,} rows ({name}) of task {task.name}")
    leaks = [line for path, other in others.items() for line in [_compared(path, own, other)] if line]
    if leaks:
        raise SplitError(f"{'; '.join(leaks)}; leave them out on one side, and split by person")


def _chosen_side(task: Task, settings: FingerprintsSettings) -> tuple[SideName, list[Data]]:
    if settings.device:
        return "device", [task.examples_of(device) for device in settings.device]
    if settings.held_out:
        return "held-out", [task.held_out()]
    if task.teacher_data is None:
        raise TaskError(f"task {task.name} has no teacher_data; leave out --teacher-data")
    return "teacher", [task.teacher_data()]


def _compared(path: Path, own: Fingerprints, other: Fingerprints) -> str:
    """Prints the counts; returns what is on two sides of the split, in words, or nothing."""
    if own.task != other.task:
        raise DataError(f"{path} is of task {other.task}, and this is {own.task}")
    try:
        both = in_common(own, other)
    except DataError as error:
        raise DataError(f"{path}: {error}") from None
    counts = [
        f"{count:,} of our {len(own.hashes[kind]):,} {_SHOWN.get(kind, kind)}, in {rows:,} of {own.rows:,} rows"
        for kind, (count, rows) in both.items()
        if own.hashes[kind]
    ]
    line = f"{path} ({other.side}, {other.rows:,} rows) has {', '.join(counts) or 'nothing to compare'}"
    print(line)
    # Inputs that are no images may be equal for good reasons, see `leakage`.
    is_leak = own.side != other.side and any(count for kind, (count, _rows) in both.items() if kind != "tensors")
    return f"the {own.side} data stands on another side: {line}" if is_leak else ""
