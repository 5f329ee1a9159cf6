"""The first `make up` on a machine: no secrets, no volumes. Ten times, as a race shows only in some."""

from pathlib import Path

import pytest

from tests.containers.stack import Stack

pytestmark = pytest.mark.containers

STARTS = 10


@pytest.mark.timeout(1800)
@pytest.mark.parametrize("start", range(STARTS))
@pytest.mark.usefixtures("images")
def test_everything_gets_healthy(tmp_path: Path, start: int) -> None:
    stack = Stack(tmp_path / "clone")
    try:
        stack.up()
        containers = stack.containers()
        expected = {name for name, service in stack.services.items() if not service.get("profiles")}
        assert set(containers) == expected, f"start {start}: {stack.report()}"
        assert not any(container.restarts for container in containers.values()), f"start {start}: {stack.report()}"
        assert stack.status()["version"] == 0
        assert stack.retained().version == 0
    finally:
        stack.remove()
