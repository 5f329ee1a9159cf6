"""The rules of the house that no type checker sees."""

import ast
import importlib
import json
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

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


def test_one_module_speaks_to_paho() -> None:
    speakers = [path for path in sources(*{name.split(".")[0] for name in PACKAGES}) if "paho" in imported_by(path)]
    assert speakers == [HOUSE / "wire_contract" / "link" / "mqtt.py"]


def test_nothing_is_pickled_on_any_wire() -> None:
    for path in sources("wire_contract", "aggregator"):
        assert not imported_by(path) & {"pickle", "marshal", "shelve", "dill", "joblib"}, path


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


def test_what_decides_reads_no_clock_no_chance_and_no_socket() -> None:
    core = [f"aggregator/{name}" for name in ("admission", "model_line", "status")]
    core += [f"aggregator/merging/{name}" for name in ("fedbuff", "staleness", "peers")]
    core += [f"aggregator/telemetry/{name}" for name in ("schema", "lines", "participation", "condensing", "recording")]
    core += [f"wire_contract/{name}" for name in ("codec", "layout", "messages", "topics", "compression/rate_control")]
    core += [f"wire_contract/encoding/{name}" for name in ("__init__", "dense", "low_rank", "gap_coded", "heads")]
    core += [f"wire_contract/publication/{name}" for name in ("manifest", "deltas", "release")]
    core += [f"wire_contract/signatures/{name}" for name in ("envelope", "signing")]
    core += [f"device_client/downlink/{name}" for name in ("inbox", "delta_store", "chunk_store", "model_trust")]
    for name in core:
        found = imported_by(HOUSE / f"{name}.py") & {"time", "datetime", "random", "secrets", "socket", "threading"}
        assert not found, f"{name} imports {found}"


@pytest.mark.parametrize("module", ["aggregator.__main__", "wire_contract.link.mqtt", "wire_contract.codec"])
def test_the_aggregator_and_the_contract_know_no_torch(module: str) -> None:
    code = f"import sys, json, {module}; print(json.dumps(sorted(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], cwd=HOUSE, capture_output=True, text=True, check=True)
    loaded = {name.split(".")[0] for name in json.loads(done.stdout)}
    assert not loaded & {"torch", "device_client", "operations", "simulators", "benchmarks"}
    if module.startswith("wire_contract"):
        assert not loaded & {"aggregator", "sqlite3"}
