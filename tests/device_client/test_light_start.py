"""A device on a gateway imports what it uses: `run` up to and with its first batch, as a real program."""

import json
import signal
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

from benchmarks.footprint import NO_BROKER
from tests.documents import HOUSE

FORBIDDEN = (
    # torch's compiler and exporters; creating any optimiser of torch.optim imports the first three
    "torch._dynamo",
    "torch.onnx",
    "sympy",
    "torch._inductor",
    "onnx",
    "onnxruntime",
    "onnxscript",
    "functorch",
    "networkx",
    # parts of torch that only several computers need; `import torch` itself imports a few of them
    "torch.distributed",
    # what other programs of the project need
    "aggregator",
    "benchmarks",
    "influxdb_client",
    "matplotlib",
    "operations",
    "pandas",
    "rich",
    "safetensors.torch",
    "scipy",
    "simulators",
    # commands of the device that are not running
    "device_client.commands.evaluate",
    "device_client.commands.export",
    "device_client.evaluator",
    "device_client.export",
    # used only with keys
    "cryptography",
    # `np.unique` imports it
    "numpy.ma",
    # reading environment variables takes no library
    "pydantic_settings",
)
FORBIDDEN_FOR_HEALTH = (
    # called every few seconds; it reads one small file
    "asyncio",
    "device_client.commands",
    "device_client.settings",
    "numpy",
    "paho",
    "ssl",
    "torch",
    "wire_contract.codec",
    "wire_contract.settings",
)
PROGRAM = """
import json, sys
from device_client.__main__ import main
code = main(sys.argv[1:])
print(json.dumps(sorted(sys.modules)))
sys.exit(code)
"""
TASK = """
import numpy as np
import torch
from device_client.task import Examples, Task

class Student(torch.nn.Linear):
    def forward(self, inputs):
        if torch.is_grad_enabled() and self.training:
            print('{"event": "batch"}', flush=True)
        return super().forward(inputs)

def task():
    examples = Examples.of(np.random.default_rng(0).standard_normal((40, 6)), np.arange(40) % 3)
    return Task(
        name="small",
        classes=("a", "b", "c"),
        student=lambda: Student(6, 3),
        device_data=lambda device: examples,
        held_out=lambda: examples,
    )
"""


@cache
def modules_of_bare_torch() -> frozenset[str]:
    code = "import json, sys, torch; print(json.dumps(sorted(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], cwd=HOUSE, capture_output=True, text=True, check=True)
    return frozenset(json.loads(done.stdout))


def modules_of_a_start(tmp_path: Path, *, before: str = "") -> set[str]:
    """The modules that a device has beyond those of `import torch` once it has trained a batch and was stopped."""
    (tmp_path / "small.py").write_text(TASK)
    flags = ["--task", f"{tmp_path / 'small.py'}:task", "--device", "watch-1", "--state", str(tmp_path / "state")]
    flags += ["--broker", NO_BROKER, "--log-format", "json"]
    process = subprocess.Popen(
        [sys.executable, "-c", before + PROGRAM, "run", *flags], cwd=HOUSE, stdout=subprocess.PIPE, text=True
    )
    with process:
        assert process.stdout is not None
        seen = []
        for line in process.stdout:
            seen.append(json.loads(line)["event"])
            if seen[-1] == "started":
                break
        process.send_signal(signal.SIGTERM)
        *_, last = process.stdout
    assert process.returncode == 0
    assert seen == ["batch", "started"]
    return set(json.loads(last)) - modules_of_bare_torch()


def forbidden_among(modules: set[str], forbidden: tuple[str, ...] = FORBIDDEN) -> list[str]:
    return [name for name in forbidden if any(module == name or module.startswith(f"{name}.") for module in modules)]


def how_to_mend(found: list[str]) -> str:
    return (
        f"{', '.join(found)}: imported at the start, where a small gateway pays for it with memory and time. Import it "
        "in the function that uses it (# noqa: PLC0415 — and why). Who imports it: python -X importtime -m "
        "device_client … 2>&1 | grep -A30 NAME; the importing modules come after it, less indented"
    )


def test_a_device_imports_nothing_that_training_does_not_use(tmp_path: Path) -> None:
    found = forbidden_among(modules_of_a_start(tmp_path))
    assert found == [], how_to_mend(found)


def test_health_imports_next_to_nothing() -> None:
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, "health", "--health-file", "/nowhere"],
        cwd=HOUSE,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    found = forbidden_among(set(json.loads(done.stdout)), FORBIDDEN_FOR_HEALTH)
    assert found == [], how_to_mend(found)


@pytest.mark.parametrize("name", ["sympy", "torch._dynamo"])
def test_an_import_that_is_not_needed_is_found(tmp_path: Path, name: str) -> None:
    assert name in forbidden_among(modules_of_a_start(tmp_path, before=f"import {name}"))
