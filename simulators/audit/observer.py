"""A passive MQTT client that reads and counts all messages of one task.

`Observations` interprets a message (pure: topic, payload and time are arguments); `Observer` is the thread around it.
An observer cannot see what the broker delivers to whom: the bytes that each device receives are counted by its proxy.
"""

import contextlib
import threading
import time
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field

from wire_contract import codec, topics
from wire_contract.encoding import decode_vector
from wire_contract.errors import ContractError, DecodeError, LinkError
from wire_contract.layout import Layout
from wire_contract.link.protocol import Connected, Delivery, Disconnected, Link
from wire_contract.messages import AggregatorStatus, Evaluation, Manifest, Update
from wire_contract.signatures import envelope

RECEIVE_COUNT = 256
"""Taken at a time; the default Receive Maximum of a link."""
TURN_SECONDS = 0.2
"""Longest wait for a message, so that a stop request is noticed soon."""
OBSERVED_KINDS: tuple[topics.Kind, ...] = (
    "model",
    "chunk",
    "delta",
    "update",
    "receipt",
    "presence",
    "evaluation",
    "aggregator",
)


def subscriptions(*, root: str, task: str) -> tuple[str, ...]:
    """Topic filters for all messages of one task."""
    return tuple(topics.topic_filter(kind, root=root, task=task) for kind in OBSERVED_KINDS)


@dataclass
class MessageTotals:
    """Number of messages and their payload bytes."""

    messages: int = 0
    size_bytes: int = 0

    def add(self, size_bytes: int) -> None:
        self.messages += 1
        self.size_bytes += size_bytes


@dataclass(frozen=True, kw_only=True)
class ObservedEvaluation:
    """An evaluator's measurement of one version."""

    version: int
    at: float
    """Arrival time at the observer, Unix seconds."""
    metrics: dict[str, float]


@dataclass(kw_only=True)
class Observations:
    """What was observed so far."""

    root: str
    student: Layout
    """Updates that do not decode to this layout are counted in `foreign_updates`."""
    by_kind: dict[str, MessageTotals] = field(default_factory=lambda: defaultdict(MessageTotals))
    by_device: dict[str, dict[str, MessageTotals]] = field(
        default_factory=lambda: defaultdict(lambda: defaultdict(MessageTotals))
    )
    """Messages by device (or evaluator) and kind."""
    version: int = -1
    """The newest published version; -1 before the first."""
    evaluations: list[ObservedEvaluation] = field(default_factory=list)
    aggregator: AggregatorStatus | None = None
    largest_bytes: int = 0
    largest_kind: str = ""
    numbers_max: int = 0
    """Largest number of values in one update."""
    foreign_updates: int = 0
    """Updates whose layout is not the student's."""
    retained: dict[str, bytes] = field(default_factory=dict)
    """Retained payloads by topic; empty for chunks and deltas, which can be large."""

    def take(self, topic_name: str, payload: bytes, at: float) -> None:
        """Counts and interprets one message."""
        try:
            topic = topics.parse(topic_name, root=self.root)
        except ContractError:
            return  # left in the session by an earlier run
        if not payload:
            self.retained.pop(topic_name, None)
            return  # deletes a retained message
        if topics.TOPICS[topic.kind].retain:
            self.retained[topic_name] = b"" if topic.kind in {"chunk", "delta"} else payload
        self.by_kind[topic.kind].add(len(payload))
        if "device" in topic.parts:
            self.by_device[topic.device][topic.kind].add(len(payload))
        if len(payload) > self.largest_bytes:
            self.largest_bytes, self.largest_kind = len(payload), topic.kind
        with contextlib.suppress(DecodeError):  # its bytes are counted; the aggregator refuses what it cannot read
            self._read(topic, payload, at)

    def _read(self, topic: topics.ParsedTopic, payload: bytes, at: float) -> None:
        match topic.kind:
            case "model":
                self.version = max(self.version, envelope.read_unverified(payload, Manifest).version)
            case "update":
                self._update(envelope.read_unverified(payload, Update))
            case "evaluation":
                told = codec.decode(payload, Evaluation)
                self.evaluations.append(ObservedEvaluation(version=told.version, at=at, metrics=dict(told.metrics)))
            case "aggregator":
                self.aggregator = codec.decode(payload, AggregatorStatus)
            case _:
                pass

    def _update(self, update: Update) -> None:
        try:
            self.numbers_max = max(self.numbers_max, decode_vector(update.tensors, self.student).size)
        except DecodeError:
            self.foreign_updates += 1

    def retained_payloads(self, *kinds: topics.Kind) -> dict[str, bytes]:
        """Retained payloads of these kinds of topic."""
        return {name: held for name, held in self.retained.items() if topics.parse(name, root=self.root).kind in kinds}


class Unreachable(LinkError):
    """The broker cannot be used; the message is one line."""


class Observer:
    """Reads in its own thread. Hold `lock` while reading `observations`."""

    def __init__(self, link: Link, observations: Observations, *, clock: Callable[[], float] = time.time) -> None:
        self.observations = observations
        self.lock = threading.Lock()
        self.failure: str | None = None
        """Why it has stopped reading; None while it works."""
        self._link = link
        self._clock = clock
        self._reason = "no answer"
        self._answered = threading.Event()
        self._refused: str | None = None
        self._stopping = False
        self._thread = threading.Thread(target=self._read_messages, name="observer", daemon=True)
        self._thread.start()

    def await_connection(self, seconds_max: float) -> None:
        """Raises:
        Unreachable: no connection within this time, or the broker refused it.
        """
        deadline = time.monotonic() + seconds_max
        self._answered.wait(max(0.0, deadline - time.monotonic()))
        if self._refused is not None:
            raise Unreachable(self._refused)
        if not self._answered.is_set():
            raise Unreachable(f"no broker within {seconds_max:g} s: {self._reason}")

    def delete_retained(self) -> None:
        """Deletes everything that this run retained below its topic root, to leave the user's broker as it was."""
        with self.lock:
            left = sorted(self.observations.retained)
        with contextlib.suppress(LinkError):
            for publication in [self._link.publish(topic, b"", retain=True) for topic in left]:
                publication.wait(2.0)

    def close(self) -> None:
        self._stopping = True
        self._thread.join(5.0)
        self._link.close()

    def _read_messages(self) -> None:
        try:
            while not self._stopping:
                for event in self._link.receive(count=RECEIVE_COUNT, timeout_seconds=TURN_SECONDS):
                    match event:
                        case Delivery():
                            with self.lock:
                                self.observations.take(event.topic, event.payload, self._clock())
                            self._link.ack(event)
                        case Connected():
                            self._answered.set()
                        case Disconnected(reason=reason, refused=refused):
                            self._reason = reason
                            if refused and not self._answered.is_set():
                                self._refused = f"{reason}; check user name and password"
                                self._answered.set()
                                return
        except LinkError as error:
            self.failure = str(error)
