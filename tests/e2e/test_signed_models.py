"""Aggregator and device with keys, and somebody between them whom the broker lets write whatever he likes."""

import random
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import pytest
from msgspec import structs

from aggregator.admission import AdmissionPolicy
from aggregator.ledger.ledger import Ledger
from aggregator.ledger.reading import read_journal, read_totals
from aggregator.ledger.records import row_of
from aggregator.ledger.restoring import restore
from aggregator.model_line import LineSettings, opening_release
from aggregator.service import Service
from aggregator.service import subscriptions as of_aggregator
from device_client.downlink.model_trust import ModelTrust
from device_client.presence import subscriptions, will
from device_client.runner import Runner, RunnerSettings
from device_client.uplink.outbox import Outbox
from tests.conftest import MakeMosquitto
from tests.device_client.stage import DEVICE, LAYOUT, ROOT, TASK, FakeTrainer, Time, model
from tests.e2e.aggregator_process import PATIENCE_SECONDS
from tests.wire_contract.keys import key
from wire_contract import codec, topics
from wire_contract.link.memory import MemoryBroker, MemoryLink
from wire_contract.link.mqtt import MqttLink, MqttSettings
from wire_contract.link.protocol import Delivery, Event, Link, Will
from wire_contract.messages import Manifest, Signed, Update
from wire_contract.program.clock import SYSTEM_CLOCK
from wire_contract.signatures.envelope import read_unverified, unwrap
from wire_contract.signatures.key_files import KeyFolder
from wire_contract.signatures.signing import NotTrusted, SigningKey, sign, verified_signers

OLD, NEW, OF_DEVICE, FOREIGN = key(1), key(2), key(3), key(4)
MODEL = topics.build("model", root=ROOT, task=TASK)
UPDATES = topics.build("update", root=ROOT, task=TASK, shard=0, device=DEVICE)
MakeLink = Callable[..., Link]


class Turning:
    """The device's link: whenever it waits, everybody else has a turn."""

    def __init__(self, inner: Link, turn: Callable[[], None]) -> None:
        self._inner = inner
        self._turn = turn

    def receive(self, *, count: int, timeout_seconds: float) -> Sequence[Event]:
        self._turn()
        return self._inner.receive(count=count, timeout_seconds=min(timeout_seconds, 0.02))

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)


