"""What a device asks the broker for, and what it costs: over a link, with the aggregator's own publisher."""

from itertools import pairwise

import pytest

from aggregator.publishing.publisher import Publisher
from device_client.downlink.outcome import NewModel
from device_client.downlink.resubscription import ResubscriptionTimer
from tests.device_client.downlink.downlink_line import announced, large_deltas
from tests.device_client.downlink.listening_device import LINE, MODEL, MODELS, Watched
from tests.device_client.stage import DEVICE, ROOT, TASK
from wire_contract import codec, topics
from wire_contract.link.memory import MemoryBroker, MemoryLink
from wire_contract.link.protocol import Delivery
from wire_contract.messages import Manifest
from wire_contract.publication.manifest import assemble_snapshot
from wire_contract.publication.release import Release


class World:
    def __init__(self) -> None:
        self.broker = MemoryBroker()
        self.publisher = Publisher(MemoryLink(self.broker, "aggregator"), root=ROOT, task=TASK, shard=0)

    def publish(self, *line: Release) -> None:
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
    device.receiver.resubscribe()
    device.listen()
    assert (device.version, device.asked) == (2, [])
    for now, asked in ((599.0, 0), (600.0, 1), (1_199.0, 1), (1_200.0, 2)):
        device.now = now
        device.receiver.resubscribe()
        assert device.asked == ["model"] * asked
        device.listen()
        assert device.version == (3 if asked else 2)


def test_who_hears_nothing_new_asks_more_and_more_seldom() -> None:
    now, asked = 0.0, []
    renewal = ResubscriptionTimer(now, uniform=lambda low, _: low)
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
                device.receiver.take(topics.parse(event.topic, root=ROOT), event.payload)
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
    assert device.receiver.take(other, announced(LINE[2]).deltas[2]) is None
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
                published = assemble_snapshot(manifest, of_snapshot)
                assert published is not None
                held.append((published.version, published.digest))
            naive.ack(event)
        version, digest = held[-1]
        assert shelf.version - version < 8, "stale by a few versions at most"
        assert digest == LINE[version].published.digest, "a base that the aggregator knows"
