"""The aggregator's look at its own topics over real brokers: each sends what it has retained in a way of its own."""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from dataclasses import replace
from pathlib import Path

import pytest

from aggregator.ledger.ledger import Ledger
from aggregator.ledger.reading import read_totals
from aggregator.publishing.ownership import LineRefused
from aggregator.service import Service, subscriptions
from tests.aggregator.publishing.stages import LINE
from tests.aggregator.synthetic import CHUNKED, ROOT, SyntheticDevice, begin
from tests.broker.locked import bench
from tests.broker.nats import Nats
from tests.waiting import PATIENCE_SECONDS
from wire_contract.link.mqtt import MqttLink
from wire_contract.link.mqtt_settings import MqttSettings
from wire_contract.link.protocol import Delivery
from wire_contract.program.clock import SYSTEM_CLOCK
from wire_contract.topics import parse

__all__ = ["bench"]

pytestmark = pytest.mark.broker

TASK = "toy"
SettingsOf = Callable[[str], MqttSettings]
"""By the name of a client."""


@pytest.fixture(params=["mosquitto 5", "mosquitto 3.1.1", "amqtt", "nats"])
def settings_of(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[SettingsOf]:
    name, _, protocol = request.param.partition(" ")
    if name == "mosquitto":
        broker = request.getfixturevalue("mosquitto")
        yield lambda client: MqttSettings(
            host="127.0.0.1", port=broker.port, client_id=client, protocol="5" if protocol == "5" else "3.1.1"
        )
    elif name == "amqtt":
        ports = request.getfixturevalue("amqtt_ports")
        yield lambda client: MqttSettings(
            host="127.0.0.1",
            port=ports.mqtt,
            client_id=client,
            protocol="3.1.1",
            username="device",
            password="secret",
        )
    else:
        server = Nats(tmp_path / "nats", request.getfixturevalue("bench"))
        server.start()
        yield server.settings
        server.stop()


class Aggregator:
    """With a ledger of its own."""

    def __init__(self, path: Path, settings: MqttSettings, at_the_end: ExitStack) -> None:
        self.ledger = at_the_end.enter_context(Ledger(path, task=TASK))
        self.line = begin(self.ledger, replace(LINE, updates_per_version=1), CHUNKED)
        filters = subscriptions(root=ROOT, task=TASK, shard=0)
        self.link = at_the_end.enter_context(closing(MqttLink(replace(settings, subscriptions=filters))))
        self.service = Service(
            self.line,
            self.ledger,
            self.link,
            root=ROOT,
            totals=read_totals(path),
            clock=SYSTEM_CLOCK,
            pause=threading.Event().wait,
        )

    def until(self, is_so: Callable[[], bool]) -> None:
        deadline = time.monotonic() + PATIENCE_SECONDS
        while not is_so():
            assert time.monotonic() < deadline, "not so in time"
            self.service.step()


def retained(settings: MqttSettings) -> dict[str, bytes]:
    """What a newcomer gets of the model topics: something, and then all until nothing more has come for a second."""
    filters = tuple(f"{ROOT}/{TASK}/{rest}" for rest in ("model", "model/+/+", "delta/+"))
    found: dict[str, bytes] = {}
    with closing(MqttLink(replace(settings, subscriptions=filters, clean_start=True))) as link:
        quiet_since = time.monotonic()
        deadline = quiet_since + PATIENCE_SECONDS
        while not found or time.monotonic() < quiet_since + 1.0:
            assert time.monotonic() < deadline, "nothing is retained"
            for event in link.receive(count=100, timeout_seconds=0.1):
                if isinstance(event, Delivery):
                    link.ack(event)
                    quiet_since = time.monotonic()
                    if event.retained and event.payload:
                        found[event.topic] = event.payload
    return found


def test_another_line_is_seen_and_what_vanishes_is_put_back(settings_of: SettingsOf, tmp_path: Path) -> None:
    with ExitStack() as at_the_end:
        first = Aggregator(tmp_path / "first", settings_of("aggregator"), at_the_end)
        first.until(
            lambda: first.service._reporter.status_publisher.published is not None
        )  # before its session there is nobody to queue for
        device = SyntheticDevice("watch-1", CHUNKED)
        sender = at_the_end.enter_context(closing(MqttLink(settings_of("watch-1"))))
        for version in range(1, 4):
            sender.publish(device.topic, device.payload(first.line))
            first.until(lambda version=version: first.line.version == version)  # type: ignore[misc]
        # all of it has reached the broker
        first.until(lambda: not first.service._publication.publisher.retained._echoes)
        before = retained(settings_of("viewer"))
        assert {parse(topic, root=ROOT).kind for topic in before} == {"model", "chunk", "delta"}

        second = Aggregator(tmp_path / "second", settings_of("aggregator-1"), at_the_end)
        with pytest.raises(LineRefused, match="at version 3"):
            second.until(lambda: False)
        second.link.close()
        assert retained(settings_of("viewer")) == before, "nothing was changed"

        gone = next(topic for topic in before if parse(topic, root=ROOT).kind == "chunk")
        state = first.service._publication.publisher.retained
        other = at_the_end.enter_context(closing(MqttLink(settings_of("aggregator-1"))))
        other.publish(gone, b"", retain=True)
        first.until(lambda: bool(state.missing()))
        first.until(lambda: not state.missing() and not state._echoes)
        assert retained(settings_of("viewer")) == before

        sender.publish(device.topic, device.payload(first.line))
        first.until(lambda: first.line.version == 4)


def test_after_a_restart_nothing_is_published_that_stands(settings_of: SettingsOf, tmp_path: Path) -> None:
    with ExitStack() as at_the_end:
        first = Aggregator(tmp_path / "ledger", settings_of("aggregator"), at_the_end)
        first.until(lambda: first.service._reporter.status_publisher.published is not None)
    with ExitStack() as at_the_end:
        again = Aggregator(tmp_path / "ledger", settings_of("aggregator"), at_the_end)
        sent: list[str] = []
        publish = again.link.publish

        def noting(topic: str, payload: bytes, *, retain: bool = False) -> object:
            sent.append(topic)
            return publish(topic, payload, retain=retain)

        again.link.publish = noting  # type: ignore[assignment,method-assign]
        again.until(lambda: again.service._reporter.status_publisher.published is not None)
        assert [topic.removeprefix(f"{ROOT}/{TASK}/") for topic in sent] == ["delta/0", "aggregator/0"]
