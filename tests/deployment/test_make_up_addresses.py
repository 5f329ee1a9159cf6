"""What `make up` prints, with a `docker` that only says what Docker would."""

import os
import stat
import subprocess
from pathlib import Path

HOUSE = Path(__file__).parents[2]
DOCKER = """#!/bin/sh
case "$*" in
  "compose port grafana 3000") echo 127.0.0.1:3000 ;;
  "compose port broker 8883") echo 0.0.0.0:8883; echo '[::]:8883' ;;
  "compose port broker 8084") echo '[::]:8084' ;;
esac
"""


def test_the_addresses_can_be_connected_to(tmp_path: Path) -> None:
    """A port that is open to all is 0.0.0.0 to Docker, where nobody can connect on every system."""
    docker = tmp_path / "docker"
    docker.write_text(DOCKER)
    docker.chmod(docker.stat().st_mode | stat.S_IXUSR)
    (tmp_path / "secrets").mkdir()
    said = subprocess.run(
        ["make", "--file", str(HOUSE / "Makefile"), "up"],
        cwd=tmp_path,
        env=os.environ | {"PATH": f"{tmp_path}:{os.environ['PATH']}"},
        check=True,
        capture_output=True,
        text=True,
    ).stdout
    assert "http://127.0.0.1:3000 " in said
    assert "mqtts://localhost:8883 " in said
    assert "wss://localhost:8084 " in said
    assert "0.0.0.0" not in said
