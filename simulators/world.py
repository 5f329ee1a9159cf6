"""An asynchronous federation in virtual time: no clock, no sleeping, no broker, but real training and real merging.

Devices of unlike speed, some of them offline at times, take the newest model, train, and hand in the difference when
they are online again. What they hand in goes through the project's own encodings and merging, so a figure from here is
one of the running system, only that a day of it takes a minute. Everything follows from one seed.
"""

import heapq
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol

from torch import Tensor, nn

from aggregator.merging import Buffer
from aggregator.staleness import Decay, SampleWeight, weight_of
from device_client.task import Examples, Task
from device_client.training import logits_of, seed_of, seeded, train_student, wants_anchor
from device_client.vectors import load_vector, vector_of
from wire_contract.encoding import EncodingName, decode_vector, encode_vector
from wire_contract.layout import Layout, Vector


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


@dataclass(frozen=True, kw_only=True)
class Learned:
    """The outcome of one round."""

    weights: Vector
    """After training, (layout.size,)."""
    samples: int


class Learner(Protocol):
    """Trains one round on one device, from the weights `start`, which must not be changed.

    `base` is the published model `version`; `start` is the same, or what the device learned on it so far when no newer
    one has come.
    """

    def __call__(self, device: str, start: Vector, *, base: Vector, version: int, round_number: int) -> Learned: ...


@dataclass(frozen=True, kw_only=True)
class Rules:
    """How updates become versions, and how both travel."""

    updates_per_version: int = 3
    """K of FedBuff; at most one update a device in each version."""
    server_rate: float = 0.5
    """η: share of the mean difference that is taken. Several devices learn the same thing from the same base at the
    same time, and later versions take each of these steps again: with mean staleness s, η of about 1 / (1 + s) keeps
    the model from overshooting. Without offline periods that is about K / devices."""
    decay: Decay = "polynomial"
    sample_weight: SampleWeight = "linear"
    update_encoding: EncodingName = "int8"
    model_encoding: EncodingName = "float16"


@dataclass(kw_only=True)
class History:
    """What happened."""

    weights: Vector
    """Of the newest version, as published."""
    version: int = 0
    staleness: list[int] = field(default_factory=list)
    """Of each merged update, in order."""
    merged: dict[str, int] = field(default_factory=dict)
    """Updates of each device."""
    seconds: float = 0.0
    """Virtual time at the end."""


Observe = Callable[[int, float, Vector], None]
"""Told each new version: number, virtual seconds, weights as published."""


class _Server:
    """The aggregator's decisions, without its ledger and its link."""

    def __init__(self, initial: Vector, layout: Layout, rules: Rules) -> None:
        self.layout = layout
        self.rules = rules
        self.history = History(weights=self._published(initial))
        self._buffer = Buffer(layout.size)

    def take(self, device: str, start: Vector, learned: Learned, *, base_version: int) -> None:
        """One update, encoded and decoded as on the wire, into the buffer."""
        difference = learned.weights - start
        tensors = encode_vector(difference, self.layout, self.rules.update_encoding)
        staleness = self.history.version - base_version
        weight = weight_of(learned.samples, staleness, decay=self.rules.decay, sample_weight=self.rules.sample_weight)
        self._buffer.add(device, decode_vector(tensors, self.layout), weight)
        self.history.staleness.append(staleness)
        self.history.merged[device] = self.history.merged.get(device, 0) + 1

    def publish_when_due(self, updates: int) -> bool:
        """A new version when so many devices have one update in the buffer."""
        if self._buffer.slots < updates:
            return False
        self.history.weights = self._published(self._buffer.merged_onto(self.history.weights, self.rules.server_rate))
        self.history.version += 1
        self._buffer.clear()
        return True

    def _published(self, weights: Vector) -> Vector:
        # What everybody has is the decoded model, so the server goes on from exactly that.
        return decode_vector(encode_vector(weights, self.layout, self.rules.model_encoding), self.layout)


