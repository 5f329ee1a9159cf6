"""What a device asks the broker for, and what it costs: over a link, with the aggregator's own publisher."""

from collections.abc import Iterator
from itertools import pairwise

import pytest

from aggregator.publishing.publisher import Publisher
from device_client.downlink.inbox import NewModel, Outcome
from device_client.downlink.receiver import Downlink
from device_client.downlink.resubscription import Renewal
from tests.broker.mosquitto import Mosquitto
from tests.device_client.downlink_line import announced, large_deltas, shelves
from tests.device_client.stage import DEVICE, ROOT, TASK
from wire_contract import codec, topics
from wire_contract.link.memory import MemoryBroker, MemoryLink
from wire_contract.link.mqtt import MqttLink, MqttSettings
from wire_contract.link.mqtt_settings import Protocol
from wire_contract.link.protocol import Connected, Delivery, Filters, Link, Quality
from wire_contract.messages import Manifest
from wire_contract.publication.manifest import assemble
from wire_contract.publication.release import Shelf

LINE = shelves(40)
MODEL = topics.build("model", root=ROOT, task=TASK)
MODELS = topics.listened("model", root=ROOT, task=TASK)


class Watched:
    """A device that only listens; it notes what it subscribed to and what that cost."""

    def __init__(self, link: Link) -> None:
        self.link = link
        self.asked: list[str] = []
        self.received: dict[str, int] = {}
        subscribe = link.subscribe

        def noting(topic_filter: str, *, quality: Quality = 1) -> None:
            self.asked.append(topic_filter.removeprefix(f"{ROOT}/{TASK}/"))
            subscribe(topic_filter, quality=quality)

        link.subscribe = noting  # type: ignore[method-assign]
        self.now = 0.0
        self.downlink = Downlink(link, root=ROOT, task=TASK, monotonic=lambda: self.now, uniform=lambda low, _: low)
        self.outcomes: list[Outcome] = []

    def listen(self, timeout_seconds: float = 0.0) -> None:
        """Until nothing more comes."""
        while events := self.link.receive(count=100, timeout_seconds=timeout_seconds):
            for event in events:
                if isinstance(event, Delivery):
                    topic = topics.parse(event.topic, root=ROOT)
                    self.received[topic.kind] = self.received.get(topic.kind, 0) + len(event.payload)
                    self.outcomes.append(self.downlink.take(topic, event.payload))
                    self.link.ack(event)

    @property
    def version(self) -> int | None:
        held = self.downlink.held
        return None if held is None else held.published.version

    def forget(self) -> None:
        self.asked.clear()
        self.received.clear()
        self.outcomes.clear()


class World:
    def __init__(self) -> None:
        self.broker = MemoryBroker()
        self.publisher = Publisher(MemoryLink(self.broker, "aggregator"), root=ROOT, task=TASK, shard=0)

    def publish(self, *line: Shelf) -> None:
        for shelf in line:
            assert self.publisher.model(announced(shelf))
            assert self.publisher.tidy({topic for topic in self.broker.retained if topic.startswith(f"{MODEL}/")})

    def device(self) -> Watched:
        return Watched(MemoryLink(self.broker, DEVICE, subscriptions=MODELS))


@pytest.fixture
def world() -> World:
    return World()


def test_a_device_that_is_online_subscribes_to_nothing_more(world: World) -> None:
    world.publish(LINE[0])
    device = world.device()
    device.listen()
    assert device.asked == ["model/0/+"]
    device.forget()
    for shelf in LINE[1:25]:
        world.publish(shelf)
        device.listen()
        assert device.version == shelf.version
    assert device.asked == []
    assert set(device.received) == {"model"}, "neither chunks nor deltas come unasked"
    assert list(world.broker._sessions[DEVICE].subscriptions) == [MODEL]


