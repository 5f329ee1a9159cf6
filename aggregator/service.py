"""The aggregator's loop: decode → judge → merge → commit → acknowledge → receipt → new version if one is due.

This order is the guarantee. A message is acknowledged only after the ledger has it: after a crash the broker delivers
it again, and the ledger recognises duplicates. A version is published only after it is committed, so every version that
a device has seen survives a restart.
"""

import logging
from collections.abc import Callable, Sequence

from aggregator.admission import Judged
from aggregator.enrolment.roles import is_evaluator
from aggregator.evaluations import Evaluated, EvaluationReader
from aggregator.ledger.file_format import LedgerBusy
from aggregator.ledger.ledger import Ledger
from aggregator.ledger.pruning import Kept
from aggregator.ledger.reading import Totals
from aggregator.ledger.records import batch_of, row_of
from aggregator.ledger.retrying import retry_while_busy
from aggregator.metrics_file import MetricsFile
from aggregator.model_line import ModelLine
from aggregator.publishing.inspection import SETTLE_SECONDS
from aggregator.publishing.publication import Publication
from aggregator.receipts import receipt_for
from aggregator.reporting import Reporter
from aggregator.status import StatusHistory
from aggregator.telemetry.recording import Recording, Stopwatch
from wire_contract.errors import ContractError, EncodeError, TopicError
from wire_contract.layout import Vector
from wire_contract.link.protocol import Connected, Delivery, Disconnected, Event, Link
from wire_contract.program.clock import Clock
from wire_contract.program.health import Heartbeat, no_heartbeat
from wire_contract.program.repeat_filter import RepeatFilter
from wire_contract.publication.release import Release
from wire_contract.signatures.signing import SigningKey
from wire_contract.topics import parse, topic_filter

log = logging.getLogger(__name__)

BATCH_DELIVERIES_MAX = 256
"""The link's Receive Maximum, so one commit takes all that may arrive unacknowledged; a smaller one needs more
fsyncs."""
_RECEIVE_SECONDS_MAX = 0.5
"""Longest wait for messages, so that a stop request or a due version is noticed soon."""
_LOOK_SECONDS = 0.05
"""Longest wait while the broker's retained messages are being inspected."""


class RefusedByBroker(ContractError):
    """The broker refused the first connection."""


def subscriptions(*, root: str, task: str, shard: int) -> tuple[str, ...]:
    """The topic filters that an aggregator subscribes to in its durable session."""
    return (
        topic_filter("update", root=root, task=task, shard=shard),
        topic_filter("evaluation", root=root, task=task),
    )


