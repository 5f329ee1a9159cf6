"""Memory and CPU time that a device takes up to its first batch, beside a bare `import torch`.

Both are programs of their own, run in turn. `device_client run` is measured when it emits `started`: by then it has
loaded its data and its teacher, and has trained one batch (`StudentTrainer.warm_up`). There is no broker.

A first start of each is not counted: it writes the bytecode of modules, which an installed program has from the
beginning, and unpacks the data.
"""

import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import psutil

from benchmarks.settings import FootprintSettings
from device_client.learning.parameters import layout_of, vector_of
from device_client.learning.seeding import seeded
from device_client.model_files import ModelFile, write_model
from device_client.task import Task, TaskError
from device_client.tasks.loading import load_task
from wire_contract.program.command_settings import UsageError

NO_BROKER = "mqtt://127.0.0.1:9"
"""Port 9 (discard): refuses connections at once."""
BARE = (
    'import sys, torch; torch.set_num_threads(1); print("{\\"event\\": \\"started\\"}", flush=True); sys.stdin.read()'
)


def run(settings: FootprintSettings) -> dict[str, Any]:
    """Measures both programs; returns the figures.

    Raises:
        TaskError: the task, its data or the device is not available.
        UsageError: the task has no list of devices and none was named.
    """
    task = load_task(settings.task, data=settings.data)
    device = settings.device or next(iter(task.devices), None)
    if device is None:
        raise UsageError(f"task {task.name} does not list its devices; give --device")
    task.examples_of(device)  # fetches the data if it is missing, so that no run does
    measured: dict[str, list[dict[str, float]]] = {"torch": [], "device": []}
    with tempfile.TemporaryDirectory(prefix="fedkd-benchmark-") as name:
        folder = Path(name)
        teacher = _teacher(task, folder / "teacher.safetensors")
        for number in range(settings.runs + 1):
            command = ["-m", "device_client", "run", "--task", settings.task, "--device", device, *teacher]
            command += [] if settings.data is None else ["--data", str(settings.data)]
            command += ["--broker", NO_BROKER, "--state", str(folder / f"state-{number}"), "--log-format", "json"]
            for program, arguments in (("torch", ["-c", BARE]), ("device", command)):
                figures = until_started(arguments)
                if number > 0:
                    measured[program].append(figures)
    medians = {
        program: {name: statistics.median(one[name] for one in runs) for name in runs[0]}
        for program, runs in measured.items()
    }
    return {
        "benchmark": "footprint",
        "task": task.name,
        "parameters": layout_of(task.student()).size,
        "runs": settings.runs,
        **medians,
        "cpu_ratio": statistics.median(
            device["cpu_seconds"] / bare["cpu_seconds"]
            for bare, device in zip(measured["torch"], measured["device"], strict=True)
        ),
    }


def _teacher(task: Task, path: Path) -> list[str]:
    """Flags that give `run` an untrained teacher: its weights change neither memory nor time."""
    if task.teacher is None:
        return []
    with seeded(0):
        teacher = task.teacher()
    layout = layout_of(teacher)
    write_model(path, ModelFile(task=task.name, layout=layout, weights=vector_of(teacher, layout), role="teacher"))
    return ["--teacher", str(path)]


def until_started(arguments: Sequence[str]) -> dict[str, float]:
    """Runs Python with these arguments until it prints the event `started`; returns what it has taken by then.

    Raises:
        TaskError: it ended before.
    """
    process = subprocess.Popen(
        [sys.executable, *arguments],
        env={name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        encoding="utf-8",
    )
    with process:
        try:
            assert process.stdout is not None
            for line in process.stdout:
                if json.loads(line)["event"] == "started":
                    watched = psutil.Process(process.pid)
                    spent = watched.cpu_times()
                    return {
                        "resident_megabytes": watched.memory_info().rss / 1e6,
                        "cpu_seconds": spent.user + spent.system,
                    }
            raise TaskError("the device ended before its first batch")
        finally:
            process.terminate()


def table(figures: dict[str, Any]) -> str:
    """The figures as text."""
    rows = {"import torch": figures["torch"], "device_client run": figures["device"]}
    lines = [f"{name:<18} {row['resident_megabytes']:>11.0f} {row['cpu_seconds']:>9.2f}" for name, row in rows.items()]
    return f"""\
task {figures["task"]}, student of {figures["parameters"]:,} parameters; before the first batch, medians of \
{figures["runs"]}
{"":<18} {"resident MB":>11} {"CPU s":>9}
{chr(10).join(lines)}
{figures["cpu_ratio"]:.2f} times the CPU time of a bare import (median of the ratios of each pair)"""
