"""Memory and CPU time that a device takes up to its first batch, beside a bare `import torch`.

Both are programs of their own, run in turn. `device_client run` is measured when it emits `started`: by then it has
loaded its data and its teacher, and has trained one batch (`StudentTrainer.warm_up`). There is no broker.

A first start of each is not counted: it writes the bytecode of modules, which an installed program has from the
beginning, and unpacks the data.

Beside them, once: the peak of `export`, and of `evaluate --onnx` on what it has written, which does without torch.
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

import numpy as np
import psutil
from torch import Tensor

from benchmarks.settings import FootprintSettings
from device_client.learning.parameters import layout_of, vector_of
from device_client.learning.seeding import seeded
from device_client.model_files import ModelFile, write_model
from device_client.task import Examples, Task, TaskError
from device_client.tasks.loading import load_task
from wire_contract.program.command_settings import UsageError

NO_BROKER = "mqtt://127.0.0.1:9"
"""Port 9 (discard): refuses connections at once."""
BARE = (
    'import sys, torch; torch.set_num_threads(1); print("{\\"event\\": \\"started\\"}", flush=True); sys.stdin.read()'
)
PEAK = """
import sys, time
from device_client.__main__ import main
code = main(sys.argv[1:])
with open("/proc/self/status") as status:
    peak = next(int(line.split()[1]) for line in status if line.startswith("VmHWM"))
print(peak * 1024 / 1e6, time.process_time())
sys.exit(code)
"""
"""A command of the device that says at its end how much memory it had at most, and its CPU time."""


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
        exported = _exported(task, settings, folder)
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
        **exported,
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


def _exported(task: Task, settings: FootprintSettings, folder: Path) -> dict[str, dict[str, float]]:
    """The peaks of `export` and of `evaluate --onnx` on the held-out examples; without the latter if they cannot be
    given in one file.
    """
    layout = layout_of(task.student(), task.recipe.statistics)
    with seeded(0):
        weights = vector_of(task.student(), layout)
    write_model(folder / "student", ModelFile(task=task.name, layout=layout, weights=weights, role="initial-model"))
    data = [] if settings.data is None else ["--data", str(settings.data)]
    export = ["export", "--task", settings.task, *data, "--model", str(folder / "student"), "--out", str(folder)]
    found = {"export": at_most(export)}
    held_out = task.held_out()
    if isinstance(held_out, Examples) and isinstance(held_out.inputs, Tensor) and isinstance(held_out.targets, Tensor):
        np.savez(folder / "held-out.npz", inputs=held_out.inputs.numpy(), targets=held_out.targets.numpy())
        onnx = str(folder / "model.onnx")
        found["evaluate_onnx"] = at_most(["evaluate", "--onnx", onnx, "--inputs", str(folder / "held-out.npz")])
    return found


def at_most(arguments: Sequence[str]) -> dict[str, float]:
    """Runs a command of the device to its end; returns its peak.

    Raises:
        TaskError: it failed.
    """
    command = [sys.executable, "-c", PEAK, *arguments]
    done = subprocess.run(command, env=_environment(), capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise TaskError(f"device {arguments[0]} failed: {done.stderr.strip()}")
    megabytes, seconds = done.stdout.splitlines()[-1].split()
    return {"resident_megabytes": float(megabytes), "cpu_seconds": float(seconds)}


def _environment() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}


def until_started(arguments: Sequence[str]) -> dict[str, float]:
    """Runs Python with these arguments until it prints the event `started`; returns what it has taken by then.

    Raises:
        TaskError: it ended before.
    """
    process = subprocess.Popen(
        [sys.executable, *arguments],
        env=_environment(),
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
    rows = {
        "import torch": "torch",
        "device run": "device",
        "export, peak": "export",
        "evaluate --onnx, peak": "evaluate_onnx",
    }
    lines = [
        f"{name:<21} {figures[key]['resident_megabytes']:>11.0f} {figures[key]['cpu_seconds']:>9.2f}"
        for name, key in rows.items()
        if key in figures
    ]
    return f"""\
task {figures["task"]}, student of {figures["parameters"]:,} parameters; the first two before the first batch, \
medians of {figures["runs"]}
{"":<21} {"resident MB":>11} {"CPU s":>9}
{chr(10).join(lines)}
device run: {figures["cpu_ratio"]:.2f} times the CPU time of a bare import (median of the ratios of each pair)"""
