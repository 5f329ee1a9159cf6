"""What all tests share: a real broker, and no way to forget that a test needs one."""

import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings

from tests.broker.mosquitto import Mosquitto
from tests.e2e.small_demo import small_demo
from tests.scheduling import scheduler, turn_of
from tests.telemetry_server import influxdb, make_influxdb

__all__ = ["influxdb", "make_influxdb", "make_mosquitto", "mosquitto", "small_demo"]

# The same examples in every run, on machines of any speed.
settings.register_profile("house", derandomize=True, deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("house")

MakeMosquitto = Callable[..., Mosquitto]


def pytest_configure() -> None:
    """A shell starts what it puts in the background with SIGINT ignored, and programs that tests start inherit that."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    for item in items:
        if "make_mosquitto" in getattr(item, "fixturenames", ()):
            item.add_marker(pytest.mark.broker)
    if hasattr(config, "workerinput"):  # one of several workers
        items.sort(key=lambda item: turn_of(item.nodeid))


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> object:
    return scheduler(config, log)


@pytest.fixture
def make_mosquitto(tmp_path: Path) -> Iterator[MakeMosquitto]:
    """Makes brokers that are not started yet; all are ended with the test."""
    made: list[Mosquitto] = []

    def make(**settings: Any) -> Mosquitto:
        made.append(Mosquitto(tmp_path / f"mosquitto-{len(made)}", **settings))
        return made[-1]

    yield make
    for broker in made:
        broker.kill()


@pytest.fixture
def mosquitto(make_mosquitto: MakeMosquitto) -> Mosquitto:
    """A running broker for anybody on the loopback."""
    broker = make_mosquitto()
    broker.start()
    return broker
