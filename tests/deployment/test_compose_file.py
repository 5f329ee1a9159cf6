"""compose.yaml, as far as reading it goes; test_compose_run.py starts what it describes."""

import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from device_client.tasks import physiotherapy
from tests.deployment.compose_file import (
    COMPOSE,
    PINNED,
    REPOSITORY,
    TARGETS,
    Mount,
    Service,
    read_document,
    read_services,
    read_stages,
)

DOCUMENT = read_document()
SERVICES = read_services()
STAGES = read_stages()
PYPROJECT = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())
every_service = pytest.mark.parametrize("service", SERVICES.values(), ids=SERVICES)


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


@every_service
def test_a_check_that_starts_python_has_time_for_it(service: Service) -> None:
    """With 10 s, an aggregator that worked was unhealthy on a machine with a load of 17 on two cores."""
    check = service.raw.get("healthcheck", {})
    assert "python" not in service.healthcheck or check["timeout"] == "30s"


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
