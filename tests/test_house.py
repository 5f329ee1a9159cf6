"""The rules of the house that no type checker sees."""

import ast
import importlib
import json
import re
import subprocess
import sys
import tomllib
from collections import Counter
from pathlib import Path

import pytest

from tests.import_graph import chain_outside, modules

HOUSE = Path(__file__).parents[1]
PYPROJECT = tomllib.loads((HOUSE / "pyproject.toml").read_text())
PACKAGES: list[str] = PYPROJECT["tool"]["setuptools"]["packages"]
IMPORT = re.compile(r"^\s*(?:from|import)\s+([\w.]+)", re.MULTILINE)


def sources(*packages: str) -> list[Path]:
    found = [path for package in packages for path in sorted((HOUSE / package).rglob("*.py"))]
    assert found
    return found


def imported_by(path: Path) -> set[str]:
    return {name.split(".")[0] for name in IMPORT.findall(path.read_text())}


@pytest.mark.parametrize(
    "package", ["wire_contract", "aggregator", "device_client", "operations", "simulators", "benchmarks"]
)
def test_each_package_is_imported_from_here(package: str) -> None:
    assert package in PACKAGES
    origin = importlib.import_module(package).__file__
    assert origin is not None
    assert Path(origin).is_relative_to(HOUSE), "the names are generic: another distribution has one of them too"


def test_every_package_is_listed_and_no_tests_are_shipped() -> None:
    folders = {
        str(init.parent.relative_to(HOUSE)).replace("/", ".")
        for name in {package.split(".")[0] for package in PACKAGES}
        for init in (HOUSE / name).rglob("__init__.py")
    }
    assert folders == set(PACKAGES)
    assert not any(package.split(".")[0] in {"tests", "examples", "docs"} for package in PACKAGES)


LINES_MAX, MODULES_MAX = 350, 14
"""Of a module, and side by side in a folder; `__init__.py` and `__main__.py` are not counted."""


def every_module() -> list[Path]:
    """Tests, examples and scripts as well."""
    packages = {package.split(".")[0] for package in PACKAGES}
    return sources(*packages, "grafana", "tests", "examples", "deployment")


def test_no_module_is_too_long() -> None:
    lines = {str(path.relative_to(HOUSE)): len(path.read_text().splitlines()) for path in every_module()}
    assert {name: count for name, count in lines.items() if count > LINES_MAX} == {}, "split it by idea"


def test_no_folder_has_too_many_modules() -> None:
    counted = (path for path in every_module() if path.name not in {"__init__.py", "__main__.py"})
    modules = Counter(str(path.parent.relative_to(HOUSE)) for path in counted)
    assert {name: count for name, count in modules.items() if count > MODULES_MAX} == {}, "group it by idea"


def test_one_module_speaks_to_paho() -> None:
    speakers = [path for path in sources(*{name.split(".")[0] for name in PACKAGES}) if "paho" in imported_by(path)]
    assert speakers == [HOUSE / "wire_contract" / "link" / "mqtt.py"]


def test_nothing_is_pickled_on_any_wire() -> None:
    for path in sources("wire_contract", "aggregator"):
        assert not imported_by(path) & {"pickle", "marshal", "shelve", "dill", "joblib"}, path


def test_sql_parameters_are_not_numbered() -> None:
    """Python 3.12.0 to 3.12.3 warn about `?1` with a sequence of values, and warnings are errors in the tests."""
    for path in sources(*{name.split(".")[0] for name in PACKAGES}):
        text = path.read_text()
        if ".execute" in text:
            assert not re.search(r"[^(]\?\d", text), path


RENAMES = {
    "wire_contract/files/atomic_write.py": "all of them",
    "aggregator/ledger/backup.py": "the ledger that is replaced gets another name, beside the new one",
}


def test_files_are_locked_flushed_and_renamed_in_one_place() -> None:
    """Use `write_atomically` and `FileLock`: what survives a failure is then the same everywhere."""
    elsewhere = []
    for path in sources(*{name.split(".")[0] for name in PACKAGES}):
        name = str(path.relative_to(HOUSE))
        for call in (node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Call)):
            match call.func:
                case ast.Attribute(attr="fsync" | "flock" | "mkstemp" | "NamedTemporaryFile"):
                    is_ours = name in {"wire_contract/files/atomic_write.py", "wire_contract/files/file_lock.py"}
                case ast.Attribute(attr="rename"):
                    is_ours = name in RENAMES
                case ast.Attribute(attr="replace", value=value):  # of strings it has two arguments, of values keywords
                    is_rename = (len(call.args), call.keywords) == (1, []) or ast.unparse(value) == "os"
                    is_ours = not is_rename or name in RENAMES
                case _:
                    continue
            if not is_ours:
                elsewhere.append(f"{name}:{call.lineno}: {ast.unparse(call)}")
    assert not elsewhere, elsewhere