class Service:
    """One running aggregator."""

    def __init__(
        self,
        line: ModelLine,
        ledger: Ledger,
        link: Link,
        *,
        root: str,
        totals: Totals,
        clock: Clock,
        pause: Callable[[float], None],
        signing_keys: Sequence[SigningKey] = (),
        model_lifetime_seconds: float | None = None,
        history: StatusHistory | None = None,
        recording: Recording | None = None,
        is_evaluator: Callable[[str], bool] = is_evaluator,
        heartbeat: Heartbeat = no_heartbeat,
        metrics: MetricsFile | None = None,
        replace_line: bool = False,
        settle_seconds: float = SETTLE_SECONDS,
    ) -> None:
        """Connects the parts; nothing is sent yet.

        Args:
            line: restored from `ledger`.
            ledger: open in this process only.
            link: subscribed to `subscriptions(…)`.
            root: first levels of all topics.
            totals: counters of the ledger when it was opened.
            clock: the system's, or a fake in tests.
            pause: sleeps for a number of seconds, or until a stop is requested.
            signing_keys: each of them signs every manifest; without any, manifests are unsigned.
            model_lifetime_seconds: time from publication to expiry of a manifest, which is renewed at half of it; None:
                manifests do not expire.
            history: earlier activity from the ledger, for the summary in the status.
            recording: records telemetry; None: no telemetry.
            is_evaluator: whether evaluations from a device of this name count; others are ignored.
            heartbeat: called once per turn, with the current problem if there is one.
            metrics: file for Prometheus; None: no file.
            replace_line: replace another model line on the broker instead of refusing to start.
            settle_seconds: wait for late retained messages at each inspection of the broker.
        """
        self.line = line
        self._ledger = ledger
        self._link = link
        self._root = root
        self._clock = clock
        self._pause = pause
        self._publication = Publication(
            line,
            ledger,
            link,
            root=root,
            filters=subscriptions(root=root, task=line.settings.task, shard=line.settings.policy.shard),
            monotonic=clock.monotonic,
            unix=clock.unix,
            signing_keys=signing_keys,
            lifetime_seconds=model_lifetime_seconds,
            replaces=replace_line,
            settle_seconds=settle_seconds,
        )
        self._waiting_since = clock.monotonic()
        self._connected_before = False
        self._unreachable = ""
        self._unreachable_filter = RepeatFilter(clock.monotonic)
        self._evaluations = EvaluationReader(is_evaluator)
        self._heartbeat = heartbeat
        self._reporter = Reporter(
            line,
            self._publication,
            monotonic=clock.monotonic,
            unix=clock.unix,
            totals=totals,
            history=history,
            recording=recording,
            metrics=metrics,
        )

    def run(self, should_stop: Callable[[], bool]) -> None:
        """Runs until a stop is requested.

        Raises:
            RefusedByBroker: the first connection was refused, for example because of a wrong password.
            LineRefused: another model line is on the broker; nothing was changed there.
            LinkError: the link's thread died.
        """
        while not should_stop():
            self.step(should_stop)

    def step(self, should_stop: Callable[[], bool] = lambda: False) -> None:
        """One turn: one batch of messages, a new version if one is due, and everything that has to be republished."""
        publication = self._publication
        self._heartbeat(
            trouble="" if publication.is_online else f"no connection to the broker: {self._unreachable or 'not yet'}"
        )
        self._take(self._receive(self._receive_seconds()), should_stop)
        if publication.is_looking:  # brokers answer a subscription at once
            self._take(self._receive(0.0), should_stop)
        if publication.look_is_over():
            publication.settle()
            self._reporter.publish_status(devices_missing=self._devices_missing())
            self._take(publication.take_held(), should_stop)
        # Updates restored from the ledger may make a version due at once. Until the inspection has passed, the
        # aggregator may still be refused, and must not have changed anything.
        if publication.is_open and self.line.is_due(waited_seconds=self._waited_seconds()) and not should_stop():
            self._new_version(should_stop)
        publication.keep_up()
        self._reporter.turn(devices_missing=self._devices_missing())

    def line_changed(self) -> None:
        """`line.next_line` or `line.is_closed` has changed, which the manifest is to say."""
        self._publication.line_changed()

    def farewell(self) -> None:
        """Publishes the status `offline`."""
        self._reporter.farewell(devices_missing=self._devices_missing())

    # -- one batch

    def _take(self, events: Sequence[Event], should_stop: Callable[[], bool]) -> None:
        """One batch, in the order that is the guarantee (see the module)."""
        deliveries = self._sort(events)
        watch = Stopwatch(self._clock.monotonic)
        judged, evaluated = self._judge(deliveries)
        batch = batch_of(judged, [one.evaluation for one in evaluated])
        judge_seconds = watch.lap()
        if batch and not self._persist(lambda: self._ledger.commit_batch(batch, now=self._clock.unix()), should_stop):
            return  # a stop was requested while the disk was full; nothing is acknowledged, so the batch is redelivered
        commit_seconds = watch.lap()
        for delivery in deliveries:
            self._link.ack(delivery)
        for one in judged:
            receipt = receipt_for(one.verdict, version=one.version, update=one.update, payload=one.payload)
            self._publication.publisher.receipt(one.device, receipt)
        answer_seconds = watch.lap()
        self._reporter.answered(
            judged,
            evaluated,
            deliveries=len(deliveries),
            judge_seconds=judge_seconds,
            commit_seconds=commit_seconds,
            answer_seconds=answer_seconds,
        )
        self._forget_old_incarnations()

    def _judge(self, deliveries: Sequence[Delivery]) -> tuple[list[Judged], list[Evaluated]]:
        """Decodes and judges each message; accepted updates are in the buffer afterwards."""
        judged: list[Judged] = []
        evaluated: list[Evaluated] = []
        was_empty = self.line.buffer.slots == 0
        for delivery in deliveries:
            try:
                topic = parse(delivery.topic, root=self._root)
            except TopicError as error:
                log.warning("ignored: %s", error)
                continue
            if topic.kind == "update":
                judged.append(self.line.judge(topic, delivery.payload))
            elif topic.kind == "evaluation":
                evaluation = self._evaluations.read(topic, delivery.payload, self.line)
                if evaluation is not None:
                    evaluated.append(evaluation)
        if was_empty and self.line.buffer.slots:
            self._waiting_since = self._clock.monotonic()
        return judged, evaluated

    def _sort(self, events: Sequence[Event]) -> list[Delivery]:
        """Returns the messages of devices, and handles connection events and the aggregator's own topics itself.

        Messages of devices are held back until the first inspection of the broker has passed.
        """
        deliveries: list[Delivery] = []
        for event in events:
            match event:
                case Delivery(topic=topic) if topic in self._publication:
                    self._publication.hear(topic, event.payload)
                    if event.mid:  # QoS 0 messages have no packet identifier and need no acknowledgement
                        self._link.ack(event)
                case Delivery():
                    (deliveries.append if self._publication.is_open else self._publication.hold)(event)
                case Connected():
                    self._greet(event)
                case Disconnected():
                    self._note_disconnected(event)
        return deliveries

    def _forget_old_incarnations(self) -> None:
        try:
            for device in self.line.crowded():
                for key in self._ledger.forget_incarnations(device):
                    self.line.forget(key)
        except LedgerBusy as error:
            log.warning("%s; old incarnations will be deleted later", error)

    def _prune(self) -> None:
        try:
            self._ledger.prune(Kept.of(self.line.settings))
            self._ledger.shrink_log()
        except LedgerBusy as error:
            log.warning("%s; old rows will be deleted later", error)

    def _persist(self, write: Callable[[], None], should_stop: Callable[[], bool]) -> bool:
        """Writes, and retries while the disk is full; False: a stop was requested first.

        Waiting is safe: nothing has been acknowledged, and once the link's bounded queue is full, further messages stay
        at the broker.
        """

        def attempt() -> bool:
            write()
            return True

        return bool(retry_while_busy(attempt, heartbeat=self._heartbeat, pause=self._pause, should_stop=should_stop))

    # -- versions

    def _waited_seconds(self) -> float:
        """Time since the first update entered the buffer."""
        return self._clock.monotonic() - self._waiting_since

    def _devices_missing(self) -> int:
        return self.line.devices_missing(waited_seconds=self._waited_seconds())

    def _new_version(self, should_stop: Callable[[], bool]) -> None:
        watch = Stopwatch(self._clock.monotonic)
        before, step = self.line.weights, self.line.next_step()
        updates, slots = self.line.buffer.updates, self.line.buffer.slots
        if step.is_discarded:
            log.error(
                "version %d keeps its weights: the sum of its %d updates is not finite", self.line.version, updates
            )
        release = self._next_release(step.weights)
        row, rule = row_of(release), self.line.settings.rule
        encode_seconds = watch.lap()
        if not self._persist(lambda: self._ledger.commit_version(row, step, rule=rule.name), should_stop):
            return
        commit_seconds = watch.lap()
        wait_seconds = self._waited_seconds()
        self.line.advance(release, step)
        self._publication.new_version()
        self._reporter.version_published(
            before,
            updates=updates,
            devices=slots,
            wait_seconds=wait_seconds,
            encode_seconds=encode_seconds,
            commit_seconds=commit_seconds,
            publish_seconds=watch.lap(),
        )
        self._prune()

    def _next_release(self, weights: Vector) -> Release:
        # Never earlier than the previous version, which may have been stamped to outrank another aggregator's clock.
        at = max(self._clock.unix(), self.line.release.published_at)
        try:
            return self.line.next_release(weights, at=at)
        except EncodeError as error:  # a value too large for float16 must not stop the line; devices read any encoding
            log.warning("version %d is published as float32: %s", self.line.version + 1, error)
            return self.line.next_release(weights, at=at, encoding="float32")

    # -- the connection

    def _greet(self, event: Connected) -> None:
        """Every connection begins with an inspection: the broker may have lost retained messages, or hold another's."""
        self._connected_before = True
        self._unreachable = ""
        self._unreachable_filter.resolve()
        log.info("connected; inspecting the retained messages on the broker")
        self._publication.connected(session_present=event.session_present)

    def _note_disconnected(self, event: Disconnected) -> None:
        if event.refused and not self._connected_before:
            raise RefusedByBroker(f"the broker refused this aggregator: {event.reason}; check user name and password")
        self._publication.disconnected()
        self._unreachable = event.reason
        if self._unreachable_filter.passes(event.reason):
            log.warning("no connection to the broker: %s; trying again", event.reason)

    def _receive(self, timeout_seconds: float) -> Sequence[Event]:
        return self._link.receive(count=BATCH_DELIVERIES_MAX, timeout_seconds=timeout_seconds)

    def _receive_seconds(self) -> float:
        if self._publication.is_looking:
            return _LOOK_SECONDS
        if not self.line.buffer.slots or self._devices_missing():
            return _RECEIVE_SECONDS_MAX
        return min(_RECEIVE_SECONDS_MAX, max(0.0, self.line.settings.version_seconds - self._waited_seconds()))
