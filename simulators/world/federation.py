"""An asynchronous federation in virtual time: no clock, no sleeping, no broker, but real training and real merging.

Devices of unlike speed, some of them offline at times, take the newest model, train, and hand in the difference when
they are online again. Rounds, updates, admission and merging are the device's and the aggregator's own code, so a
figure from here is one of the running system, only that a day of it takes a minute. Everything follows from one seed.
"""

import heapq
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

from aggregator.admission import Merge
from device_client.trainer import Trained
from device_client.uplink.rounds import LocalStudent, Round, make_update, next_round
from simulators.world.server import Rules, SimulationState, VirtualServer
from wire_contract.layout import Layout, Vector
from wire_contract.message_fields import INCARNATION_BYTES
from wire_contract.messages import Identity
from wire_contract.publication.manifest import PublishedVersion

_ROUNDS_MAX = 1_000_000_000
"""On one base: as many as there is time for."""


@dataclass(frozen=True, kw_only=True)
class VirtualDevice:
    """One device of the world."""

    name: str
    round_seconds: float
    """Virtual seconds of one round of training."""
    offline: tuple[tuple[float, float], ...] = ()
    """Virtual periods (from, to) without a connection, in order; what was learned in one is handed in at its end."""

    def online_from(self, moment: float) -> float:
        """The first moment at or after `moment` with a connection."""
        for start, stop in self.offline:
            if start <= moment < stop:
                moment = stop
        return moment


class LocalTrainer(Protocol):
    """Trains one round on one device, from the weights `start`, which must not be changed.

    `version` is of the published model behind them: `start` is that model, or what the device learned on it so far
    when no newer one has come. `round_number` counts all rounds of the device.
    """

    def __call__(self, device: str, start: Vector, *, version: int, round_number: int) -> Trained: ...


Observe = Callable[[SimulationState], None]
"""Told of each new version."""


class Adversary(Protocol):
    """One device of the world that does harm. It is told of each version before anybody else is, so that what it hands
    in is fresh and comes first.
    """

    device: str

    def takes_part(self, version: int) -> bool:
        """Whether it trains and hands in like everybody else while this version is the newest."""
        ...

    def payloads(self, newest: PublishedVersion) -> Sequence[bytes]:
        """What it hands in on top, right after this version was published."""
        ...


class _Student:
    """One device's local memory: what its outbox would hold."""

    def __init__(self, name: str, *, task: str, rules: Rules) -> None:
        self._name = name
        self._task = task
        self._rules = rules
        self._local_student: LocalStudent | None = None
        self._sequence = 0

    def round_on(self, newest: PublishedVersion) -> Round:
        """The next round: on the newest model, or further along the own line while there is no newer one."""
        todo = next_round(newest, self._local_student, now=0.0, rounds_max=_ROUNDS_MAX, retrain_after_seconds=0.0)
        assert todo is not None
        return todo

    def update(self, todo: Round, trained: Trained) -> bytes:
        """The payload of what was learned."""
        self._sequence += 1
        identity = Identity(self._name, bytes(INCARNATION_BYTES), self._sequence)
        payload, line = make_update(
            todo,
            trained,
            task=self._task,
            identity=identity,
            encoding=self._rules.update_encoding,
            train_seconds=0.0,
            now=0.0,
        )
        self._local_student = line if self._rules.error_feedback else replace(line, residual=None)
        return payload


def run_asynchronous(
    devices: Sequence[VirtualDevice],
    trainer: LocalTrainer,
    initial: Vector,
    layout: Layout,
    *,
    rules: Rules,
    versions: int,
    task: str = "world",
    observe: Observe = lambda _history: None,
    adversary: Adversary | None = None,
) -> SimulationState:
    """Runs until `versions` versions are published.

    Args:
        devices: at least `rules.updates_per_version` of them, or no version ever comes.
        trainer: real training, or a test's.
        initial: version 0, (layout.size,).
        layout: of the weights.
        rules: of merging and encoding.
        versions: how many to publish after version 0.
        task: its name, which stands in the messages.
        observe: told each version, 0 included.
        adversary: one of the devices. Without it, an update that is not merged is a broken invariant.
    """
    assert len(devices) >= rules.updates_per_version, "a version needs one update each of so many devices"
    server = VirtualServer([device.name for device in devices], initial, layout, task=task, rules=rules)
    state = server.state

    def published() -> None:
        observe(state)
        if adversary is not None:
            for payload in adversary.payloads(server.newest):
                server.take(adversary.device, payload)

    published()
    students = {device.name: _Student(device.name, task=task, rules=rules) for device in devices}
    # (moment handed in, order, device, round, its number); the order makes ties deterministic.
    queue = [
        (device.online_from(device.round_seconds), order, device, students[device.name].round_on(server.newest), 0)
        for order, device in enumerate(devices)
    ]
    heapq.heapify(queue)
    while state.version < versions:
        now, order, device, todo, number = heapq.heappop(queue)
        state.seconds = now
        student = students[device.name]
        if adversary is None or device.name != adversary.device or adversary.takes_part(state.version):
            trained = trainer(device.name, todo.start, version=todo.base.version, round_number=number)
            verdict = server.take(device.name, student.update(todo, trained))
            assert adversary is not None or isinstance(verdict, Merge), f"{device.name}: {verdict}"
        if server.publish_when_due():
            published()
        handed_in = device.online_from(now + device.round_seconds)
        heapq.heappush(queue, (handed_in, order, device, student.round_on(server.newest), number + 1))
    return state


def run_synchronous(
    devices: Sequence[str],
    trainer: LocalTrainer,
    initial: Vector,
    layout: Layout,
    *,
    rules: Rules,
    rounds: int,
    versions: int,
    task: str = "world",
    observe: Observe = lambda _history: None,
) -> SimulationState:
    """FedAvg: each round everybody trains on the same version, and the whole mean difference is taken (η = 1).

    Args:
        devices: names.
        trainer: as above.
        initial: version 0.
        layout: of the weights.
        rules: the encodings count; K is everybody.
        rounds: how many.
        versions: of the asynchronous run it is compared with: round r trains with the learning rate of version
            r · versions / rounds, so that both rates fall alike over the run.
        task: its name, which stands in the messages.
        observe: told each version, 0 included.
    """
    everybody = replace(rules, updates_per_version=len(devices), server_rate=1.0)
    server = VirtualServer(devices, initial, layout, task=task, rules=everybody)
    students = {device: _Student(device, task=task, rules=everybody) for device in devices}
    observe(server.state)
    for number in range(rounds):
        newest, progress = server.newest, number * versions // rounds
        for device in devices:
            todo = students[device].round_on(newest)
            trained = trainer(device, todo.start, version=progress, round_number=number)
            verdict = server.take(device, students[device].update(todo, trained))
            assert isinstance(verdict, Merge), f"{device}: {verdict}"
        published = server.publish_when_due()
        assert published
        observe(server.state)
    return server.state
