"""`make up` and `make down`, with a `docker` that only writes down what it is asked."""

import os
import re
import shutil
import subprocess
from pathlib import Path

from tests.broker.mosquitto import program
from tests.deployment.compose_file import (
    REPOSITORY,
)


def make(tmp_path: Path, *words: str) -> subprocess.CompletedProcess[str]:
    """In a copy of what it needs, with a `docker` that only writes down what it is asked."""
    for name in ("Makefile", ".env.example"):
        shutil.copy(REPOSITORY / name, tmp_path / name)
    docker = tmp_path / "bin" / "docker"
    docker.parent.mkdir(exist_ok=True)
    if not docker.exists():
        docker.write_text(f'#!/bin/sh\necho "$@" >> {tmp_path}/calls\n')
        docker.chmod(0o755)
    path = f"{docker.parent}:/usr/bin:/bin"
    return subprocess.run(
        [program("make"), *words],
        cwd=tmp_path,
        env={"PATH": path},
        capture_output=True,
        text=True,
        check=False,
    )


def test_make_up_sets_up_first_and_make_down_keeps_the_volumes(tmp_path: Path) -> None:
    (tmp_path / ".env").write_text("FEDKD_HOST=fedkd.example.org\n")
    done = make(tmp_path, "up")
    assert done.returncode == 0, done.stderr
    calls = (tmp_path / "calls").read_text().splitlines()
    assert [call for call in calls if call.startswith("compose") and " up " in f"{call} "] == [
        "compose up --detach --build --wait"
    ]
    assert calls.index("compose run --rm --build setup") < calls.index("compose up --detach --build --wait")
    assert (tmp_path / "secrets").stat().st_mode & 0o777 == 0o700
    ids = dict(line.split("=") for line in (tmp_path / ".env").read_text().splitlines())
    assert ids["FEDKD_HOST"] == "fedkd.example.org"
    assert int(ids["FEDKD_UID"]) == (os.geteuid() or 10001)
    assert (tmp_path / "secrets").stat().st_uid == int(ids["FEDKD_UID"])
    (tmp_path / ".env").write_text("FEDKD_UID=7\nFEDKD_GID=7\n")
    assert make(tmp_path, "up", "FLEET=1").returncode == 0
    assert (tmp_path / ".env").read_text() == "FEDKD_UID=7\nFEDKD_GID=7\n", "it is the operator's"

    assert make(tmp_path, "down").returncode == 0
    assert make(tmp_path, "down", "VOLUMES=1").returncode == 0
    calls = (tmp_path / "calls").read_text().splitlines()
    assert "compose --profile fleet up --detach --build --wait" in calls
    assert calls[-1] == "compose --profile fleet down --volumes"
    assert "compose --profile fleet down" in calls


def test_make_up_without_docker_says_so_in_one_line(tmp_path: Path) -> None:
    docker = tmp_path / "bin" / "docker"
    docker.parent.mkdir()
    docker.write_text("#!/bin/sh\necho \"docker: 'compose' is not a docker command.\" >&2\nexit 1\n")
    docker.chmod(0o755)
    done = make(tmp_path, "up")
    assert done.returncode != 0
    said = [line for line in (done.stdout + done.stderr).splitlines() if not line.startswith("make")]
    assert len(said) == 1
    assert "docker compose" in said[0]
    assert not (tmp_path / "secrets").exists()


def test_make_help_lists_both() -> None:
    listed = subprocess.run([program("make"), "help"], cwd=REPOSITORY, capture_output=True, text=True, check=True)
    assert re.search(r"^  make up\s", listed.stdout, re.MULTILINE)
    assert re.search(r"^  make down\s", listed.stdout, re.MULTILINE)
