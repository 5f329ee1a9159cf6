"""compose.yaml for the runner and the images that this machine has.

`docker compose` (version 2) reads the file as it is. docker-compose 1.29, the newest that Debian 12 has, rejects four
keys; what each asks for is done in another way, or is not needed here. Beside that, services without an image are left
out, and a few settings are shortened so that the tests see in seconds what otherwise takes minutes.
"""

import shutil
import subprocess
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import yaml

from tests.deployment.compose_file import COMPOSE, REPOSITORY

UNKNOWN_TO_1_29 = {
    "name": "the name of the project; given as `--project-name`",
    "pull_policy": "builds our images before each start; `make test-containers` builds them once, before the tests",
    "start_interval": "checks more often while a service starts; becomes `interval`, 10 s where a check starts Python",
    "create_host_path": "`false` refuses a bind mount whose folder is missing; the tests make that folder",
}
"""Keys of compose.yaml that docker-compose 1.29 rejects: what each asks for, and what is done instead."""

SHORTENED: Mapping[str, Mapping[str, str]] = {
    "aggregator": {"FEDKD_VERSION_SECONDS": "2", "FEDKD_AGE_SECONDS_MAX": "15"},
    "evaluator": {"FEDKD_AGE_SECONDS_MAX": "15"},
    "person-": {"FEDKD_AGE_SECONDS_MAX": "15"},
}
"""Environment that the tests add, by how a service's name begins."""


def runner() -> list[str] | None:
    """The command of whichever compose there is, version 2 before 1.29; None: neither."""
    if shutil.which("docker"):
        done = subprocess.run(["docker", "compose", "version"], capture_output=True, check=False)
        if done.returncode == 0:
            return ["docker", "compose"]
    return ["docker-compose"] if shutil.which("docker-compose") else None


def adapted(document: Mapping[str, Any], *, known: bool, without: Collection[str]) -> dict[str, Any]:
    """compose.yaml's content as the tests run it.

    Args:
        document: as read, variables not filled in.
        known: whether the runner knows the keys of UNKNOWN_TO_1_29.
        without: services that have no image here, and on which no other one depends.
    """
    copy = {key: value for key, value in document.items() if not key.startswith("x-")}
    copy["services"] = {
        name: {**service, "environment": {**service.get("environment", {}), **_shortened(name)}}
        for name, service in document["services"].items()
        if name not in without
    }
    copied: dict[str, Any] = copy if known else _for_1_29(copy)
    return copied


def _shortened(service: str) -> Mapping[str, str]:
    return next((values for start, values in SHORTENED.items() if service.startswith(start)), {})


def _for_1_29(value: Any) -> Any:
    """`value` without the keys that docker-compose 1.29 rejects."""
    if isinstance(value, dict):
        kept = {key: _for_1_29(one) for key, one in value.items() if key not in UNKNOWN_TO_1_29}
        if "start_interval" in value:
            kept["interval"] = "10s" if "python" in value["test"] else value["start_interval"]
        return kept
    return [_for_1_29(one) for one in value] if isinstance(value, list) else value


def write_copy(folder: Path, *, known: bool, without: Collection[str]) -> None:
    """Copies into `folder` what compose needs of a clone: the adapted file, and all that it mounts or builds from.

    secrets/ and .env are not copied: tests must not touch those of the clone.
    """
    document = adapted(yaml.safe_load(COMPOSE.read_text()), known=known, without=without)
    given = [line[1:] for line in (REPOSITORY / ".dockerignore").read_text().splitlines() if line.startswith("!")]
    for name in ("Dockerfile", ".dockerignore", "deployment", "broker_config", "grafana", *given):
        source = REPOSITORY / name
        if source.is_dir():
            shutil.copytree(source, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(source, folder / name)
    (folder / "compose.yaml").write_text(yaml.safe_dump(document, sort_keys=False))