def run_asynchronous(
    devices: Sequence[VirtualDevice],
    learner: Learner,
    initial: Vector,
    layout: Layout,
    *,
    rules: Rules,
    versions: int,
    observe: Observe = lambda _version, _seconds, _weights: None,
) -> History:
    """Runs until `versions` versions are published.

    Args:
        devices: at least `rules.updates_per_version` of them, or no version ever comes.
        learner: real training, or a test's.
        initial: version 0, (layout.size,).
        layout: of the weights.
        rules: of merging and encoding.
        versions: how many to publish after version 0.
        observe: told each version, 0 included.
    """
    assert len(devices) >= rules.updates_per_version, "a version needs one update each of so many devices"
    server = _Server(initial, layout, rules)
    history = server.history
    observe(0, 0.0, history.weights)
    # (moment handed in, order, device, base version, base, start, round); the order makes ties deterministic.
    queue = [
        (device.online_from(device.round_seconds), order, device, 0, history.weights, history.weights, 0)
        for order, device in enumerate(devices)
    ]
    heapq.heapify(queue)
    while history.version < versions:
        now, order, device, base_version, base, start, number = heapq.heappop(queue)
        history.seconds = now
        learned = learner(device.name, start, base=base, version=base_version, round_number=number)
        server.take(device.name, start, learned, base_version=base_version)
        if server.publish_when_due(rules.updates_per_version):
            observe(history.version, now, history.weights)
        handed_in = device.online_from(now + device.round_seconds)
        # Without a newer model the device goes on along its own line; merging adds such differences up.
        start = history.weights if history.version > base_version else learned.weights
        heapq.heappush(queue, (handed_in, order, device, history.version, history.weights, start, number + 1))
    return history


def run_synchronous(
    devices: Sequence[str],
    learner: Learner,
    initial: Vector,
    layout: Layout,
    *,
    rules: Rules,
    rounds: int,
    versions: int,
) -> History:
    """FedAvg: each round everybody trains on the same version, and the whole mean difference is taken (η = 1).

    Args:
        devices: names.
        learner: as above.
        initial: version 0.
        layout: of the weights.
        rules: the encodings count; K is everybody.
        rounds: how many.
        versions: of the asynchronous run it is compared with: round r trains with the learning rate of version
            r · versions / rounds, so that both rates fall alike over the run.
    """
    server = _Server(initial, layout, replace(rules, updates_per_version=len(devices), server_rate=1.0))
    for number in range(rounds):
        base, progress = server.history.weights, number * versions // rounds
        for device in devices:
            learned = learner(device, base, base=base, version=progress, round_number=number)
            server.take(device, base, learned, base_version=number)
        published = server.publish_when_due(len(devices))
        assert published
    return server.history


class StudentLearner:
    """A task's real training; asks the teacher once about each device's data."""

    def __init__(
        self, task: Task, data: Mapping[str, Examples], teacher: nn.Module | None, layout: Layout, *, seed: int
    ) -> None:
        self._recipe = task.recipe
        self._data = data
        self._layout = layout
        self._seed = seed
        self._numbers = {device: number for number, device in enumerate(sorted(data))}
        with seeded(seed):
            self._student = task.student()
        wanted = teacher is not None and task.recipe.alpha > 0
        self._answers: dict[str, Tensor | None] = {
            device: logits_of(teacher, examples.inputs) if teacher is not None and wanted else None
            for device, examples in data.items()
        }

    def __call__(self, device: str, start: Vector, *, base: Vector, version: int, round_number: int) -> Learned:
        base_logits = None
        if wants_anchor(self._recipe):
            load_vector(self._student, self._layout, base)
            base_logits = logits_of(self._student, self._data[device].inputs)
        load_vector(self._student, self._layout, start)
        result = train_student(
            self._student,
            None,
            self._data[device],
            self._recipe,
            seed=seed_of(self._seed, self._numbers[device], round_number),
            version=version,
            teacher_logits=self._answers[device],
            base_logits=base_logits,
        )
        return Learned(weights=vector_of(self._student, self._layout), samples=result.samples)
