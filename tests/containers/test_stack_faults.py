"""Services of a running stack are killed and stopped; it heals by itself, and learning goes on."""

import pytest

from tests.containers.conftest import LASTING
from tests.containers.stack import Stack

pytestmark = [pytest.mark.containers, pytest.mark.timeout(1800)]


def learns(stack: Stack) -> None:
    """A version that did not exist yet, made of updates that did not exist yet."""
    before = stack.progress()
    stack.await_version(before.version + 2)
    assert stack.progress().merged.total() > before.merged.total()


def test_all_of_it_works(stack: Stack) -> None:
    stack.wait("an evaluation", lambda: stack.progress().evaluated is not None)
    for measurement, field in (("fedkd_version", "version"), ("fedkd_update", "device")):
        stack.wait(f"{measurement} in InfluxDB", lambda name=measurement, of=field: stack.points(name, of) > 0)
    assert not any(stack.containers()[name].restarts for name in LASTING)


@pytest.mark.parametrize("service", ["broker", "aggregator", "evaluator", "influxdb", "person-03"])
def test_a_killed_service_is_started_again(stack: Stack, service: str) -> None:
    before = stack.containers()
    stack.signal(service, "KILL")
    stack.wait(f"{service} restarted", lambda: stack.containers()[service].restarts > before[service].restarts)
    stack.await_health()
    learns(stack)
    after = stack.containers()
    restarted = {name for name in LASTING if after[name].restarts != before[name].restarts}
    assert restarted == {service}, f"{restarted}\n{stack.report()}"


@pytest.mark.parametrize("services", [("evaluator", "influxdb", "person-03"), ("aggregator",), ("broker",)])
def test_a_stopped_service_is_unhealthy_until_it_goes_on(stack: Stack, services: tuple[str, ...]) -> None:
    before = stack.containers()
    for service in services:
        stack.signal(service, "STOP")
    if set(services).isdisjoint({"broker", "aggregator"}):
        learns(stack)  # from the other two devices
    for service in services:
        stack.wait(f"{service} unhealthy", lambda of=service: stack.health(of) == "unhealthy")
    if services == ("broker",):
        stack.wait("the aggregator unhealthy without a broker", lambda: stack.health("aggregator") == "unhealthy")
    for service in services:
        stack.signal(service, "CONT")
    stack.await_health()
    learns(stack)
    after = stack.containers()
    assert {name: after[name].restarts for name in LASTING} == {name: before[name].restarts for name in LASTING}


def test_what_influxdb_missed_was_spooled(stack: Stack) -> None:
    """It was killed and stopped above; each version is a point there all the same."""
    version = stack.progress().version
    stack.wait("a point of every version", lambda: stack.points("fedkd_version", "version") >= version)


def test_down_and_up_keep_the_line(stack: Stack) -> None:
    stack.compose("stop", "person-03", "person-04", "person-05")
    settled = stack.status()
    manifest = stack.retained()
    assert manifest.version == settled["version"]
    stack.down()
    assert not stack.containers()

    stack.up("broker")
    assert stack.retained() == manifest, "the broker alone still has the newest model"
    stack.up("aggregator", "evaluator")
    again = stack.status()
    assert {key: again[key] for key in ("version", "merged", "devices")} == {
        key: settled[key] for key in ("version", "merged", "devices")
    }
    assert stack.retained() == manifest
    stack.up("aggregator", "evaluator", "person-03", "person-04", "person-05")
    learns(stack)
