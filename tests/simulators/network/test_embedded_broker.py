"""The embedded broker as a process: its password, its offline queue, its end."""

import asyncio
import warnings
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from simulators.network.embedded_broker import PROTOCOL, StartedBroker, await_url, launch
from simulators.processes.processes import Processes
from tests.waiting import eventually
from wire_contract.link.mqtt import MqttLink, MqttSettings
from wire_contract.link.protocol import Connected, Delivery, Disconnected, Event

CONNECT_SECONDS = 60.0


@pytest.fixture
def processes(tmp_path: Path) -> Iterator[Processes]:
    with Processes(tmp_path / "logs") as processes:
        yield processes


def settings(broker: StartedBroker, url: str, client_id: str, *, password: str | None = None) -> MqttSettings:
    return MqttSettings.from_url(
        url,
        client_id=client_id,
        username=broker.credentials.username,
        password=password or broker.credentials.password,
        protocol=PROTOCOL,
        subscriptions=("news/+",),
        close_seconds_max=2.0,
    )


def first(link: MqttLink, kind: type[Event]) -> Event:
    """The first event of that kind; others are passed over."""
    found: list[Event] = []

    def came() -> bool:
        found.extend(event for event in link.receive(count=10, timeout_seconds=0.05) if isinstance(event, kind))
        return bool(found)

    eventually(came, seconds_max=CONNECT_SECONDS)
    return found[0]


def test_password_offline_queue_and_end(processes: Processes, tmp_path: Path) -> None:
    broker = launch(processes, tmp_path)
    url = await_url(broker, processes)
    assert (tmp_path / "broker-passwords").stat().st_mode & 0o077 == 0
    assert broker.credentials.password not in (tmp_path / "broker-passwords").read_text()

    wrong = MqttLink(settings(broker, url, "wrong", password="guessed"))
    refusal = first(wrong, Disconnected)
    wrong.close()
    assert isinstance(refusal, Disconnected)
    assert refusal.refused

    reader = MqttLink(settings(broker, url, "reader"))
    first(reader, Connected)
    reader.close()
    writer = MqttLink(settings(broker, url, "writer"))
    assert writer.publish("news/1", b"while you were away").wait(CONNECT_SECONDS)
    writer.close()
    again = MqttLink(settings(broker, url, "reader"))
    delivery = first(again, Delivery)
    again.close()
    assert isinstance(delivery, Delivery)
    assert delivery.payload == b"while you were away"

    processes.stop(broker.child, patience_seconds=CONNECT_SECONDS)
    assert broker.child.process.returncode == 0


def test_who_connects_gets_no_retained_message_of_others(processes: Processes, tmp_path: Path) -> None:
    broker = launch(processes, tmp_path)
    url = await_url(broker, processes)
    writer = MqttLink(replace(settings(broker, url, "writer"), subscriptions=("other/+",)))
    first(writer, Connected)
    assert writer.publish("other/1", b"for others", retain=True).wait(CONNECT_SECONDS)
    assert writer.publish("news/1", b"for readers", retain=True).wait(CONNECT_SECONDS)
    reader = MqttLink(settings(broker, url, "reader"))
    deliveries = [first(reader, Delivery)]
    assert writer.publish("news/2", b"end").wait(CONNECT_SECONDS)
    while deliveries[-1].payload != b"end":  # type: ignore[attr-defined]
        deliveries.append(first(reader, Delivery))
    assert {delivery.topic for delivery in deliveries} == {"news/1", "news/2"}  # type: ignore[attr-defined]
    reader.close()
    writer.close()


def test_a_client_that_was_taken_over_hears_again(processes: Processes, tmp_path: Path) -> None:
    """As when a second program has been started with the same client id by mistake, and ended."""
    broker = launch(processes, tmp_path)
    url = await_url(broker, processes)
    writer = MqttLink(replace(settings(broker, url, "writer"), subscriptions=()))
    victim = MqttLink(replace(settings(broker, url, "victim"), reconnect_spread_seconds=0.1))
    first(victim, Connected)
    for number in range(3):
        robber = MqttLink(replace(settings(broker, url, "victim"), reconnect_spread_seconds=1000.0))
        first(robber, Connected)
        first(victim, Connected)  # which takes the session back from the robber
        robber.close()
        assert writer.publish(f"news/{number}", b"still there?").wait(CONNECT_SECONDS)
        delivery = first(victim, Delivery)
        assert isinstance(delivery, Delivery)
        assert delivery.topic == f"news/{number}"
        victim.ack(delivery)
    victim.close()
    writer.close()


def test_subscriptions_come_and_go_while_the_broker_goes_through_them() -> None:
    """As they do, since amqtt awaits in these loops: when a client connects, and when a message is delivered."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of the libraries that amqtt imports
        from simulators.network.amqtt_fixes import PatchedBroker  # noqa: PLC0415

    async def subscribers() -> dict[str, list[object]]:
        made: dict[str, list[object]] = PatchedBroker(
            {"listeners": {"default": {"type": "tcp"}}, "plugins": {}}
        )._subscriptions
        return made

    held = asyncio.run(subscribers())
    held["news/+"] = []
    for topic in held:
        held[f"{topic}/#"] = []
    for topic, _ in held.items():  # noqa: PERF102 - as amqtt does
        held[f"other/{topic}"] = []
    assert sorted(held) == ["news/+", "news/+/#", "other/news/+", "other/news/+/#"]
