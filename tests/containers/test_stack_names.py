"""Names come and go in a running stack, by the commands of docs/deployment.md."""

import pytest

from tests.containers.conftest import LASTING
from tests.containers.stack import Stack
from tests.deployment.compose_file import REPOSITORY
from tests.documents import blocks

pytestmark = [pytest.mark.containers, pytest.mark.timeout(1800)]

ENROL, REVOKE = "enrol --authority", "revoke --authority"


def command(beginning: str) -> str:
    """The one of docs/deployment.md that has these words."""
    (found,) = (
        command
        for block in blocks(REPOSITORY / "docs" / "deployment.md")
        for command in block
        if command.startswith("docker compose") and beginning in command
    )
    return found


def test_a_revoked_device_is_refused_and_the_others_go_on(stack: Stack) -> None:
    stack.documented(command(ENROL))
    assert stack.may_connect("watch-17", keys="secrets/devices/watch-17")
    stack.documented(command(REVOKE))
    assert stack.may_connect("watch-17", keys="secrets/devices/watch-17"), "the broker has not read the new list"
    stack.documented(command("kill -s HUP broker"))
    assert not stack.may_connect("watch-17", keys="secrets/devices/watch-17")

    others = set(LASTING) - {"person-05"}
    # A device that learns right now keeps its connection until the broker is started again.
    stack.documented(command(REVOKE).replace("watch-17", "person-05"))
    stack.documented(command("kill -s HUP broker"))
    stack.documented(command("restart broker"))
    stack.wait("person-05 unhealthy", lambda: stack.health("person-05") == "unhealthy")
    stack.wait("the others healthy", lambda: all(stack.health(name) == "healthy" for name in others))
    before = stack.progress()
    stack.await_version(before.version + 3)
    after = stack.progress()
    assert after.merged["person-05"] == before.merged["person-05"]
    assert after.merged["person-03"] > before.merged["person-03"]
    assert not stack.may_connect("person-05")
