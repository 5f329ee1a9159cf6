"""What a device asks a real broker for, also after an upgrade from a program that subscribed at QoS 1."""

from collections.abc import Iterator

import pytest

from aggregator.publishing.publisher import Publisher
from tests.broker.mosquitto import Mosquitto
from tests.device_client.downlink.downlink_line import announced
from tests.device_client.downlink.listening_device import LINE, MODEL, MODELS, Watched
from tests.device_client.stage import DEVICE, ROOT, TASK
from wire_contract import codec
from wire_contract.link.mqtt import MqttLink, MqttSettings
from wire_contract.link.mqtt_settings import Protocol
from wire_contract.link.protocol import Connected, Delivery, TopicFilters
from wire_contract.publication.release import Release


@pytest.fixture
def mqtt_links() -> Iterator[list[MqttLink]]:
    made: list[MqttLink] = []
    yield made
    for link in made:
        link.close()


@pytest.mark.broker
@pytest.mark.parametrize("protocol", ["5", "3.1.1"])
def test_over_mosquitto(mosquitto: Mosquitto, mqtt_links: list[MqttLink], protocol: Protocol) -> None:
    def link(name: str, subscriptions: TopicFilters = ()) -> MqttLink:
        settings = MqttSettings(
            host="127.0.0.1", port=mosquitto.port, client_id=name, subscriptions=subscriptions, protocol=protocol
        )
        mqtt_links.append(MqttLink(settings))
        return mqtt_links[-1]

    aggregator = link("aggregator")
    publisher = Publisher(aggregator, root=ROOT, task=TASK, shard=0)
    for shelf in LINE[:12]:
        publisher.model(announced(shelf))
    assert aggregator.publish(f"{ROOT}/sync", b"").wait(20)
    device = Watched(link(DEVICE, MODELS))
    for _ in range(50):
        device.listen(0.2)
        if device.version == 11:
            break
    assert device.version == 11
    assert device.asked == ["delta/9", "delta/10", "model/8/+"]
    device.forget()
    for shelf in LINE[12:25]:
        publisher.model(announced(shelf))
    assert aggregator.publish(f"{ROOT}/sync", b"").wait(20)
    for _ in range(50):
        device.listen(0.2)
        if device.version == 24:
            break
    assert device.version == 24
    assert (device.asked, set(device.received)) == ([], {"model"})


@pytest.mark.broker
@pytest.mark.parametrize("protocol", ["5", "3.1.1"])
def test_an_upgraded_device_no_longer_pays_for_each_version_it_missed(
    mosquitto: Mosquitto, mqtt_links: list[MqttLink], protocol: Protocol
) -> None:
    """An older program listened at QoS 1: what the broker has queued for it comes once, and nothing is queued again."""

    def link(name: str, subscriptions: TopicFilters = ()) -> MqttLink:
        settings = MqttSettings(
            host="127.0.0.1", port=mosquitto.port, client_id=name, subscriptions=subscriptions, protocol=protocol
        )
        mqtt_links.append(MqttLink(settings))
        return mqtt_links[-1]

    aggregator = link("aggregator")
    publisher = Publisher(aggregator, root=ROOT, task=TASK, shard=0)

    def publish(*line: Release) -> None:
        for shelf in line:
            publisher.model(announced(shelf))
        assert aggregator.publish(f"{ROOT}/sync", b"").wait(20)

    def come_back(subscriptions: TopicFilters, newest: bytes) -> tuple[int, bool]:
        """How many manifests came until the retained one, and whether that came at QoS 0."""
        device = link(DEVICE, subscriptions)
        heard: list[Delivery] = []
        is_subscribed = False
        for _ in range(50):
            for event in device.receive(count=100, timeout_seconds=0.2):
                is_subscribed = is_subscribed or isinstance(event, Connected)
                if isinstance(event, Delivery):
                    heard.append(event)
                    device.ack(event)
            if is_subscribed and any(one.retained and one.payload == newest for one in heard):
                break
        device.close()
        return len(heard), not any(one.mid for one in heard if one.retained)

    came = []
    for first, last, subscriptions in ((0, 1, [MODEL]), (1, 11, MODELS), (11, 21, MODELS)):
        publish(*LINE[first:last])
        came.append(come_back(subscriptions, codec.encode(announced(LINE[last - 1]).manifest)))
    assert came == [(1, False), (10 + 1, True), (1, True)]
