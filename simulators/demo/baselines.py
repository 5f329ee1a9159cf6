"""What the same student reaches without federation: on everybody's data in one heap, and on one person's alone.

Same student, teacher, initial weights, augmentation, optimiser and batch size; the budget is a number of passes
over the data, said by the caller and the same for both. `python -m simulators baselines` prints
a JSON line as each is done.
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
    """Trains the centralised ceiling and the one-person floors."""

    task: str = Field("physiotherapy", min_length=1, description="what is learned, named as for `device run`")
    data: Path | None = Field(None, description="folder of the task's data, where the task needs one")
    initial_model: Path = Field(description="safetensors file of the initial student")
    teacher: Path | None = Field(None, description="safetensors file of the teacher, where the task has one")
    devices: int | None = Field(None, ge=1, description="only the first so many devices of the task")
    epochs: int = Field(40, ge=1, description="passes over the data, of each")
    seed: int = Field(0, ge=0, description="random seed of shuffling, augmentation and dropout")
    who: Who = Field("all", description="which of the two; they are independent, so that two programs can share them")
    nice: int = Field(0, ge=0, le=19, description="gives way to other programs, as nice(1)")


def budget_epochs(*, versions: int, updates_per_version: int, epochs: int, devices: int) -> int:
    """Passes over all data that a federation plans: V versions of K updates, each `epochs` passes over one of D
    devices' data.
    """
    return max(1, round(versions * updates_per_version * epochs / devices))


def run(settings: BaselineSettings, tell: Callable[[str], object] = print) -> None:
    """Trains and tells.

    Raises:
        TaskError: the task or its data cannot be had.
        ModelFileError: a file is missing or not of this task.
    """
    # torch takes seconds, which `--help` and whoever only wants the types do not need
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
        _tell(tell, who="teacher", metrics=evaluate(teacher, held_out, task.classes))
    student = task.student()

    def alone(examples: Examples) -> dict[str, float]:
        load_vector(student, initial.layout, initial.weights)
        train_alone(student, teacher, examples, task.recipe, epochs=settings.epochs, seed=settings.seed)
        return evaluate(student, held_out, task.classes)

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
    """The command; returns its exit code."""
    from device_client.model_files import ModelFileError  # noqa: PLC0415 — see `run`
    from device_client.task import TaskError  # noqa: PLC0415

    try:
        run(settings, lambda line: print(line, flush=True))
    except (TaskError, ModelFileError) as error:
        print(f"simulators: {error}", file=sys.stderr)
        return 2
    return 0
