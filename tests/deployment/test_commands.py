"""The commands of compose.yaml and of the systemd units: our programs take them, with their flags and variables."""

import importlib
import os
import re
import subprocess
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import pytest

from asyncfedkd.programs import SUITE
from tests.broker.mosquitto import program
from tests.deployment.compose_file import (
    REPOSITORY,
    read_services,
)
from wire_contract.program.command_settings import CommandSettings, read_settings
from wire_contract.program.flags import ENVIRONMENT_PREFIX

SERVICES = read_services()
PYPROJECT = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())
UNITS = sorted((REPOSITORY / "deployment" / "systemd").iterdir())


def programs() -> Iterator[tuple[str, type[CommandSettings], Sequence[str], Mapping[str, str]]]:
    """What of our programs is started, with its flags and environment."""
    for service in SERVICES.values():
        words = list(service.command)
        if words[:2] == ["sh", "/deployment/make-once.sh"]:
            words = words[3:]
        if words[:2] == ["python", "-m"]:
            yield service.name, *_settings_of(words[2:]), service.environment
        check = list(service.healthcheck)
        if check[:2] == ["python", "-m"]:
            yield f"{service.name}'s health", *_settings_of(check[2:]), service.environment


def _settings_of(words: list[str]) -> tuple[type[CommandSettings], list[str]]:
    program = importlib.import_module(f"{words[0]}.__main__").PROGRAM
    command, flags = program.choose(words[1:])
    return program.commands[command].settings_class(), list(flags)


@pytest.mark.parametrize("case", list(programs()), ids=lambda case: case[0])
def test_every_command_is_one_that_the_program_takes(
    case: tuple[str, type[CommandSettings], Sequence[str], Mapping[str, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    name, settings, flags, environment = case
    for variable in [variable for variable in os.environ if variable.startswith(ENVIRONMENT_PREFIX)]:
        monkeypatch.delenv(variable)
    for variable, value in environment.items():
        monkeypatch.setenv(variable, value)
    read = read_settings(settings, flags, program="test")
    if not name.endswith("health"):
        known = {ENVIRONMENT_PREFIX + field.upper() for field in type(read).model_fields}
        assert {variable for variable in environment if variable.startswith(ENVIRONMENT_PREFIX)} <= known
        places = [mount.target for mount in SERVICES[name].mounts]
        for field in type(read).model_fields:
            for path in _paths(getattr(read, field)):
                assert path.is_absolute(), f"--{field}: below the read-only root"
                assert any(path.is_relative_to(place) for place in places), f"{path} is nowhere in the container"


def _paths(value: object) -> list[Path]:
    if isinstance(value, tuple | list):
        return [path for one in value for path in _paths(one)]
    return [value] if isinstance(value, Path) else []


def unit_lines(path: Path, name: str) -> list[str]:
    return [line.partition("=")[2] for line in path.read_text().splitlines() if line.startswith(f"{name}=")]


@pytest.mark.parametrize("unit", UNITS, ids=lambda path: path.name)
def test_a_unit_starts_a_command_that_there_is_with_flags_that_there_are(unit: Path) -> None:
    program, name, *words = unit_lines(unit, "ExecStart")[0].split()
    assert Path(program).name in PYPROJECT["project"]["scripts"]
    settings, flags = _settings_of([SUITE.programs[name].module.removesuffix(".__main__"), *words])
    assert not flags
    known = {ENVIRONMENT_PREFIX + field.upper() for field in settings.model_fields} | {"FEDKD_WHEEL_FOLDER"}
    given = {line.partition("=")[0] for line in unit_lines(unit, "Environment")}
    commented = set(re.findall(r"FEDKD_[A-Z_]+", unit.read_text()))
    assert given <= commented <= known
    assert "FEDKD_HEALTH_FILE" in given


@pytest.mark.parametrize("unit", UNITS, ids=lambda path: path.name)
def test_systemd_understands_a_unit(unit: Path, tmp_path: Path) -> None:
    there = tmp_path / unit.name.replace("@", "@watch-17")
    there.write_text(re.sub(r"(?m)^ExecStart=\S+", f"ExecStart={program('sh')}", unit.read_text()))
    done = subprocess.run(
        [program("systemd-analyze"), "verify", "--man=no", there], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
