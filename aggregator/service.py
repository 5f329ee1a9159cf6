"""The aggregator's loop: receive → judge and merge → ledger → acknowledge → receipts → perhaps a new version.

The order is the guarantee. Nothing is acknowledged before it is in the ledger, so whatever dies, the broker delivers
again and the ledger knows what it has; nothing is published before it is committed, so a version that anybody saw is
a version that a restart still has.
"""

import logging
from collections.abc import Callable, Sequence

from aggregator.admission import Judged, receipt_for
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
_RECEIVE_SECONDS_MAX = 0.5
"""Upper bound of one wait, so that a stop request and a due version are seen soon."""
_LOOK_SECONDS = 0.05
"""The longest wait while it is not known yet what stands on the broker."""


class RefusedByBroker(ContractError):
    """The broker's answer to the first connection was no."""


def subscriptions(*, root: str, task: str, shard: int) -> tuple[str, ...]:
    """What an aggregator listens to."""
    return (
        topic_filter("update", root=root, task=task, shard=shard),
        topic_filter("evaluation", root=root, task=task),
    )


class Service:
    """One aggregator at work."""

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
        """Puts the parts together.

        Args:
            line: as restored from `ledger`.
            ledger: opened by this process alone.
            link: subscribed to `subscriptions(…)`.
            root: of the topics.
            totals: what the ledger had counted when it was opened.
            clock: of this machine, or a test's.
            pause: waits so many seconds, or until the program is told to stop.
            signing_keys: each signs every manifest; none: manifests go out plain.
            model_lifetime_seconds: a manifest expires so long after it was published; None: never. It is published
                again when half of that has passed.
            history: what the ledger knew when it was opened, for the summary in the status; None: nothing.
            recording: where telemetry of what happens goes; None: nowhere.
            is_evaluator: whether evaluations under this name are believed; those of others are ignored.
            heartbeat: is told in every turn that the loop moves, and what keeps it from its work.
            metrics: the file for Prometheus; None: none.
            replace_line: begin anew over another line that stands on the broker, instead of refusing to start.
            settle_seconds: how long a look at the broker waits for retained messages that come late.
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
        self._told_unreachable = RepeatFilter(clock.monotonic)
        self._is_missing = False
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
        """Works until told to stop.

        Raises:
            RefusedByBroker: user name or password are wrong, or the like.
            LineRefused: another line stands on the broker; nothing was changed there.
            LinkError: the link's thread died.
        """
        while not should_stop():
            self.step(should_stop)

    def step(self, should_stop: Callable[[], bool] = lambda: False) -> None:
        """One turn: a batch of events, a new version if one is due, and what has to be published again."""
        publication = self._publication
        self._heartbeat(
            trouble="" if publication.is_online else f"no connection to the broker: {self._unreachable or 'not yet'}"
        )
        self._take(self._receive(self._receive_seconds()), should_stop)
        if publication.is_looking:  # what a broker answers at once
            self._take(self._receive(0.0), should_stop)
        if publication.look_is_over():
            publication.settle()
            self._reporter.publish_status(devices_missing=self._devices_missing())
            self._take(publication.release(), should_stop)
        # What waits in the ledger may make a version due at once; who may be refused must not have changed anything.
        if publication.is_open and self.line.is_due(waited_seconds=self._waited_seconds()) and not should_stop():
            self._new_version(should_stop)
        self._note_missing()
        publication.keep_up()
        self._reporter.turn(devices_missing=self._devices_missing())

    def farewell(self) -> None:
        """Says on the status topic that the aggregator stops."""
        self._reporter.farewell(devices_missing=self._devices_missing())

    # -- one batch

    def _take(self, events: Sequence[Event], should_stop: Callable[[], bool]) -> None:
        """The order that is the guarantee (see the module)."""
        deliveries = self._sort(events)
        watch = Stopwatch(self._clock.monotonic)
        judged, evaluated = self._judge(deliveries)
        batch = batch_of(judged, [one.evaluation for one in evaluated])
        judge_seconds = watch.lap()
        if batch and not self._persist(lambda: self._ledger.commit_batch(batch, now=self._clock.unix()), should_stop):
            return  # told to stop while the disk was full: unacknowledged, so all of it comes again
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
        """Decodes and judges each message; what is to be merged is in the buffer afterwards."""
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
        """What is to be worked on now. What is about the connection, or on the aggregator's own topics, is seen to
        here; before the first look is over all else waits.
        """
        deliveries: list[Delivery] = []
        for event in events:
            match event:
                case Delivery(topic=topic) if topic in self._publication:
                    self._publication.hear(topic, event.payload)
                    if event.mid:  # at QoS 0 there is nothing to acknowledge
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
            log.warning("%s; old incarnations are forgotten later", error)

    def _prune(self) -> None:
        try:
            self._ledger.prune(Kept.of(self.line.settings))
            self._ledger.shrink_log()
        except LedgerBusy as error:
            log.warning("%s; old rows are deleted later", error)

    def _persist(self, write: Callable[[], None], should_stop: Callable[[], bool]) -> bool:
        """Writes, again and again while the disk refuses; False when told to stop before it went through.

        Waiting here is safe: nothing was acknowledged, and the link's bounded queue leaves the rest at the broker.
        """

        def attempt() -> bool:
            write()
            return True

        return bool(retry_while_busy(attempt, heartbeat=self._heartbeat, pause=self._pause, should_stop=should_stop))

    # -- versions

    def _waited_seconds(self) -> float:
        """Since the first update in the buffer."""
        return self._clock.monotonic() - self._waiting_since

    def _devices_missing(self) -> int:
        return self.line.devices_missing(waited_seconds=self._waited_seconds())

    def _note_missing(self) -> None:
        """Says once for each version that it waits for more devices than have come."""
        missing = self._devices_missing()
        if missing and not self._is_missing:
            log.warning(
                "version %d waits for %d more device%s: %d handed something in, and --devices-min is %d, so that no "
                "version is one person's update",
                self.line.version + 1,
                missing,
                "" if missing == 1 else "s",
                self.line.buffer.slots,
                self.line.settings.devices_min,
            )
        self._is_missing = bool(missing)

    def _new_version(self, should_stop: Callable[[], bool]) -> None:
        watch = Stopwatch(self._clock.monotonic)
        before, step = self.line.weights, self.line.next_step()
        updates, slots = self.line.buffer.updates, self.line.buffer.slots
        shelf = self._next_shelf(step.weights)
        row, rule = row_of(shelf), self.line.settings.rule
        encode_seconds = watch.lap()
        if not self._persist(lambda: self._ledger.commit_version(row, step, rule=rule.name), should_stop):
            return
        commit_seconds = watch.lap()
        wait_seconds = self._waited_seconds()
        self.line.advance(shelf, step)
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

    def _next_shelf(self, weights: Vector) -> Release:
        # Not before the version before it, which may have had to be published above a stranger with another clock.
        at = max(self._clock.unix(), self.line.shelf.published_at)
        try:
            return self.line.next_shelf(weights, at=at)
        except EncodeError as error:  # the line must go on; devices read any encoding
            log.warning("version %d is published as float32: %s", self.line.version + 1, error)
            return self.line.next_shelf(weights, at=at, encoding="float32")

    # -- the connection

    def _greet(self, event: Connected) -> None:
        """A broker may have lost what it retained, or hold what is not ours: that is looked at on every connection."""
        self._connected_before = True
        self._unreachable = ""
        self._told_unreachable.resolve()
        log.info("connected; looking at what stands on the broker")
        self._publication.connected(session_present=event.session_present)

    def _note_disconnected(self, event: Disconnected) -> None:
        if event.refused and not self._connected_before:
            raise RefusedByBroker(f"the broker refused this aggregator: {event.reason}; check user name and password")
        self._publication.disconnected()
        self._unreachable = event.reason
        if self._told_unreachable.passes(event.reason):
            log.warning("no connection to the broker: %s; trying again", event.reason)

    def _receive(self, timeout_seconds: float) -> Sequence[Event]:
        return self._link.receive(count=BATCH_DELIVERIES_MAX, timeout_seconds=timeout_seconds)

    def _receive_seconds(self) -> float:
        if self._publication.is_looking:
            return _LOOK_SECONDS
        if not self.line.buffer.slots or self._is_missing:
            return _RECEIVE_SECONDS_MAX
        return min(_RECEIVE_SECONDS_MAX, max(0.0, self.line.settings.version_seconds - self._waited_seconds()))
