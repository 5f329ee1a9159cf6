"""`check-task`: one batch of a task through everything, and the first fault."""

import json
import time

from torch import nn

from device_client.commands.run import teacher_from
from device_client.commands.setup import loaded_task, user_errors
from device_client.learning.accelerator import accelerator_of
from device_client.settings import CheckTaskSettings
from device_client.task import Task
from device_client.trial.report import about, as_json, shown
from device_client.trial.shortcuts import shortcut_table, shortcuts_as_json
from device_client.trial.steps import examine
from device_client.trial.trial import Trial
from wire_contract.program.command_settings import UsageError


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
