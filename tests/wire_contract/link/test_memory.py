"""The contract over memory, and the faults that only a pretended broker has."""

import pytest

from tests.wire_contract.link.link_contract import UP, LinkContract, World, connection, deliveries, messages, publish
from wire_contract.errors import LinkError
from wire_contract.link.memory import MemoryBroker, MemoryLink
from wire_contract.link.protocol import Connected, Disconnected, Will


class MemoryWorld(World):
    def __init__(self) -> None:
        self.broker = MemoryBroker()

    def link(self, client_id: str, *subscriptions: str, will: Will | None = None, **settings: int) -> MemoryLink:
        return MemoryLink(self.broker, client_id, subscriptions=subscriptions, will=will, **settings)

    def cut(self, client_id: str) -> None:
        self.broker.drop(client_id)

    def stop(self, *, lose_state: bool) -> None:
        self.broker.stop(lose_state=lose_state)

    def start(self) -> None:
        self.broker.start()


@pytest.fixture
def world() -> MemoryWorld:
    return MemoryWorld()


class TestMemoryLink(LinkContract):
    pass


def test_a_blocked_device_keeps_its_work_and_its_post(world: MemoryWorld) -> None:
    device, aggregator = world.link("device", "receipt"), world.link("aggregator", UP + "+")
    connection(device)
    connection(aggregator)
    world.broker.block("device")
    sent = device.publish(f"{UP}1", b"1")
    aggregator.publish("receipt", b"r")
    assert all(isinstance(event, Disconnected) for event in device.receive(count=9, timeout_seconds=0))
    assert not sent.wait(0)
    world.broker.unblock("device")
    assert isinstance(device.receive(count=9, timeout_seconds=0)[0], Connected)
    assert sent.wait(0)
    assert messages(aggregator, 1)[0].payload == b"1"


def test_a_refused_client_is_told_so(world: MemoryWorld) -> None:
    device = world.link("device")
    world.broker.refuse("device")
    events = device.receive(count=9, timeout_seconds=0)
    assert isinstance(events[-1], Disconnected)
    assert events[-1].refused
    world.broker.accept("device")
    assert isinstance(device.receive(count=9, timeout_seconds=0)[-1], Connected)


def test_days_without_a_broker_are_one_event(world: MemoryWorld) -> None:
    world.broker.stop()
    device = world.link("device")
    for number in range(1_000):
        device.publish(f"{UP}1", b"%d" % number)
    assert len(device.receive(count=9, timeout_seconds=0)) == 1


def test_the_newer_of_two_links_with_one_client_id_has_the_session(world: MemoryWorld) -> None:
    old, device = world.link("aggregator", UP + "+"), world.link("device")
    new = world.link("aggregator", UP + "+")
    publish(device, 1)
    assert messages(new, 1)[0].payload == b"1"
    assert not deliveries(old.receive(count=9, timeout_seconds=0))


def test_a_dead_link_says_so_and_its_will_is_done(world: MemoryWorld) -> None:
    watcher, device = world.link("watcher", "presence"), world.link("device", will=Will("presence", b"offline"))
    device.die()
    with pytest.raises(LinkError, match="has died"):
        device.receive(count=1, timeout_seconds=0)
    assert messages(watcher, 1)[0].payload == b"offline"