class World:
    def __init__(self, folder: Path, make_link: MakeLink) -> None:
        self.folder = folder
        self.make_link = make_link
        self.hostile = make_link("hostile", (MODEL,))
        # On the same connection: it is subscribed before the first model is published.
        assert self.hostile.publish("nobody/listens", b"").wait(PATIENCE_SECONDS)
        self.seen: list[bytes] = []
        """All that ever stood on the model topic."""
        self.events: list[tuple[str, dict[str, Any]]] = []
        (folder / "keys").mkdir()
        (folder / "keys" / f"{DEVICE}.pub").write_bytes(OF_DEVICE.public.raw)
        self.ledger = Ledger(folder / "ledger", task=TASK)
        self.aggregator: Service
        self.aggregator_link: Link | None = None
        self.start_aggregator(OLD)

    def start_aggregator(self, *signing_keys: SigningKey) -> None:
        if self.aggregator_link is not None:
            self.aggregator_link.close()
        policy = AdmissionPolicy(device_keys=KeyFolder(self.folder / "keys").keys_of)
        settings = LineSettings(
            task=TASK, updates_per_version=1, devices_min=1, model_encoding="float32", policy=policy
        )
        if self.ledger.layout() is None:
            weights = model(0).published.weights
            first = opening_release(settings, LAYOUT, weights, published_at=time.time())
            self.ledger.begin_line(row_of(first), LAYOUT, weights)
        self.aggregator_link = self.make_link("aggregator", of_aggregator(root=ROOT, task=TASK, shard=0))
        self.aggregator = Service(
            restore(self.ledger, settings),
            self.ledger,
            self.aggregator_link,
            root=ROOT,
            totals=read_totals(self.folder / "ledger"),
            clock=SYSTEM_CLOCK,
            pause=lambda _seconds: None,
            signing_keys=signing_keys,
            model_lifetime_seconds=3_600.0,
        )
        self.aggregator._receive_seconds = lambda: 0.0  # type: ignore[method-assign]

    @property
    def version(self) -> int:
        return self.aggregator.line.version

    def turn(self) -> None:
        self.aggregator.step()
        self.look()

    def look(self) -> None:
        for event in self.hostile.receive(count=100, timeout_seconds=0):
            if isinstance(event, Delivery):
                self.seen.append(event.payload)
                self.hostile.ack(event)

    def attack(self, payload: bytes) -> None:
        """It stands there for everybody, as the true one did."""
        self.hostile.publish(MODEL, payload, retain=True)

    def attacked(self, attacks: Mapping[str, bytes]) -> bool:
        """Whether the device has warned of each, which is what it says of them; those that it has not are sent (again).

        Manifests come at QoS 0: who is away when one is published hears of it only while it stands there.
        """
        unheard = [attack for said, attack in attacks.items() if not self.warned(said)]
        for attack in unheard:
            self.attack(attack)
        return not unheard

    def device(self, until: Callable[[], bool], *pinned: SigningKey) -> None:
        """From its start to the first turn in which `until` holds."""
        deadline = time.monotonic() + PATIENCE_SECONDS
        runner: list[Runner] = []

        def turn() -> None:
            assert time.monotonic() < deadline, self.events[-10:]
            self.turn()
            if until():
                runner[0].stop()

        inner = self.make_link(DEVICE, subscriptions(ROOT, TASK, DEVICE), will(ROOT, TASK, DEVICE, firmware="test"))
        with Outbox(self.folder / "outbox", task=TASK, device=DEVICE) as outbox:
            keys = [one.public for one in pinned]
            runner.append(
                Runner(
                    task_name=TASK,
                    device=DEVICE,
                    layout=LAYOUT,
                    link=Turning(inner, turn),
                    root=ROOT,
                    outbox=outbox,
                    trainer=FakeTrainer(Time()),
                    training_unmet=tuple,
                    upload_unmet=tuple,
                    clock=SYSTEM_CLOCK,
                    uniform=random.Random(0).uniform,
                    emit=lambda event, **fields: self.events.append((event, fields)),
                    settings=RunnerSettings(
                        encoding="float32", local_rounds_max=1_000, retrain_after_seconds=0.1, firmware="test"
                    ),
                    trust=ModelTrust(keys, task=TASK, memory=outbox, unix=time.time),
                    update_signing_key=OF_DEVICE,
                )
            )
            runner[0].run()
        inner.close()

    def warnings(self) -> list[str]:
        return [fields["message"] for name, fields in self.events if name == "warning"]

    def warned(self, *said: str) -> bool:
        return all(any(one in warning for warning in self.warnings()) for one in said)

    def bases(self) -> set[int]:
        return {one.base_version for one in read_journal(self.folder / "ledger")}


@pytest.fixture(params=["memory", pytest.param("mosquitto", marks=pytest.mark.e2e)])
def world(tmp_path: Path, request: pytest.FixtureRequest, make_mosquitto: MakeMosquitto) -> Iterator[World]:
    kind: Literal["memory", "mosquitto"] = request.param
    broker = MemoryBroker()
    made: list[Link] = []
    port = 0
    if kind == "mosquitto":
        mosquitto = make_mosquitto()
        mosquitto.start()
        port = mosquitto.port

    def link(name: str, topic_filters: tuple[str, ...], last_will: Will | None = None) -> Link:
        if kind == "memory":
            return MemoryLink(broker, name, subscriptions=topic_filters, will=last_will)
        settings = MqttSettings(
            host="127.0.0.1", port=port, client_id=name, subscriptions=topic_filters, will=last_will, protocol="3.1.1"
        )
        made.append(MqttLink(settings))
        return made[-1]

    world = World(tmp_path, link)
    yield world
    for one in made:
        one.close()
    world.ledger.close()


