"""Measures how fast this machine trains, to plan a run that fits its time limit.

The learning rate decays over the planned versions; a run that reaches only some of them stops before the rate has
decayed. So the number of versions is chosen before the first device starts. `asyncfedkd pace` prints the measured value
as a JSON line.
"""

import json
import os
import statistics
import sys
import time
from pathlib import Path

from pydantic import Field

from simulators.demo.plan import DemoPlan
from wire_contract.program.command_settings import CommandSettings

EPOCHS = 5
"""Epochs of which the median is taken; a first one is not counted, because it includes one-time set-up costs."""
OVERHEAD = 1.25
"""Factor for the work between epochs: encoding, outbox, loading models, and the broker."""
_BASELINES = 2
"""Pooled data and each person alone: they run beside the federation, each with the same number of passes."""


class CalibrationSettings(CommandSettings):
    """Measures the CPU time of one epoch of one device on this machine."""

    task: str = Field("physiotherapy", min_length=1, description="the task, named as for `device run`")
    data: Path | None = Field(None, description="folder with the task's data, if the task needs one")
    devices: int | None = Field(None, ge=1, description="use only the first N devices of the task")


def versions_within(seconds: float, plan: DemoPlan, *, epochs: int, epoch_seconds: float, cores: int) -> int:
    """The number of versions that fit into `seconds`, baselines included; at most the plan's.

    V versions of K updates take V · K · `epochs` epochs of one device, `epoch_seconds` each; each of the two baselines
    makes as many passes over the data.
    """
    version_seconds = (1 + _BASELINES) * OVERHEAD * plan.updates_per_version * epochs * epoch_seconds / cores
    return max(1, min(plan.versions, int(seconds / version_seconds)))


def cores() -> int:
    """CPU cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def measure(settings: CalibrationSettings) -> float:
    """CPU seconds of one epoch over the data of one device with the mean number of examples.

    Raises:
        TaskError: the task or its data cannot be had.
    """
    # Importing torch takes seconds; `--help` and `versions_within` do not need it.
    import torch  # noqa: PLC0415

    from device_client.learning.asyncfedkd import train_alone  # noqa: PLC0415
    from device_client.task.examples import example_count  # noqa: PLC0415
    from device_client.tasks.loading import load_task  # noqa: PLC0415

    torch.set_num_threads(1)
    task = load_task(settings.task, data=settings.data)
    each = [task.examples_of(device) for device in task.devices[: settings.devices]]
    student = task.student()

    def epoch_seconds() -> float:
        began = time.process_time()  # CPU time: other programs are starting and slow down the wall clock
        train_alone(student, None, each[0], task.recipe, objective=task.objective, epochs=1, seed=0)
        return time.process_time() - began

    epoch_seconds()
    measured = statistics.median(epoch_seconds() for _ in range(EPOCHS))
    counts = [example_count(data) or 0 for data in each]
    return measured * statistics.fmean(counts) / counts[0] if all(counts) else measured


def main(settings: CalibrationSettings) -> int:
    """The command; returns the exit code."""
    from device_client.task import TaskError  # noqa: PLC0415 — see `measure`

    try:
        print(json.dumps({"epoch_seconds": measure(settings)}), flush=True)
    except TaskError as error:
        print(f"simulators: {error}", file=sys.stderr)
        return 2
    return 0
