"""The Dockerfile, as far as reading it goes; tests/containers builds it."""

import json
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from device_client.tasks import physiotherapy
from tests.deployment.compose_file import (
    DOCKERFILE,
    PINNED,
    REPOSITORY,
    TARGETS,
    Stage,
    read_stages,
)

STAGES = read_stages()
PYPROJECT = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())
every_stage = pytest.mark.parametrize("stage", STAGES.values(), ids=STAGES)


def test_hadolint_has_nothing_to_say() -> None:
    linter = Path(sys.executable).with_name("hadolint")
    done = subprocess.run([linter, "--failure-threshold", "warning", DOCKERFILE], capture_output=True, text=True)  # noqa: PLW1510
    assert done.returncode == 0, done.stdout


def test_targets_that_run_are_not_root_and_have_no_tools() -> None:
    (image,) = re.findall(r"^ARG PYTHON_IMAGE=(\S+)", DOCKERFILE.read_text(), re.MULTILINE)
    assert PINNED.fullmatch(image)
    assert image.startswith("python:3.11.")
    assert "slim" in image
    for target in TARGETS:
        stage = STAGES[target]
        assert stage.base == "base"
        assert stage.all("USER")[-1] == "${UID}:${GID}"
        assert {"UID=1000", "GID=1000"} <= set(stage.all("ARG")), "a stage sees only its own"
        assert json.loads(stage.all("ENTRYPOINT")[-1])[:2] == ["python", "-m"]
    assert "pip uninstall" in " ".join(STAGES["base"].all("RUN"))


@every_stage
def test_what_a_stage_copies_exists(stage: Stage) -> None:
    for text in stage.all("COPY"):
        if text.startswith("--from="):
            assert text.split()[0].removeprefix("--from=") in STAGES
        else:
            for source in text.split()[:-1]:
                assert (REPOSITORY / source).exists()


def test_what_is_installed_is_what_the_project_says() -> None:
    runs = " ".join(text for stage in STAGES.values() for text in stage.all("RUN"))
    optional = PYPROJECT["project"]["optional-dependencies"]
    extras = re.findall(r"pip install '?\.\[(\w+)\]", runs)
    assert set(extras) == {"device", "simulators"}
    assert set(extras) <= set(optional)
    (torch,) = re.findall(r"torch==\S+", runs)
    assert torch in optional["device"]
    assert physiotherapy.REQUIREMENT in runs


def test_what_lies_beside_the_code_is_installed_with_it() -> None:
    """Images install the packages; a developer's editable install would not miss a file."""
    patterns = PYPROJECT["tool"]["setuptools"]["package-data"]["*"]
    for package in PYPROJECT["tool"]["setuptools"]["packages"]:
        for file in (REPOSITORY / package.replace(".", "/")).iterdir():
            if file.is_file() and file.suffix != ".py":
                assert any(file.match(pattern) for pattern in patterns), file


def test_the_builder_is_given_packages_and_no_secrets() -> None:
    lines = (REPOSITORY / ".dockerignore").read_text().splitlines()
    given = {line[1:] for line in lines if line.startswith("!")}
    assert "*" in lines
    packages = {name.split(".")[0] for name in PYPROJECT["tool"]["setuptools"]["packages"]}
    metadata = {"pyproject.toml", PYPROJECT["project"]["readme"], *PYPROJECT["project"]["license-files"]}
    assert given == packages | metadata


def test_git_and_the_builder_never_see_the_secrets() -> None:
    ignored = (REPOSITORY / ".gitignore").read_text().splitlines()
    assert {"/secrets/", "/.env"} <= set(ignored)
