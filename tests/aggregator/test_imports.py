"""The model line decides without a database: the virtual world loads it, on any platform, in every process."""

import subprocess
import sys

import pytest


@pytest.mark.parametrize("module", ["aggregator.model_line", "aggregator.admission", "aggregator.merging.rules"])
def test_it_loads_neither_a_database_nor_file_locks(module: str) -> None:
    found = subprocess.run(
        [sys.executable, "-c", f"import sys, {module}; print(*sys.modules)"], capture_output=True, text=True, check=True
    )
    assert module in found.stdout.split()
    assert not {"sqlite3", "_sqlite3", "fcntl", "torch", "paho"} & set(found.stdout.split())
