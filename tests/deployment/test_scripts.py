"""The scripts of deployment/, run; commands of other images are stand-ins."""

import os
import re
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest

from tests.deployment.compose_file import (
    REPOSITORY,
    read_document,
    read_services,
)

DOCUMENT = read_document()
SERVICES = read_services()


@pytest.mark.parametrize("script", sorted((REPOSITORY / "deployment").glob("*.*")), ids=lambda path: path.name)
def test_scripts_get_the_variables_that_they_ask_for(script: Path) -> None:
    users = [service for service in SERVICES.values() if f"/deployment/{script.name}" in service.command]
    assert users
    text = script.read_text()
    own = set(re.findall(r"^\s*(?:export )?([A-Za-z_]+)=", text, re.MULTILINE)) | {"host", "device"}
    asked = set(re.findall(r"\$\{?([A-Za-z_]\w*)", text)) - own | set(re.findall(r"environ\[\"(\w+)\"\]", text))
    for service in users:
        assert asked <= set(service.environment), asked
        others = {name for name in service.environment if not name.startswith(("FEDKD_", "INFLUX_"))}
        assert others <= asked


def run_script(name: str, environment: Mapping[str, str], *arguments: str) -> subprocess.CompletedProcess[str]:
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    return subprocess.run(
        [sys.executable if name.endswith(".py") else "sh", REPOSITORY / "deployment" / name, *arguments],
        env={"PATH": path, **environment},
        capture_output=True,
        text=True,
        check=False,
    )


def contents(folder: Path) -> dict[str, tuple[int, bytes]]:
    return {
        str(path.relative_to(folder)): (path.stat().st_mode & 0o777, path.read_bytes())
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def test_setup_makes_every_secret_once_and_for_its_owner_only(tmp_path: Path) -> None:
    service = SERVICES["setup"]
    environment = {**service.environment, "SECRETS": str(tmp_path / "secrets")}
    (tmp_path / "secrets").mkdir(mode=0o700)
    done = run_script("make_secrets.py", environment)
    assert done.returncode == 0, done.stderr
    made = contents(tmp_path / "secrets")
    for name, how in DOCUMENT["secrets"].items():
        mode, data = made[how["file"].removeprefix("./secrets/")]
        assert data, name
        assert mode == 0o600 or name.endswith((".pem", ".pub")), name
    passwords = [data for name, (_, data) in made.items() if name.startswith("passwords/")]
    assert len(set(passwords)) == len(passwords) == 3
    for _, data in made.values():
        for password in passwords:
            assert password.strip().decode() not in done.stdout
        assert data != b"\n"

    # Somebody lost one of them; the rest is not touched.
    (tmp_path / "secrets" / "passwords" / "grafana-admin").unlink()
    assert run_script("make_secrets.py", environment).returncode == 0
    again = contents(tmp_path / "secrets")
    assert set(again) == set(made)
    assert {name for name in made if again[name] != made[name]} == {"passwords/grafana-admin"}


def test_make_once(tmp_path: Path) -> None:
    file = tmp_path / "made"
    assert run_script("make-once.sh", {}, str(file), "cp", "/dev/null", str(file)).returncode == 0
    assert file.is_file()
    assert run_script("make-once.sh", {}, str(file), "false").returncode == 0
    assert run_script("make-once.sh", {}, str(tmp_path / "not"), "false").returncode == 1


INFLUX = """#!/bin/sh
# Stands for the influx command of InfluxDB 2, which no package here has: its words as its manual gives them.
echo "$@" >> "$CALLS"
[ "$INFLUX_TOKEN" = "the token" ] || { echo "Error: unauthorized access" >&2; exit 1; }
if [ -s "$NOT_YET" ]; then # so often it has no bucket yet
    sed -i '$d' "$NOT_YET"
    [ "$(wc -l < "$NOT_YET")" -gt 1 ] && { echo 'Error: bucket "fedkd" not found' >&2; exit 1; }
    exit 0
fi
case "$1 $2 $3" in
    "bucket list --name") printf 'b1\\tfedkd\\t2160h0m0s\\n' ;;
    "v1 dbrp list") cat "$MAPPINGS" ;;
    "v1 dbrp create") echo "m1 fedkd b1 autogen true" > "$MAPPINGS" ;;
    "auth create "*) printf '{\\n\\t"id": "a1",\\n\\t"token": "made for %s",\\n\\t"status": "active"\\n}\\n' "$3" ;;
    *) exit 1 ;;
esac
"""


def test_influxdb_setup_makes_a_mapping_and_two_tokens_once(tmp_path: Path) -> None:
    """Its logic only; the command that it calls is a stand-in."""
    influx = tmp_path / "influx"
    influx.write_text(INFLUX)
    influx.chmod(0o755)
    (tmp_path / "mappings").touch()
    (tmp_path / "tokens").mkdir()
    (tmp_path / "admin").write_text("the token\n")
    environment = {
        **SERVICES["influxdb-setup"].environment,
        "INFLUX_TOKEN_FILE": str(tmp_path / "admin"),
        "TOKENS": str(tmp_path / "tokens"),
        "CALLS": str(tmp_path / "calls"),
        "MAPPINGS": str(tmp_path / "mappings"),
        "NOT_YET": str(tmp_path / "not yet"),
        "PATH": f"{tmp_path}:{os.environ['PATH']}",
    }
    (tmp_path / "not yet").write_text("error\nerror\nempty\n")
    assert run_script("influxdb-setup.sh", environment).returncode == 0
    assert (tmp_path / "calls").read_text().splitlines()[:4] == ["bucket list --name fedkd --hide-headers"] * 4
    tokens = contents(tmp_path / "tokens")
    assert tokens == {
        "read": (0o600, b"made for --read-bucket\n"),
        "write": (0o600, b"made for --write-bucket\n"),
    }
    calls = (tmp_path / "calls").read_text().splitlines()
    assert "v1 dbrp create --bucket-id b1 --db fedkd --rp autogen --default" in calls

    assert run_script("influxdb-setup.sh", environment).returncode == 0
    assert contents(tmp_path / "tokens") == tokens
    assert not any("create" in call for call in (tmp_path / "calls").read_text().splitlines()[len(calls) :])

    # A wrong token: nothing is made, and the services behind it do not start.
    (tmp_path / "admin").write_text("another\n")
    (tmp_path / "tokens" / "read").unlink()
    refused = run_script("influxdb-setup.sh", {**environment, "WAIT_SECONDS": "0"})
    assert refused.returncode != 0
    assert refused.stderr == (
        "influxdb-setup: http://influxdb:8086 has no bucket fedkd for this token: Error: unauthorized access\n"
    )
    assert set(contents(tmp_path / "tokens")) == {"write"}
