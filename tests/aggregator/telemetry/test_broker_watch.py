"""Presence and $SYS become points, over a broker in memory and a real one; a broker that refuses costs nothing else."""

import time
from collections.abc import Callable, Iterator, Sequence

import pytest

from aggregator.telemetry import broker_watch
from aggregator.telemetry.assembly import watch_broker
from aggregator.telemetry.broker_watch import SYS_FIELDS, SYS_SECONDS, BrokerWatch, Sightings, filters
from aggregator.telemetry.lines import Point
from aggregator.telemetry.schema import MEASUREMENTS
from tests.broker.mosquitto import Mosquitto
from tests.conftest import MakeMosquitto
from wire_contract.codec import encode
from wire_contract.link.memory import MemoryBroker, MemoryLink
from wire_contract.link.mqtt import MqttLink, MqttSettings
from wire_contract.link.protocol import Delivery
from wire_contract.messages import Presence
from wire_contract.topics import build, shard_of

ROOT, TASK = "fedkd/test", "toy"


def topic(device: str) -> str:
    return build("presence", root=ROOT, task=TASK, device=device)


def presence(status: str = "online", **capability: str) -> bytes:
    assert status in {"online", "offline"}
    return encode(Presence(status=status, firmware="watch 2", capability=capability))  # type: ignore[arg-type]


def sightings(shard: int = 0, shards: int = 1) -> Sightings:
    return Sightings(root=ROOT, shard=shard, shards=shards)


def test_every_figure_of_the_broker_is_a_field() -> None:
    assert set(SYS_FIELDS.values()) == {field.name for field in MEASUREMENTS["fedkd_broker"].fields}


def test_presence_is_a_point() -> None:
    found = sightings().take(Delivery(topic("a"), presence(battery_percent="81.5"), retained=True))
    fields = {"device": "a", "firmware": "watch 2", "role": "", "retained": True, "battery_percent": 81.5}
    assert found == Point("fedkd_presence", ("online",), fields)


def test_a_device_that_discards_its_rounds_says_why() -> None:
    found = sightings().take(Delivery(topic("a"), presence(discarded="the loss is nan")))
    assert found is not None
    assert found.fields["discarded"] == "the loss is nan"


@pytest.mark.parametrize(
    "delivery",
    [
        Delivery(topic("a"), b"junk"),
        Delivery(topic("a"), b""),
        Delivery("elsewhere", presence()),
        Delivery(build("evaluation", root=ROOT, task=TASK, device="a"), presence()),
        Delivery("$SYS/broker/uptime", b"\xff"),
        Delivery("$SYS/broker/uptime", b"9" * 30),
        Delivery("$SYS/broker/unheard of", b"5"),
    ],
)
def test_what_is_no_presence_is_no_point(delivery: Delivery) -> None:
    seen = sightings()
    assert seen.take(delivery) is None
    assert seen.broker() is None


def test_a_capability_that_is_no_number_is_left_out() -> None:
    found = sightings().take(Delivery(topic("a"), presence(battery_percent="low")))
    assert found is not None
    assert "battery_percent" not in found.fields


def test_each_shard_has_its_own_devices() -> None:
    seen = sightings(shard=1, shards=2)
    names = [f"device-{number}" for number in range(40)]
    mine = [name for name in names if seen.take(Delivery(topic(name), presence())) is not None]
    assert mine == [name for name in names if shard_of(name, 2) == 1] != []


def test_what_the_broker_says_is_one_point_and_said_once() -> None:
    seen = sightings()
    seen.take(Delivery("$SYS/broker/uptime", b"17 seconds"))
    seen.take(Delivery("$SYS/broker/publish/messages/dropped", b"3"))
    seen.take(Delivery("$SYS/broker/publish/messages/dropped", b"4"))
    assert seen.broker() == Point("fedkd_broker", (), {"uptime_seconds": 17, "dropped_messages_total": 4})
    assert seen.broker() is None


Points = list[Point]
Watch = Callable[..., tuple[BrokerWatch, Points]]