def test_after_three_versions_offline_it_takes_three_deltas(world: World) -> None:
    world.publish(*LINE[:10])
    device = world.device()
    device.listen()
    device.forget()
    world.broker.block(DEVICE)
    world.publish(*LINE[10:13])
    world.broker.unblock(DEVICE)
    device.listen()
    assert device.version == 12
    assert device.asked == ["delta/10", "delta/11"], "the third is inside the manifest"
    assert set(device.received) == {"model", "delta"}
    assert sum(device.received.values()) < 0.5 * len(LINE[12].snapshot)
    assert list(world.broker._sessions[DEVICE].subscriptions) == [MODEL]


def test_what_the_broker_dropped_is_asked_for_after_a_silence(world: World) -> None:
    world.publish(*LINE[:3])
    device = world.device()
    device.listen()
    device.forget()
    world.broker.block(DEVICE)
    world.publish(LINE[3])
    missed = world.broker.retained[MODEL]
    world.broker.retained[MODEL] = codec.encode(announced(LINE[2]).manifest)
    world.broker.unblock(DEVICE)
    device.listen()
    device.forget()
    world.broker.retained[MODEL] = missed  # as if it had been dropped on the way
    device.downlink.renew()
    device.listen()
    assert (device.version, device.asked) == (2, [])
    for now, asked in ((599.0, 0), (600.0, 1), (1_199.0, 1), (1_200.0, 2)):
        device.now = now
        device.downlink.renew()
        assert device.asked == ["model"] * asked
        device.listen()
        assert device.version == (3 if asked else 2)


def test_who_hears_nothing_new_asks_more_and_more_seldom() -> None:
    now, asked = 0.0, []
    renewal = Renewal(now, uniform=lambda low, _: low)
    while now < 100_000.0:
        if renewal.is_due(now):
            asked.append(now)
            renewal.heard(now, news=False)
        now += 100.0
    rests = [after - before for before, after in pairwise([0.0, *asked])]
    assert rests[:6] == [600.0, 1_200.0, 2_400.0, 4_800.0, 9_600.0, 14_400.0]
    assert set(rests[5:]) == {14_400.0}
    renewal.heard(now, news=True)
    assert renewal.is_due(now + 600.0)


def test_after_thirty_versions_offline_it_takes_the_snapshot(world: World) -> None:
    world.publish(*LINE[:3])
    device = world.device()
    device.listen()
    device.forget()
    world.broker.block(DEVICE)
    world.publish(*LINE[3:33])
    world.broker.unblock(DEVICE)
    device.listen()
    assert device.version == 32
    assert device.asked == ["model/32/+"]
    assert device.received["chunk"] == len(LINE[32].snapshot)
    assert device.received["model"] == len(world.broker.retained[MODEL]), "one manifest, not one for each version"


def test_a_joiner_takes_the_snapshot_and_what_came_after_it(world: World) -> None:
    world.publish(*LINE[:12])
    device = world.device()
    device.listen()
    assert device.version == 11
    assert device.asked == ["delta/9", "delta/10", "model/8/+"], "deltas first"
    (outcome,) = [outcome for outcome in device.outcomes if outcome is not None]
    assert isinstance(outcome, NewModel)
    assert outcome.published.weights.tobytes() == LINE[11].published.weights.tobytes(), "no stale model in between"
    assert list(world.broker._sessions[DEVICE].subscriptions) == [MODEL]


def test_a_connection_lost_in_the_middle_is_no_matter(world: World) -> None:
    world.publish(*LINE[:12])
    device = world.device()
    for _ in range(30):
        for event in device.link.receive(count=1, timeout_seconds=0):
            if isinstance(event, Delivery):
                device.downlink.take(topics.parse(event.topic, root=ROOT), event.payload)
                device.link.ack(event)
        world.broker.drop(DEVICE)
        if device.version == 11:
            break
    device.listen()
    assert device.version == 11


