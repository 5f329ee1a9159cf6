"""Trains the baselines: the same student without federation, on pooled data (the ceiling) and on each person's own data
(the floor).

Student, teacher, initial weights, augmentation, optimiser, batch size and the number of passes over the data are the
same. `asyncfedkd baselines` prints one JSON line for each result.
"""

import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Literal

from pydantic import Field

from wire_contract.program.command_settings import CommandSettings

Who = Literal["all", "centralised", "local"]


class BaselineSettings(CommandSettings):
    """Trains the baselines without federation: on pooled data, and on each person's data alone."""

    task: str = Field("physiotherapy", min_length=1, description="the task, named as for `device run`")
    data: Path | None = Field(None, description="folder with the task's data, if the task needs one")
    initial_model: Path = Field(description="safetensors file of the initial student")
    teacher: Path | None = Field(None, description="safetensors file of the teacher, if the task has one")
    devices: int | None = Field(None, ge=1, description="use only the first N devices of the task")
    epochs: int = Field(40, ge=1, description="passes over the data, for each baseline")
    seed: int = Field(0, ge=0, description="random seed for shuffling, augmentation and dropout")
    who: Who = Field("all", description="which baselines to train; they are independent and can run in two processes")
    nice: int = Field(0, ge=0, le=19, description="lower this process's priority, as nice(1) does")


def budget_epochs(*, versions: int, updates_per_version: int, epochs: int, devices: int) -> int:
    """Passes over all data that a federation makes: V versions of K updates, each of `epochs` passes over the data of
    one of D devices.
    """
    return max(1, round(versions * updates_per_version * epochs / devices))


def run(settings: BaselineSettings, tell: Callable[[str], object] = print) -> None:
    """Trains, and passes each result to `tell` as a JSON line.

    Raises:
        TaskError: the task or its data cannot be loaded.
        ModelFileError: a file is missing, or belongs to another task.
    """
    # Importing torch takes seconds; `--help` and `budget_epochs` do not need it.
    import torch  # noqa: PLC0415
    from torch import nn  # noqa: PLC0415

    from device_client.learning.asyncfedkd import train_alone  # noqa: PLC0415
    from device_client.learning.evaluation import evaluate  # noqa: PLC0415
    from device_client.learning.parameters import load_vector  # noqa: PLC0415
    from device_client.model_files import read_model  # noqa: PLC0415
    from device_client.task import Examples, pooled  # noqa: PLC0415
    from device_client.tasks.loading import load_task  # noqa: PLC0415

    os.nice(settings.nice)
    torch.set_num_threads(1)
    started = time.monotonic()
    task = load_task(settings.task, data=settings.data)
    held_out = task.held_out()
    initial = read_model(settings.initial_model, task=task.name)
    teacher: nn.Module | None = None
    if task.teacher is not None and settings.teacher is not None:
        file = read_model(settings.teacher, task=task.name)
        teacher = task.teacher()
        load_vector(teacher, file.layout, file.weights)
        teacher.eval().requires_grad_(False)
        _tell(tell, who="teacher", metrics=evaluate(teacher, held_out, task))
    student = task.student()

    def alone(examples: Examples) -> dict[str, float]:
        load_vector(student, initial.layout, initial.weights)
        train_alone(
            student,
            teacher,
            examples,
            task.recipe,
            objective=task.objective,
            epochs=settings.epochs,
            seed=settings.seed,
        )
        return evaluate(student, held_out, task)

    names = task.devices[: settings.devices]
    data = {device: task.examples_of(device) for device in names}
    if settings.who != "local":
        _tell(tell, who="centralised", metrics=alone(pooled(list(data.values()))))
    if settings.who != "centralised":
        for device, examples in data.items():
            _tell(tell, who="local", device=device, metrics=alone(examples))
    _tell(tell, who="done", seconds=round(time.monotonic() - started, 1))


def _tell(tell: Callable[[str], object], **fields: object) -> None:
    tell(json.dumps(fields))


def main(settings: BaselineSettings) -> int:
    """The command; returns the exit code."""
    from device_client.model_files import ModelFileError  # noqa: PLC0415 — see `run`
    from device_client.task import TaskError  # noqa: PLC0415

    try:
        run(settings, lambda line: print(line, flush=True))
    except (TaskError, ModelFileError) as error:
        print(f"simulators: {error}", file=sys.stderr)
        return 2
    return 0
