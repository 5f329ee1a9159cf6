"""compose.yaml, the Dockerfile and the scripts of deployment/, as far as reading them and running the scripts goes.

tests/e2e/test_compose.py starts what they describe.
"""

import importlib
import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import pytest
from pydantic_settings import BaseSettings

from asyncfedkd.programs import ROWS
from device_client.tasks import physiotherapy
from tests.broker.mosquitto import program
from tests.e2e.compose_file import (
    COMPOSE,
    DOCKERFILE,
    REPOSITORY,
    Mount,
    Service,
    Stage,
    read_document,
    read_services,
    read_stages,
)
from wire_contract.connection import read_settings
from wire_contract.flags import ENVIRONMENT_PREFIX

DOCUMENT = read_document()
SERVICES = read_services()
STAGES = read_stages()
PYPROJECT = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())
TARGETS = ("aggregator", "device", "simulators")
PINNED = re.compile(r"[\w./-]+:(\d+\.\d+\.\d+[\w.-]*)")

every_service = pytest.mark.parametrize("service", SERVICES.values(), ids=SERVICES)
every_stage = pytest.mark.parametrize("stage", STAGES.values(), ids=STAGES)


# -- the file as a whole ---------------------------------------------------------------------------------------------


def test_the_file_is_what_the_compose_specification_says() -> None:
    checker = Path(sys.executable).with_name("check-jsonschema")
    done = subprocess.run(
        [checker, "--builtin-schema", "vendor.compose-spec", COMPOSE], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout


def test_everything_that_is_named_is_declared_and_everything_declared_is_used() -> None:
    used: dict[str, set[str]] = {"networks": set(), "volumes": set(), "secrets": set()}
    for service in SERVICES.values():
        used["networks"] |= set(service.raw.get("networks", ()))
        used["volumes"] |= {mount.source for mount in service.mounts if mount.kind == "volume"}
        used["secrets"] |= {one if isinstance(one, str) else one["source"] for one in service.raw.get("secrets", ())}
        assert set(service.depends_on) <= set(SERVICES)
    for kind, names in used.items():
        assert names == set(DOCUMENT[kind]), kind


def test_every_variable_is_in_the_example_with_its_default() -> None:
    example = dict(re.findall(r"^#?(\w+)=(.*)$", (REPOSITORY / ".env.example").read_text(), re.MULTILINE))
    asked = dict(re.findall(r"\$\{(\w+)(?::-([^}]*))?\}", COMPOSE.read_text()))
    assert set(example) == set(asked)
    assert {name: asked[name] or example[name] for name in asked} == example


# -- each service ----------------------------------------------------------------------------------------------------


@every_service
def test_no_service_is_root_or_could_become_it(service: Service) -> None:
    user, group = service.raw["user"].split(":")
    assert int(user) > 0
    assert int(group) > 0
    assert service.raw["read_only"] is True
    assert service.raw["cap_drop"] == ["ALL"]
    assert "cap_add" not in service.raw
    assert service.raw["security_opt"] == ["no-new-privileges:true"]
    assert not service.raw.get("privileged")


@every_service
def test_every_service_has_bounds(service: Service) -> None:
    assert service.raw["mem_limit"]
    assert service.raw["pids_limit"]
    assert service.raw["logging"]["options"]["max-size"]
    assert service.raw["restart"] in {"no", "unless-stopped"}


@every_service
def test_images_are_pinned(service: Service) -> None:
    assert PINNED.fullmatch(service.raw["image"]), service.raw["image"]
    if service.target is not None:
        assert service.target in TARGETS
        assert service.raw["image"] == f"asyncfedkd/{service.target}:{PYPROJECT['project']['version']}"


def test_the_aggregator_has_no_torch() -> None:
    assert SERVICES["aggregator"].target == "aggregator"
    installed = [text for text in STAGES["build-aggregator"].all("RUN") if "pip install" in text]
    assert installed
    assert not any("torch" in text or "device" in text for text in installed)
    assert not any("torch" in requirement for requirement in PYPROJECT["project"]["dependencies"])


@every_service
def test_what_it_mounts_is_in_the_repository_or_made_by_setup(service: Service) -> None:
    for mount in service.mounts:
        if mount.kind == "bind" and not mount.source.startswith("./secrets"):
            assert (REPOSITORY / mount.source).is_dir(), mount
            assert mount.read_only, mount
    others = service.name != "setup"
    assert not (others and any(mount.source == "./secrets" for mount in service.mounts)), "the authority's key"


def test_volumes_of_other_images_get_their_owner_from_setup() -> None:
    """An image of ours makes the folder that it mounts a volume over; other images would be given root's."""
    first = {mount.source for mount in SERVICES["setup"].mounts if mount.kind == "volume"}
    made_by_us = {"/state", "/models"}
    assert set(" ".join(STAGES["base"].all("RUN")).split()) >= made_by_us
    folders = set(" ".join(STAGES["aggregator"].all("RUN")).split())
    for mount in SERVICES["setup"].mounts:
        if mount.kind == "volume":
            assert mount.target in folders
    for service in SERVICES.values():
        copying = {one.split(":")[0] for one in service.raw.get("volumes", ()) if isinstance(one, str)}
        if service.target is None:
            assert not copying, "nocopy, or the image's owner would be copied over ours"
            assert all(mount.source in first for mount in service.mounts if mount.kind == "volume")
        elif service.name != "setup":
            assert all(mount.target in made_by_us for mount in service.mounts if mount.source in copying)


def programs() -> Iterator[tuple[str, type[BaseSettings], Sequence[str], Mapping[str, str]]]:
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


def _settings_of(words: list[str]) -> tuple[type[BaseSettings], list[str]]:
    program = importlib.import_module(f"{words[0]}.__main__").PROGRAM
    command, flags = program.choose(words[1:])
    return program.commands[command].settings, list(flags)


@pytest.mark.parametrize("case", list(programs()), ids=lambda case: case[0])
def test_every_command_is_one_that_the_program_takes(
    case: tuple[str, type[BaseSettings], Sequence[str], Mapping[str, str]], monkeypatch: pytest.MonkeyPatch
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


# -- broker, ports and networks --------------------------------------------------------------------------------------


def test_ports_are_those_of_the_mounted_configuration() -> None:
    broker = SERVICES["broker"]
    text = (REPOSITORY / "broker_config" / Path(broker.command[-1]).name).read_text()
    listeners = {int(port) for port in re.findall(r"^listener (\d+)$", text, re.MULTILINE)}
    assert {inside for _, _, inside in broker.ports} == listeners
    for path in re.findall(r"(?<=\s)(/mosquitto/\S+)", re.sub(r"^#.*", "", text, flags=re.MULTILINE)):
        assert any(path.startswith(mount.target) for mount in broker.mounts), path


def test_only_the_broker_is_open_to_the_network() -> None:
    open_to_all = {
        service.name: inside
        for service in SERVICES.values()
        for address, _, inside in service.ports
        if address != "127.0.0.1"
    }
    assert open_to_all == {"broker": 8883}
    for service in SERVICES.values():
        inner = not service.ports
        assert ("edge" in service.raw.get("networks", ())) != inner, service.name
    assert {name for name, how in DOCUMENT["networks"].items() if (how or {}).get("internal")} == {"mqtt", "telemetry"}


def test_addresses_are_of_services_on_a_common_network() -> None:
    for service in SERVICES.values():
        for value in service.environment.values():
            for scheme, host, port in re.findall(r"^(mqtts?|https?)://([\w-]+):(\d+)", value):
                other = SERVICES[host]
                assert set(other.raw["networks"]) & set(service.raw["networks"]), (service.name, host)
                if scheme == "mqtts":
                    assert int(port) in {inside for _, _, inside in other.ports}


def test_the_fleet_is_the_persons_of_the_task() -> None:
    names = {f"person-{person:02d}" for person in physiotherapy.DEVICE_PERSONS}
    assert {name for name in SERVICES if name.startswith("person-")} == names
    assert set(SERVICES["setup"].environment["DEVICES"].split()) == names
    for name in names:
        assert f"--device {name}" in " ".join(SERVICES[name].command)
        assert SERVICES[name].profiles == ["fleet"]
        assert {mount.source for mount in SERVICES[name].mounts if mount.target.endswith("client.key")} == {
            f"./secrets/clients/{name}.key"
        }


def test_what_has_to_last_is_looked_after() -> None:
    for service in SERVICES.values():
        assert bool(service.healthcheck) == (not service.once), service.name


# -- the units for systemd -------------------------------------------------------------------------------------------

UNITS = sorted((REPOSITORY / "deployment" / "systemd").iterdir())


def unit_lines(path: Path, name: str) -> list[str]:
    return [line.partition("=")[2] for line in path.read_text().splitlines() if line.startswith(f"{name}=")]


@pytest.mark.parametrize("unit", UNITS, ids=lambda path: path.name)
def test_a_unit_starts_a_command_that_there_is_with_flags_that_there_are(unit: Path) -> None:
    program, name, *words = unit_lines(unit, "ExecStart")[0].split()
    assert Path(program).name in PYPROJECT["project"]["scripts"]
    settings, flags = _settings_of([ROWS[name].module.removesuffix(".__main__"), *words])
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


# -- the Dockerfile --------------------------------------------------------------------------------------------------


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


# -- the scripts, run ------------------------------------------------------------------------------------------------


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


def test_influxdb_is_healthy_only_where_others_reach_it() -> None:
    """While the image sets itself up, `influx ping` alone asks another port (its first starts were a race)."""
    influxdb, setup = SERVICES["influxdb"], SERVICES["influxdb-setup"]
    assert influxdb.healthcheck == ("influx", "ping", "--host", "http://localhost:8086")
    assert setup.environment["INFLUX_HOST"].endswith(":8086")


def test_names_agree_between_influxdb_its_setup_aggregator_and_grafana() -> None:
    influxdb, setup, aggregator = (SERVICES[name].environment for name in ("influxdb", "influxdb-setup", "aggregator"))
    assert influxdb["DOCKER_INFLUXDB_INIT_BUCKET"] == setup["BUCKET"] == aggregator["FEDKD_INFLUX_BUCKET"]
    assert influxdb["DOCKER_INFLUXDB_INIT_ORG"] == setup["INFLUX_ORG"] == aggregator["FEDKD_INFLUX_ORG"]
    grafana = SERVICES["grafana"]
    sources = "".join(path.read_text() for path in (REPOSITORY / "grafana/provisioning/datasources").iterdir())
    (variable,) = (name for name in grafana.environment if name.startswith("GF_INFLUXDB"))
    assert f"${variable.removesuffix('__FILE')}" in sources
    assert f"dbName: {setup['BUCKET']}" in sources
    assert f"url: {setup['INFLUX_HOST']}" in sources
    dashboards = "".join(path.read_text() for path in (REPOSITORY / "grafana/provisioning/dashboards").iterdir())
    (place,) = re.findall(r"path: (\S+)", dashboards)
    assert _mount_over(grafana, place).source == "./grafana/dashboards"
    written = Path(aggregator["FEDKD_INFLUX_TOKEN_FILE"]).name
    read = Path(grafana.environment[variable]).name
    assert (written, read) == ("write", "read")


def _mount_over(service: Service, place: str) -> Mount:
    return next(mount for mount in service.mounts if place.startswith(mount.target))


# -- make ------------------------------------------------------------------------------------------------------------


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