def forged(version: int) -> Manifest:
    """A sound model of the attacker's."""
    return model(version, seed=66, published_at=time.time() + 1e6).manifest


def test_whoever_may_write_to_the_broker_changes_nothing_but_what_is_heard(world: World) -> None:
    world.device(lambda: world.version >= 2 and bool(_announcing(world, 0)), OLD)
    replayed = _announcing(world, 0)[0]
    genuine = world.seen[-1]
    signed = codec.decode(genuine, Signed)
    attacks = {
        "it is not signed": codec.encode(forged(1_000)),
        "no key that is known here": sign(forged(1_000), [FOREIGN]),
        "other bytes were signed": codec.encode(structs.replace(signed, body=codec.pack(forged(1_000)))),
        "it announces version 0, and": replayed,
    }
    forged_update = codec.encode(read_unverified(_an_update(world), Update))
    world.hostile.publish(UPDATES, forged_update)
    world.device(lambda: world.attacked(attacks), OLD)
    reached = world.version
    world.device(lambda: world.version >= reached + 2, OLD)

    assert all(base <= world.version for base in world.bases()), "nobody trained on what nobody signed"
    assert not [fields for name, fields in world.events if name == "model" and fields["version"] >= 1_000]
    totals = read_totals(world.folder / "ledger")
    assert totals.refused_by_reason == {"signature": 1}
    assert totals.merged == world.version


def _announcing(world: World, version: int) -> list[bytes]:
    """What was seen of this version."""
    return [payload for payload in world.seen if read_unverified(payload, Manifest).version == version]


def _an_update(world: World) -> bytes:
    payload: bytes = world.ledger._db.execute("SELECT payload FROM journal ORDER BY id DESC").fetchone()[0]
    return payload


def test_a_device_that_starts_before_a_hostile_model_goes_on_with_its_own(world: World) -> None:
    world.device(lambda: world.version >= 1, OLD)
    before, known = world.version, len(world.events)
    hostile = {"no key that is known here": sign(forged(1_000), [FOREIGN])}
    world.attacked(hostile)
    # The aggregator's next version stands there again.
    world.device(lambda: world.attacked(hostile) and _genuine(world.seen[-1]) > before, OLD)
    after_start = [fields["version"] for name, fields in world.events[known:] if name == "model"]
    assert after_start[0] <= before, "out of its outbox"
    assert max(after_start) <= world.version


def _genuine(payload: bytes) -> int:
    """Its version, if the aggregator has signed it; else -1."""
    message = unwrap(payload, Manifest)
    try:
        verified_signers(message, [OLD.public])
    except NotTrusted:
        return -1
    return message.open().version


def test_keys_are_exchanged_while_everybody_works(world: World) -> None:
    def goes_on(*pinned: SigningKey) -> None:
        reached = world.version
        world.device(lambda: world.version > reached and _newest(world) == world.version, *pinned)

    goes_on(OLD)
    goes_on(OLD, NEW)  # 1. devices pin both
    world.start_aggregator(OLD, NEW)  # 2. the aggregator signs with both
    goes_on(OLD)  # … and so one that was not reached yet goes on
    goes_on(OLD, NEW)
    goes_on(NEW)  # 3. devices pin the new one alone
    world.start_aggregator(NEW)  # 4. the aggregator signs with the new one alone
    goes_on(NEW)
    assert not [said for said in world.warnings() if "refused" in said]
    reached = world.version
    world.device(lambda: world.warned("no key that is known here"), OLD)
    assert world.version >= reached


def _newest(world: World) -> int:
    return max((fields["version"] for name, fields in world.events if name == "model"), default=-1)
