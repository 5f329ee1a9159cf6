"""How fast this machine learns, so that a run is planned that fits into its time.

A learning rate that falls to its end in versions that never come is a run cut off; so the number of versions is chosen
before the first device starts. `python -m simulators pace` measures and prints a JSON line.
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
"""Measured; the first is not one of them, because it is the dearest of a program."""
OVERHEAD = 1.25
"""What a device does between its epochs costs besides: encoding, its outbox, loading a model, and the broker's work."""
_BASELINES = 2
"""Pooled and alone, beside the federation and with its budget, each."""


class CalibrationSettings(CommandSettings):
    """Measures what an epoch of one device costs on this machine."""

    task: str = Field("physiotherapy", min_length=1, description="what is learned, named as for `device run`")
    data: Path | None = Field(None, description="folder of the task's data, where the task needs one")
    devices: int | None = Field(None, ge=1, description="only the first so many devices of the task")


def versions_within(seconds: float, plan: DemoPlan, *, epochs: int, epoch_seconds: float, cores: int) -> int:
    """As many versions as are learned in so long, baselines included, and at most the plan's.

    V versions of K updates are V · K · `epochs` epochs of one device, of `epoch_seconds` each; the two baselines
    pass over the data as often.
    """
    version_seconds = (1 + _BASELINES) * OVERHEAD * plan.updates_per_version * epochs * epoch_seconds / cores
    return max(1, min(plan.versions, int(seconds / version_seconds)))


def cores() -> int:
    """That this program may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def measure(settings: CalibrationSettings) -> float:
    """Seconds of computing of one epoch over one device's data: of the devices' mean number of examples.

    Raises:
        TaskError: the task or its data cannot be had.
    """
    # torch takes seconds, which `--help` and whoever only wants the rest do not need
    import torch  # noqa: PLC0415

    from device_client.learning.asyncfedkd import train_alone  # noqa: PLC0415
    from device_client.tasks.loading import load_task  # noqa: PLC0415

    torch.set_num_threads(1)
    task = load_task(settings.task, data=settings.data)
    each = [task.examples_of(device) for device in task.devices[: settings.devices]]
    student = task.student()

    def epoch_seconds() -> float:
        began = time.process_time()  # of computing: others start meanwhile, and make the clock run faster
        train_alone(student, None, each[0], task.recipe, epochs=1, seed=0)
        return time.process_time() - began

    epoch_seconds()
    measured = statistics.median(epoch_seconds() for _ in range(EPOCHS))
    return measured * statistics.fmean(len(one) for one in each) / len(each[0])


def main(settings: CalibrationSettings) -> int:
    """The command; returns its exit code."""
    from device_client.task import TaskError  # noqa: PLC0415 — see `measure`

    try:
        print(json.dumps({"epoch_seconds": measure(settings)}), flush=True)
    except TaskError as error:
        print(f"simulators: {error}", file=sys.stderr)
        return 2
    return 0