def test_a_delta_too_large_for_the_manifest_comes_from_its_topic(world: World) -> None:
    line = large_deltas(6)
    world.publish(line[0])
    device = world.device()
    device.listen()
    for shelf in line[1:]:
        device.forget()
        world.publish(shelf)
        device.listen()
        assert device.version == shelf.version
        assert device.asked == [f"delta/{shelf.version}"]
        assert device.received["delta"] == len(shelf.deltas[0])
        assert "chunk" not in device.received
    assert list(world.broker._sessions[DEVICE].subscriptions) == [MODEL]


def test_a_delta_over_the_brokers_limit_does_not_hold_up_the_version(world: World) -> None:
    line = large_deltas(5)
    world.publish(line[0])
    world.broker.packet_bytes_max = 26_000
    for shelf in line[1:]:
        assert len(shelf.deltas[0]) > world.broker.packet_bytes_max
        assert world.publisher.model(announced(shelf))
    kinds = {topics.parse(topic, root=ROOT).kind for topic in world.broker.retained}
    assert kinds == {"model", "chunk"}
    assert codec.decode(world.broker.retained[MODEL], Manifest).version == 5


def test_another_task_is_not_ours(world: World) -> None:
    world.publish(*LINE[:2])
    device = world.device()
    device.listen()
    other = topics.parse(topics.build("delta", root=ROOT, task="swimming", version=2), root=ROOT)
    assert device.downlink.take(other, announced(LINE[2]).deltas[2]) is None
    assert device.version == 1


def test_firmware_that_knows_manifests_and_chunks_only_has_the_snapshots(world: World) -> None:
    """It subscribes to everything at once, and skips the fields it does not know."""
    chunk_filter = topics.topic_filter("chunk", root=ROOT, task=TASK)
    naive = MemoryLink(world.broker, "naive", subscriptions=(MODEL, chunk_filter))
    chunks: dict[tuple[int, int], bytes] = {}
    held: list[tuple[int, bytes]] = []
    for shelf in LINE[:20]:
        world.publish(shelf)
        for event in naive.receive(count=100, timeout_seconds=0):
            if not isinstance(event, Delivery):
                continue
            topic = topics.parse(event.topic, root=ROOT)
            if topic.kind == "chunk":
                chunks[int(topic.parts["version"]), int(topic.parts["chunk"])] = event.payload
            else:
                manifest = codec.decode(event.payload, Manifest)
                of_snapshot = {
                    n: chunk for (version, n), chunk in chunks.items() if version == manifest.snapshot_version
                }
                published = assemble(manifest, of_snapshot)
                assert published is not None
                held.append((published.version, published.digest))
            naive.ack(event)
        version, digest = held[-1]
        assert shelf.version - version < 8, "stale by a few versions at most"
        assert digest == LINE[version].published.digest, "a base that the aggregator knows"


# Over a real broker.


@pytest.fixture
def mqtt_links() -> Iterator[list[MqttLink]]:
    made: list[MqttLink] = []
    yield made
    for link in made:
        link.close()


@pytest.mark.broker
@pytest.mark.parametrize("protocol", ["5", "3.1.1"])
def test_over_mosquitto(mosquitto: Mosquitto, mqtt_links: list[MqttLink], protocol: Protocol) -> None:
    def link(name: str, subscriptions: Filters = ()) -> MqttLink:
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

    def link(name: str, subscriptions: Filters = ()) -> MqttLink:
        settings = MqttSettings(
            host="127.0.0.1", port=mosquitto.port, client_id=name, subscriptions=subscriptions, protocol=protocol
        )
        mqtt_links.append(MqttLink(settings))
        return mqtt_links[-1]

    aggregator = link("aggregator")
    publisher = Publisher(aggregator, root=ROOT, task=TASK, shard=0)

    def publish(*line: Shelf) -> None:
        for shelf in line:
            publisher.model(announced(shelf))
        assert aggregator.publish(f"{ROOT}/sync", b"").wait(20)

    def come_back(subscriptions: Filters, newest: bytes) -> tuple[int, bool]:
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