SHELLS = (
    # wire_contract
    *(f"wire_contract.{name}" for name in ("files", "link", "program", "transport")),
    *(f"wire_contract.{name}" for name in ("settings", "signatures.key_files")),
    # aggregator
    *(f"aggregator.{name}" for name in ("__main__", "ledger", "lines", "metrics_file", "reporting")),
    *(f"aggregator.{name}" for name in ("service", "settings")),
    *(f"aggregator.enrolment.{name}" for name in ("authority", "commands", "durable_files", "settings")),
    *(f"aggregator.publishing.{name}" for name in ("inspection", "ownership", "publication", "startup")),
    *(f"aggregator.telemetry.{name}" for name in ("assembly", "broker_watch", "collecting", "influx", "proxies")),
    *(f"aggregator.telemetry.{name}" for name in ("sending", "settings", "spool", "summary")),
    # device_client
    *(f"device_client.{name}" for name in ("__main__", "commands", "evaluator", "events", "export", "model_files")),
    *(f"device_client.{name}" for name in ("freed_memory", "runner", "settings", "stop_signals", "training_schedule")),
    "device_client.slow_work",
    "device_client.starts.writing",
    "device_client.trial",
    *(f"device_client.data.{name}" for name in ("images", "stored", "time_series", "wfdb_windows", "windows")),
    *(f"device_client.data.dicom.{name}" for name in ("decoding", "folder", "header", "reading")),
    "device_client.onnx_inference.settings",
    *(f"device_client.downlink.{name}" for name in ("model_feed", "no_model_warning", "receiver")),
    *(
        f"device_client.learning.{name}"
        for name in ("asyncfedkd", "fedkd", "local_teacher", "seeding", "statistics.home")
    ),
    "device_client.learning.student_trainer",
    *(f"device_client.policy.{name}" for name in ("gate", "probe")),
    *(f"device_client.tasks.{name}" for name in ("checking", "ecg", "ecg_beats", "loading")),
    *(f"device_client.tasks.{name}" for name in ("mammography.films", "physiotherapy", "trial")),
    *(f"device_client.uplink.{name}" for name in ("missing_receipts", "outbox", "outbox_errors", "outbox_schema")),
    *(f"device_client.uplink.{name}" for name in ("other_lines", "uploader", "write_retry")),
    # the virtual world
    "simulators.world.local_trainers",
)
"""The modules, and folders of modules, that do something: they touch the clock, the disk, the network or threads. Every
other module of these packages decides, and is given what it needs as arguments."""
DECIDING = ("wire_contract", "aggregator", "device_client", "simulators.world")
DECIDING_IN_SHELLS = frozenset(
    {
        "wire_contract.link.mqtt_rules",
        "wire_contract.link.protocol",
        "wire_contract.program.plain_text",
    }
)


def is_shell(module: str) -> bool:
    return module not in DECIDING_IN_SHELLS and any(f"{module}.".startswith(f"{shell}.") for shell in SHELLS)


def test_what_decides_reads_no_clock_no_chance_and_no_socket() -> None:
    """By whatever it imports, directly or not. So it can run in virtual time, and be tested without waiting."""
    ours = modules(*dict.fromkeys(package.split(".")[0] for package in PACKAGES))
    chains = [
        " → ".join(chain)
        for module in ours
        if f"{module}.".startswith(tuple(f"{package}." for package in DECIDING)) and not is_shell(module)
        if (chain := chain_outside(module, ours))
    ]
    assert not chains, (
        "these modules decide, but reach the outside world:\n  "
        + "\n  ".join(chains)
        + "\nGive them the clock, the random source or the connection as an argument, and import from modules that "
        "decide only. If a module is meant to do something rather than decide, list it in SHELLS."
    )


def test_every_shell_is_there_and_reaches_the_outside_world() -> None:
    ours = modules(*dict.fromkeys(package.split(".")[0] for package in PACKAGES))
    for shell in SHELLS:
        within = [module for module in ours if f"{module}.".startswith(f"{shell}.")]
        assert any(chain_outside(module, ours) for module in within), f"{shell} is gone, or decides: not in SHELLS then"
    assert set(ours) >= DECIDING_IN_SHELLS


def test_a_chain_names_each_module_on_the_way(tmp_path: Path) -> None:
    """And follows imports inside functions, of packages, and of names; not those for type checkers."""
    sources = {
        "core": "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import socket\nfrom middle import deep",
        "middle": "",
        "middle.deep": "def late():\n    import sqlite3",
        "dated": "from datetime import datetime\ndef now(): return datetime.now()",
        "given": "from datetime import datetime\nimport numpy as np\ndef at(unix): return datetime.fromtimestamp(unix)",
        "drawn": "import numpy as np\nchance = np.random.default_rng()",
        "seeded": "import numpy as np\nchance = np.random.default_rng(7)",
    }
    ours = {}
    for name, source in sources.items():
        ours[name] = tmp_path / f"{name}.py"
        ours[name].write_text(source)
    assert chain_outside("core", ours) == ["core", "middle.deep", "sqlite3 (the disk or the system)"]
    assert chain_outside("dated", ours) == ["dated", "time (the clock)"]
    assert chain_outside("drawn", ours) == ["drawn", "random (a random source)"]
    assert chain_outside("given", ours) == chain_outside("seeded", ours) == ()


@pytest.mark.parametrize("module", ["aggregator.__main__", "wire_contract.link.mqtt", "wire_contract.codec"])
def test_the_aggregator_and_the_contract_know_no_torch(module: str) -> None:
    code = f"import sys, json, {module}; print(json.dumps(sorted(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], cwd=HOUSE, capture_output=True, text=True, check=True)
    loaded = {name.split(".")[0] for name in json.loads(done.stdout)}
    assert not loaded & {"torch", "device_client", "operations", "simulators", "benchmarks"}
    if module.startswith("wire_contract"):
        assert not loaded & {"aggregator", "sqlite3"}
