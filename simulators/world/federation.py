"""An asynchronous federation in virtual time: no clock, no sleeping, no broker, but real training and real merging.

Devices of different speed, some of them offline at times, take the newest model, train, and send the difference when
they are online. Rounds, updates, admission and merging are the device's and the aggregator's own code, so the results
hold for the running system, but a day takes a minute. Everything is determined by one seed.
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
"""Rounds on one base: no limit."""


@dataclass(frozen=True, kw_only=True)
class VirtualDevice:
    """One simulated device."""

    name: str
    round_seconds: float
    """Virtual duration of one training round."""
    offline: tuple[tuple[float, float], ...] = ()
    """Virtual periods (from, to) without a connection, in order; updates made in one are sent at its end."""

    def online_from(self, moment: float) -> float:
        """The first time at or after `moment` with a connection."""
        for start, stop in self.offline:
            if start <= moment < stop:
                moment = stop
        return moment


class LocalTrainer(Protocol):
    """Trains one round on one device from the weights `start`, which must not be modified.

    `version` is the base version: `start` is that model, or the device's own continuation of it while no newer version
    has arrived. `round_number` counts all rounds of the device.
    """

    def __call__(self, device: str, start: Vector, *, version: int, round_number: int) -> Trained: ...


Observe = Callable[[SimulationState], None]
"""Called for each new version."""


class Adversary(Protocol):
    """A hostile device. It is called for each new version before all others, so that its updates are fresh and arrive
    first.
    """

    device: str

    def takes_part(self, version: int) -> bool:
        """Whether it trains and sends honest updates while this version is the newest."""
        ...

    def payloads(self, newest: PublishedVersion) -> Sequence[bytes]:
        """Payloads that it sends in addition, right after this version was published."""
        ...


class _DeviceState:
    """One device's local state, as its outbox would keep it."""

    def __init__(self, name: str, *, task: str, rules: Rules) -> None:
        self._name = name
        self._task = task
        self._rules = rules
        self._local_student: LocalStudent | None = None
        self._sequence = 0

    def round_on(self, newest: PublishedVersion) -> Round:
        """The next round: from the newest model, or continuing the own student while there is no newer one."""
        todo = next_round(newest, self._local_student, now=0.0, rounds_max=_ROUNDS_MAX, retrain_after_seconds=0.0)
        assert todo is not None
        return todo

    def update(self, todo: Round, trained: Trained) -> bytes:
        """The payload of the update for a trained round."""
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
    """Runs until version `versions` is published.

    Args:
        devices: at least `rules.updates_per_version` of them, or no version is ever published.
        trainer: trains one round.
        initial: version 0, (layout.size,).
        layout: of the weights.
        rules: of merging and encoding.
        versions: how many to publish after version 0.
        task: its name in the messages.
        observe: called for each version, including 0.
        adversary: one of the devices. Without one, every update must be merged.
    """
    assert len(devices) >= rules.updates_per_version, "a version needs updates from this many devices"
    server = VirtualServer([device.name for device in devices], initial, layout, task=task, rules=rules)
    state = server.state

    def published() -> None:
        observe(state)
        if adversary is not None:
            for payload in adversary.payloads(server.newest):
                server.take(adversary.device, payload)

    published()
    students = {device.name: _DeviceState(device.name, task=task, rules=rules) for device in devices}
    # (time of arrival, order, device, round, round number); the order makes ties deterministic.
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
    """Synchronous FedAvg: in each round all devices train on the same version, and the full mean difference is applied
    (η = 1).

    Args:
        devices: names.
        trainer: trains one round.
        initial: version 0.
        layout: of the weights.
        rules: only the encodings are used; K is the number of devices.
        rounds: how many.
        versions: number of versions of the asynchronous run for comparison: round r uses the learning rate of version
            r · versions / rounds, so that both schedules decay alike.
        task: its name in the messages.
        observe: called for each version, including 0.
    """
    synchronous = replace(rules, updates_per_version=len(devices), server_rate=1.0)
    server = VirtualServer(devices, initial, layout, task=task, rules=synchronous)
    students = {device: _DeviceState(device, task=task, rules=synchronous) for device in devices}
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
