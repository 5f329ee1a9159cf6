"""One running stack with three devices for all tests that can share it, and the images that every test needs."""

import shutil
from collections.abc import Iterator

import pytest

from tests.containers.stack import Stack, has_image
from tests.deployment.compose_file import read_services

DEVICES = ("person-03", "person-04", "person-05")
LASTING = ("broker", "aggregator", "evaluator", "influxdb", *DEVICES)


@pytest.fixture(scope="session")
def images() -> None:
    """All that the tests start, but Grafana's, which they do without."""
    if shutil.which("docker") is None:
        pytest.fail("docker is missing; see `make test-containers`")
    for name, service in read_services().items():
        image = service.raw["image"]
        assert has_image(image) or name == "grafana", f"{image} is missing; `make test-containers` makes it"


@pytest.fixture(scope="session")
def stack(tmp_path_factory: pytest.TempPathFactory, images: None) -> Iterator[Stack]:  # noqa: ARG001
    """Started from nothing, teacher included; its tests leave it healthy, and count what they did to it at the end."""
    made = Stack(tmp_path_factory.mktemp("stack") / "clone")
    try:
        made.up("evaluator", "aggregator", *DEVICES)
        made.await_version(1)
        yield made
    finally:
        made.remove()