@pytest.fixture
def watch() -> Iterator[Watch]:
    made: list[BrokerWatch] = []

    def start(link: MemoryLink, monotonic: Callable[[], float] = time.monotonic) -> tuple[BrokerWatch, Points]:
        points: Points = []
        listens = filters(root=ROOT, task=TASK)
        made.append(BrokerWatch(link, sightings(), points.extend, filters=listens, monotonic=monotonic))
        return made[-1], points

    yield start
    for one in made:
        one.close()


def until(true: Callable[[], object], what: str) -> None:
    deadline = time.monotonic() + 60
    while not true():
        assert time.monotonic() < deadline, f"still waiting: {what}"
        time.sleep(0.01)


def of(points: Sequence[Point], measurement: str) -> Points:
    return [point for point in points if point.measurement == measurement]


def test_a_broker_in_memory(watch: Watch) -> None:
    broker = MemoryBroker()
    broker.publish(topic("before"), presence(), retain=True)
    now = [0.0]
    _, points = watch(MemoryLink(broker, "w"), lambda: now[0])
    until(lambda: len(of(points, "fedkd_presence")) == 1, "what was retained")
    broker.publish("$SYS/broker/uptime", b"17 seconds", retain=True)
    broker.publish(topic("after"), presence("offline"), retain=True)
    until(lambda: len(of(points, "fedkd_presence")) == 2, "what comes")
    assert [(point.tags, point.fields["device"]) for point in points] == [
        (("online",), "before"),
        (("offline",), "after"),
    ]
    now[0] = SYS_SECONDS
    until(lambda: of(points, "fedkd_broker"), "the broker's figures")


def test_a_broker_that_refuses_is_told_once(watch: Watch, caplog: pytest.LogCaptureFixture) -> None:
    broker = MemoryBroker()
    broker.refuse("w")
    one, points = watch(MemoryLink(broker, "w"))
    until(lambda: caplog.records, "it is told")
    one.close()
    assert not points
    (record,) = caplog.records
    assert "telemetry has no presence and $SYS" in record.getMessage()


def test_why_there_is_no_connection_is_told_though_it_is_no_refusal(
    watch: Watch, caplog: pytest.LogCaptureFixture
) -> None:
    """A second certificate that has expired, for one: the aggregator's own connection says nothing of it."""
    broker = MemoryBroker()
    broker.stop()
    one, _ = watch(MemoryLink(broker, "w"))
    until(lambda: caplog.records, "it is told")
    one.close()
    assert caplog.text.count("telemetry has no presence and $SYS") == 1


def settings(broker: Mosquitto, client_id: str) -> MqttSettings:
    return MqttSettings(host="127.0.0.1", port=broker.port, client_id=client_id, reconnect_delay_max_seconds=0.05)


@pytest.mark.parametrize("protocol", ["5", "3.1.1"])
def test_a_real_broker(make_mosquitto: MakeMosquitto, monkeypatch: pytest.MonkeyPatch, protocol: str) -> None:
    monkeypatch.setattr(broker_watch, "SYS_SECONDS", 0.2)
    mosquitto = make_mosquitto(lines=["sys_interval 1"])
    mosquitto.start()
    points: Points = []

    class Telemetry:
        record = staticmethod(points.extend)

    device = MqttLink(settings(mosquitto, "device"))
    device.publish(topic("one"), presence(), retain=True)
    connection = MqttSettings(host="127.0.0.1", port=mosquitto.port, client_id="agg", protocol=protocol)  # type: ignore[arg-type]
    one = watch_broker(Telemetry(), connection, root=ROOT, task=TASK, shard=0, shards=1)  # type: ignore[arg-type]
    try:
        until(lambda: of(points, "fedkd_presence"), "the device")
        said: dict[str, object] = {}

        def everything() -> bool:
            for point in of(points, "fedkd_broker"):
                said.update(point.fields)
            wanted = {"clients_connected", "store_bytes", "uptime_seconds", "received_bytes_total"}
            return wanted <= set(said) and said["clients_connected"] in {1, 2}  # it counts once a second

        until(everything, f"the broker's figures, so far {said}")
    finally:
        one.close()
        device.close()
    assert "agg-telemetry" in mosquitto.log
