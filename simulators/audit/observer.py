"""Looks on: a client of its own that reads everything of one task and counts it. It changes nothing.

`Sightings` decides what a message means (pure: topic, payload and moment come in); `Observer` is the thread around it.
What a broker sends to whom cannot be seen from here; the bytes that each device receives are counted on its line.
"""

import contextlib
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field

from wire_contract import codec, topics
from wire_contract.encoding import decode_vector
from wire_contract.errors import ContractError, DecodeError, LinkError
from wire_contract.layout import Layout
from wire_contract.link.protocol import Connected, Delivery, Disconnected, Link
from wire_contract.messages import AggregatorStatus, Evaluation, Identity, Manifest, Presence, Receipt, Update
from wire_contract.signatures import envelope

RECEIVE_COUNT = 256
TURN_SECONDS = 0.2
SEEN_KINDS: tuple[topics.Kind, ...] = (
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
    """Everything of one task."""
    return tuple(topics.topic_filter(kind, root=root, task=task) for kind in SEEN_KINDS)


@dataclass
class Flow:
    """Messages and their payload bytes."""

    messages: int = 0
    size_bytes: int = 0

    def add(self, size_bytes: int) -> None:
        self.messages += 1
        self.size_bytes += size_bytes


@dataclass(frozen=True, kw_only=True)
class SeenEvaluation:
    """What an evaluator said of one version."""

    version: int
    at: float
    """Unix seconds at which it was seen here; so are all moments of this module."""
    metrics: dict[str, float]


@dataclass(frozen=True, kw_only=True)
class SeenReceipt:
    """What a device was told of one update."""

    device: str
    sequence: int
    outcome: str
    reason: str | None
    staleness: int
    weight: float
    at: float


@dataclass(kw_only=True)
class Sightings:
    """What was seen so far."""

    root: str
    student: Layout
    """An update that does not decode to exactly this is counted as foreign."""
    by_kind: dict[str, Flow] = field(default_factory=lambda: defaultdict(Flow))
    by_device: dict[str, dict[str, Flow]] = field(default_factory=lambda: defaultdict(lambda: defaultdict(Flow)))
    """Update, receipt, presence and evaluation of each device or evaluator."""
    versions: dict[int, float] = field(default_factory=dict)
    """When the manifest of each version was first seen."""
    version: int = -1
    """The newest; -1 before the first."""
    evaluations: list[SeenEvaluation] = field(default_factory=list)
    receipts: list[SeenReceipt] = field(default_factory=list)
    updates: Counter[Identity] = field(default_factory=Counter)
    """How often each was seen on its way to the aggregator."""
    presence: dict[str, str] = field(default_factory=dict)
    aggregator: AggregatorStatus | None = None
    largest_bytes: int = 0
    largest_kind: str = ""
    numbers_max: int = 0
    """Most numbers that an update of a device held."""
    foreign_updates: int = 0
    """Updates that are not of the student's layout."""
    unreadable: int = 0
    """Messages that are not of the contract."""
    retained: dict[str, bytes] = field(default_factory=dict)
    """What our topics hold now, by topic; of chunks and deltas, which can be large, without the payload."""

    def take(self, topic_name: str, payload: bytes, at: float) -> None:
        """One message."""
        try:
            topic = topics.parse(topic_name, root=self.root)
        except ContractError:
            return  # of a session that an older run left
        if not payload:
            self.retained.pop(topic_name, None)
            return  # a retained message is deleted
        if topics.TOPICS[topic.kind].retain:
            self.retained[topic_name] = b"" if topic.kind in {"chunk", "delta"} else payload
        self.by_kind[topic.kind].add(len(payload))
        if "device" in topic.parts:
            self.by_device[topic.device][topic.kind].add(len(payload))
        if len(payload) > self.largest_bytes:
            self.largest_bytes, self.largest_kind = len(payload), topic.kind
        try:
            self._read(topic, payload, at)
        except DecodeError:
            self.unreadable += 1

    def _read(self, topic: topics.ParsedTopic, payload: bytes, at: float) -> None:
        match topic.kind:
            case "model":
                self._manifest(envelope.read(payload, Manifest), at)
            case "update":
                self._update(envelope.read(payload, Update))
            case "receipt":
                self._receipt(topic.device, codec.decode(payload, Receipt), at)
            case "presence":
                self.presence[topic.device] = codec.decode(payload, Presence).status
            case "evaluation":
                told = codec.decode(payload, Evaluation)
                self.evaluations.append(SeenEvaluation(version=told.version, at=at, metrics=dict(told.metrics)))
            case "aggregator":
                self.aggregator = codec.decode(payload, AggregatorStatus)
            case "chunk" | "delta":
                pass

    def _manifest(self, manifest: Manifest, at: float) -> None:
        self.versions.setdefault(manifest.version, at)
        self.version = max(self.version, manifest.version)

    def _update(self, update: Update) -> None:
        self.updates[update.identity] += 1
        try:
            self.numbers_max = max(self.numbers_max, decode_vector(update.tensors, self.student).size)
        except DecodeError:
            self.foreign_updates += 1

    def _receipt(self, device: str, receipt: Receipt, at: float) -> None:
        self.receipts.append(
            SeenReceipt(
                device=device,
                sequence=receipt.sequence,
                outcome=receipt.outcome,
                reason=receipt.reason,
                staleness=receipt.staleness,
                weight=receipt.weight,
                at=at,
            )
        )

    def kept(self, *kinds: topics.Kind) -> dict[str, bytes]:
        """What topics of these kinds hold now."""
        return {name: held for name, held in self.retained.items() if topics.parse(name, root=self.root).kind in kinds}

    @property
    def accuracy(self) -> SeenEvaluation | None:
        """The evaluation of the newest evaluated version."""
        return max(self.evaluations, key=lambda told: told.version, default=None)


class Unreachable(LinkError):
    """The broker cannot be used; one line."""


class Observer:
    """Reads in a thread of its own. Look at `sightings` under `lock`."""

    def __init__(self, link: Link, sightings: Sightings, *, clock: Callable[[], float] = time.time) -> None:
        self.sightings = sightings
        self.lock = threading.Lock()
        self.failure: str | None = None
        """Why it looks on no longer; None while all is well."""
        self._link = link
        self._clock = clock
        self._reason = "no answer"
        self._answered = threading.Event()
        self._refused: str | None = None
        self._stopping = False
        self._thread = threading.Thread(target=self._look, name="observer", daemon=True)
        self._thread.start()

    def await_connection(self, seconds_max: float) -> None:
        """Raises:
        Unreachable: no connection within so many seconds, or the broker says no.
        """
        deadline = time.monotonic() + seconds_max
        self._answered.wait(max(0.0, deadline - time.monotonic()))
        if self._refused is not None:
            raise Unreachable(self._refused)
        if not self._answered.is_set():
            raise Unreachable(f"no broker within {seconds_max:g} s: {self._reason}")

    def delete_retained(self) -> None:
        """Leaves the user's broker as it was: what this run retained below its own root is deleted."""
        with self.lock:
            left = sorted(self.sightings.retained)
        with contextlib.suppress(LinkError):
            for publication in [self._link.publish(topic, b"", retain=True) for topic in left]:
                publication.wait(2.0)

    def close(self) -> None:
        self._stopping = True
        self._thread.join(5.0)
        self._link.close()

    def _look(self) -> None:
        try:
            while not self._stopping:
                for event in self._link.receive(count=RECEIVE_COUNT, timeout_seconds=TURN_SECONDS):
                    match event:
                        case Delivery():
                            with self.lock:
                                self.sightings.take(event.topic, event.payload, self._clock())
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
