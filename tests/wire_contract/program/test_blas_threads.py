"""numpy's linear algebra keeps to the threads that a program allows."""

import subprocess
import sys
from pathlib import Path

import pytest
from threadpoolctl import threadpool_info, threadpool_limits

from wire_contract.program.blas_threads import limit_blas_threads

NOBODY = "mqtt://127.0.0.1:1"
PROGRAM = """
import numpy, threadpoolctl
from {package}.__main__ import main
threadpoolctl.threadpool_limits(2, user_api="blas")
main({arguments})
print({{one["num_threads"] for one in threadpoolctl.threadpool_info() if one["user_api"] == "blas"}})
"""


def blas_threads() -> set[int]:
    return {library["num_threads"] for library in threadpool_info() if library["user_api"] == "blas"}


def test_as_many_as_allowed() -> None:
    with threadpool_limits(2, user_api="blas"):  # and back to what it was, for the other tests
        assert blas_threads() == {2}
        limit_blas_threads(1)
        assert blas_threads() == {1}


@pytest.mark.parametrize(
    ("package", "arguments"),
    [
        ("aggregator", ["--task", "t", "--ledger", "ledger.sqlite3"]),  # which ends, as there is no initial model
        ("device_client", ["initial-model", "--task", "physiotherapy", "--out", "initial.safetensors"]),
    ],
)
def test_programs_allow_one(package: str, arguments: list[str], tmp_path: Path) -> None:
    broker = ["--broker", NOBODY] if package == "aggregator" else []
    code = PROGRAM.format(package=package, arguments=[*arguments, *broker])
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.stdout.strip().splitlines()[-1] == "{1}", done.stderr
