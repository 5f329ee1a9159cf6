"""The aggregator's loop: receive → judge and merge → ledger → acknowledge → receipts → perhaps a new version.

The order is the guarantee. Nothing is acknowledged before it is in the ledger, so whatever dies, the broker delivers
again and the ledger knows what it has; nothing is published before it is committed, so a version that anybody saw is
a version that a restart still has.
"""

import logging
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from aggregator.admission import Merge, Refuse, receipt_for
from aggregator.enrolment.roles import is_evaluator
from aggregator.ledger.file_format import LedgerBusy
from aggregator.ledger.ledger import Ledger
from aggregator.ledger.reading import Totals
from aggregator.metrics_file import Figures, MetricsFile
from aggregator.model_line import BatchBuilder, ModelLine, announcement, row_of
from aggregator.patience import patiently
from aggregator.publishing.line_check import STANDS_IN_THE_WAY
from aggregator.publishing.line_entry import Entry, publish_anew
from aggregator.publishing.own_topics import SETTLE_SECONDS, OwnTopics
from aggregator.publishing.publisher import Publisher
from aggregator.status import History, Tally
from aggregator.status_publisher import Telling
from aggregator.telemetry.recording import Recording, Stopwatch
from wire_contract.codec import decode
from wire_contract.errors import ContractError, DecodeError, EncodeError, TopicError
from wire_contract.layout import Vector
from wire_contract.link.protocol import Connected, Delivery, Disconnected, Event, Link
from wire_contract.messages import AggregatorStatus, Evaluation, Receipt
from wire_contract.program.health import Heartbeat, no_heartbeat
from wire_contract.program.repeated_complaints import Told
from wire_contract.publication.release import Shelf
from wire_contract.signatures.signing import SigningKey
from wire_contract.topics import ParsedTopic, parse, topic_filter

log = logging.getLogger(__name__)

BATCH_DELIVERIES_MAX = 256
_RECEIVE_SECONDS_MAX = 0.5
"""Upper bound of one wait, so that a stop request and a due version are seen soon."""
_PUBLISH_AGAIN_SECONDS = 5.0
_LOOK_SECONDS = 0.05
"""The longest wait while it is not known yet what stands on the broker."""

_STRANGERS_TOLD_MAX = 256
"""Devices named in the log because they send evaluations without being evaluators."""


class RefusedByBroker(ContractError):
    """The broker's answer to the first connection was no."""


@dataclass(frozen=True, kw_only=True)
class Clock:
    """Time, as an argument."""

    monotonic: Callable[[], float]
    unix: Callable[[], float]


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
        history: History | None = None,
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
        self._merged, self._duplicates, self._refused = totals.merged, totals.duplicates, totals.refused
        self._publisher = Publisher(
            link,
            root=root,
            task=line.settings.task,
            shard=line.settings.policy.shard,
            signing_keys=signing_keys,
        )
        self._lifetime_seconds = model_lifetime_seconds
        self._expires_at: float | None = None
        """Of the manifest that was published last, Unix seconds."""
        self._renew_at = math.inf
        """On the monotonic clock: then the manifest needs a later expiry."""
        self._waiting_since = clock.monotonic()
        self._connected_before = False
        self._unreachable = ""
        self._told_unreachable = Told(clock.monotonic)
        self._online = False
        """Connected, and it is known what stands on the broker."""
        self._own = OwnTopics(
            self._publisher,
            link,
            ledger,
            root=root,
            task=line.settings.task,
            keys=[key.public for key in signing_keys],
            monotonic=clock.monotonic,
            settle_seconds=settle_seconds,
        )
        policy = line.settings.policy
        self._entry = Entry(
            line,
            ledger,
            link,
            filters=subscriptions(root=root, task=line.settings.task, shard=policy.shard),
            topic=self._publisher.model_topic,
            replaces=replace_line,
        )
        self._is_missing = False
        self._is_unpublished = False
        self._publish_again_at = 0.0
        self._tally = Tally(history or History(), now=clock.unix())
        self._tally.committed(line.version, at=line.shelf.published_at)
        self._recording = recording or Recording()
        self._is_evaluator = is_evaluator
        self._heartbeat = heartbeat
        self._metrics = metrics
        self._not_evaluators: set[str] = set()
        """Names that the log has mentioned, so that each is one line; bounded."""
        self._telling = Telling(self._publisher.status)

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
        """One turn: a batch of events, and a new version if one is due."""
        self._heartbeat(
            trouble="" if self._online else f"no connection to the broker: {self._unreachable or 'not yet'}"
        )
        events = self._link.receive(count=BATCH_DELIVERIES_MAX, timeout_seconds=self._receive_seconds())
        self._take(events, should_stop)
        if self._own.is_looking:  # what a broker answers at once
            self._take(self._link.receive(count=BATCH_DELIVERIES_MAX, timeout_seconds=0.0), should_stop)
        if self._own.look_is_over():
            self._settle(should_stop)
        waited = self._clock.monotonic() - self._waiting_since
        # What waits in the ledger may make a version due at once; who may be refused must not have changed anything.
        if self._entry.is_open and self.line.is_due(waited_seconds=waited) and not should_stop():
            self._new_version(should_stop)
        self._note_missing()
        if self._is_unpublished and self._online and self._clock.monotonic() >= self._publish_again_at:
            self._publish()
        if self._online and self._own.is_to_be_healed():
            self._publish()
        if self._online and self._clock.monotonic() >= self._renew_at:
            self._publish(renew=True)
        if self._online and self._telling.is_due(self._clock.monotonic()):
            self._telling.tell(self._status("online"), now=self._clock.monotonic())
        self._recording.stands(self.line, self._counters(), connected=self._online, now=self._clock.monotonic())
        if self._metrics is not None:
            self._metrics.stands(self._figures(), now=self._clock.monotonic())

    def farewell(self) -> None:
        """Says on the status topic that it goes; without a connection the will has said so."""
        if self._online:
            self._publisher.status(self._status("offline"))

    # -- one batch

    def _take(self, events: Sequence[Event], should_stop: Callable[[], bool]) -> None:
        deliveries = self._sort(events)
        batch = BatchBuilder()
        answers: list[tuple[str, Receipt]] = []
        was_empty = self.line.buffer.slots == 0
        watch = Stopwatch(self._clock.monotonic)
        for delivery in deliveries:
            self._judge(delivery, batch, answers)
        if was_empty and self.line.buffer.slots:
            self._waiting_since = self._clock.monotonic()
        written = batch.build()
        judge_seconds = watch.lap()
        if written and not self._persist(
            lambda: self._ledger.commit_batch(written, now=self._clock.unix()), should_stop
        ):
            self._recording.batch_abandoned()
            return  # told to stop while the disk was full: unacknowledged, so all of it comes again
        commit_seconds = watch.lap()
        for delivery in deliveries:
            self._link.ack(delivery)
        for device, receipt in answers:
            self._publisher.receipt(device, receipt)
        if written:
            self._recording.batch_committed(
                len(deliveries),
                judge_seconds=judge_seconds,
                commit_seconds=commit_seconds,
                answer_seconds=watch.lap(),
            )
        self._forget_old_incarnations()

    def _sort(self, events: Sequence[Event]) -> list[Delivery]:
        """What is to be worked on now. What is about the connection, or on the aggregator's own topics, is seen to
        here; before the first look is over all else waits.
        """
        deliveries: list[Delivery] = []
        for event in events:
            match event:
                case Delivery(topic=topic) if topic in self._own:
                    self._own.hear(topic, event.payload)
                    if event.mid:  # at QoS 0 there is nothing to acknowledge
                        self._link.ack(event)
                case Delivery():
                    (deliveries.append if self._entry.is_open else self._entry.hold)(event)
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
            self._ledger.prune(self.line.settings.kept)
            self._ledger.shrink_log()
        except LedgerBusy as error:
            log.warning("%s; old rows are deleted later", error)

    def _judge(self, delivery: Delivery, batch: BatchBuilder, answers: list[tuple[str, Receipt]]) -> None:
        try:
            topic = parse(delivery.topic, root=self._root)
        except TopicError as error:
            log.warning("ignored: %s", error)
            return
        if topic.kind == "evaluation":
            self._take_evaluation(topic, delivery.payload, batch)
            return
        if topic.kind != "update":
            return
        judged = self.line.judge(topic, delivery.payload)
        batch.take(judged, delivery.payload, into_version=self.line.version + 1)
        self._recording.judged(topic.device, judged, len(delivery.payload))
        self._tally.answered(
            None if judged.update is None else judged.update.device,
            judged.verdict,
            size_bytes=len(delivery.payload),
            at=self._clock.unix(),
        )
        match judged.verdict:
            case Merge():
                self._merged += 1
            case Refuse(reason, detail, seen_before=False):
                self._refused += 1
                log.warning("refused an update of %s: %s, %s", topic.device, reason, detail)
            case _:
                self._duplicates += 1
        receipt = receipt_for(judged.verdict, version=judged.version, update=judged.update, payload=delivery.payload)
        answers.append((topic.device, receipt))

    def _take_evaluation(self, topic: ParsedTopic, payload: bytes, batch: BatchBuilder) -> None:
        if not self._is_evaluator(topic.device):
            if topic.device not in self._not_evaluators and len(self._not_evaluators) < _STRANGERS_TOLD_MAX:
                self._not_evaluators.add(topic.device)
                log.warning("ignored evaluations of %s: not an evaluator; see --evaluator", topic.device)
            return
        try:
            evaluation = decode(payload, Evaluation)
        except DecodeError as error:
            log.warning("ignored an evaluation of %s: %s", topic.device, error)
            return
        if evaluation.device != topic.device or evaluation.task != topic.task:
            log.warning("ignored an evaluation of %s: it names another device or task", topic.device)
            return
        if not self.line.knows(evaluation.version, evaluation.digest):
            log.warning("ignored an evaluation of %s: no version %d here", topic.device, evaluation.version)
            return
        batch.take_evaluation(evaluation)
        self._recording.evaluated(evaluation, newest_version=self.line.version, size_bytes=len(payload))
        self._tally.evaluated(evaluation)

    def _persist(self, write: Callable[[], None], should_stop: Callable[[], bool]) -> bool:
        """Writes, again and again while the disk refuses; False when told to stop before it went through.

        Waiting here is safe: nothing was acknowledged, and the link's bounded queue leaves the rest at the broker.
        """

        def attempt() -> bool:
            write()
            return True

        return bool(patiently(attempt, heartbeat=self._heartbeat, pause=self._pause, should_stop=should_stop))

    # -- versions

    def _devices_missing(self) -> int:
        return self.line.devices_missing(waited_seconds=self._clock.monotonic() - self._waiting_since)

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
        before, weights = self.line.weights, self.line.next_weights()
        updates, slots = self.line.buffer.updates, self.line.buffer.slots
        shelf = self._next_shelf(weights)
        row = row_of(shelf)
        encode_seconds = watch.lap()
        if not self._persist(lambda: self._ledger.commit_version(row, weights), should_stop):
            return
        commit_seconds = watch.lap()
        wait_seconds = self._clock.monotonic() - self._waiting_since
        self.line.advance(shelf, weights)
        self._tally.committed(row.version, at=row.committed_at)
        if self._online:  # else it is published after the next look, and a queue for later must not fill with models
            self._publish(renew=True)
        self._recording.version_committed(
            shelf,
            before,
            weights,
            updates=updates,
            devices=slots,
            wait_seconds=wait_seconds,
            encode_seconds=encode_seconds,
            commit_seconds=commit_seconds,
            publish_seconds=watch.lap(),
        )
        log.info("version %d: %d updates of %d devices", row.version, updates, slots)
        self._prune()

    def _next_shelf(self, weights: Vector) -> Shelf:
        # Not before the version before it, which may have had to be published above a stranger with another clock.
        at = max(self._clock.unix(), self.line.shelf.published_at)
        try:
            return self.line.next_shelf(weights, at=at)
        except EncodeError as error:  # the line must go on; devices read any encoding
            log.warning("version %d is published as float32: %s", self.line.version + 1, error)
            return self.line.next_shelf(weights, at=at, encoding="float32")

    def _publish(self, *, renew: bool = False) -> None:
        """All that does not stand on the broker yet, and what is no longer kept goes. What the link does not take now
        (its queue is full) is offered again a little later. `renew`: the manifest gets a later expiry.
        """
        now = self._clock.monotonic()
        is_above = self._surpass()
        if self._lifetime_seconds is not None and (renew or self._expires_at is None):
            self._expires_at = self._clock.unix() + self._lifetime_seconds
            self._renew_at = now + self._lifetime_seconds / 2  # who is away for the other half does no harm
        stands = announcement(self.line.settings, self.line.shelf, expires_at=self._expires_at)
        is_published = self._publisher.model(stands)
        self._is_unpublished = not (self._own.tidy() and is_published and is_above)
        self._publish_again_at = now + _PUBLISH_AGAIN_SECONDS

    def _surpass(self) -> bool:
        """Gives the newest version a later moment than what somebody else announced, so that devices take it again,
        whatever number that had. False: the disk does not take it now.
        """
        if self._own.rival_at is None:
            return True
        try:
            publish_anew(self.line, self._ledger, above=self._own.rival_at, now=self._clock.unix())
        except LedgerBusy as error:
            log.warning("%s; version %d is published above the stranger's later", error, self.line.version)
            return False
        self._own.rival_at = None
        return True

    # -- the connection

    def _greet(self, event: Connected) -> None:
        """A broker may have lost what it retained, or hold what is not ours: that is looked at on every connection."""
        self._connected_before = True
        self._entry.connected(session_present=event.session_present)
        self._unreachable = ""
        self._told_unreachable.mended()
        log.info("connected; looking at what stands on the broker")
        self._own.connected()

    def _settle(self, should_stop: Callable[[], bool]) -> None:
        """What follows of a look."""
        found = self._own.found()
        if not self._entry.is_open:
            self._entry.decide(found, now=self._clock.unix())
        elif found is not None and found.whose in STANDS_IN_THE_WAY:
            self._own.report(found)
        was_online, self._online = self._online, True
        if not was_online:
            log.info("publishing what is missing of version %d", self.line.version)
        self._publish()
        # Also when there is no news: the status that stands there may be somebody else's, or gone.
        self._telling.tell(self._status("online"), now=self._clock.monotonic(), anyway=True)
        self._take(self._entry.release(), should_stop)

    def _note_disconnected(self, event: Disconnected) -> None:
        if event.refused and not self._connected_before:
            raise RefusedByBroker(f"the broker refused this aggregator: {event.reason}; check user name and password")
        self._online = False
        self._own.disconnected()
        self._entry.disconnected()
        self._unreachable = event.reason
        if self._told_unreachable.is_news(event.reason):
            log.warning("no connection to the broker: %s; trying again", event.reason)

    def _receive_seconds(self) -> float:
        if self._own.is_looking:
            return _LOOK_SECONDS
        if not self.line.buffer.slots or self._is_missing:
            return _RECEIVE_SECONDS_MAX
        waited = self._clock.monotonic() - self._waiting_since
        return min(_RECEIVE_SECONDS_MAX, max(0.0, self.line.settings.version_seconds - waited))

    def _status(self, status: Literal["online", "offline"]) -> AggregatorStatus:
        summary = self._tally.summary(now=self._clock.unix(), bytes_down=self._publisher.published_bytes)
        counters = self._counters()
        if missing := self._devices_missing():
            counters["devices_missing"] = missing
        return AggregatorStatus(status=status, version=self.line.version, counters=counters, summary=summary)

    def _counters(self) -> dict[str, int]:
        strangers = {"strangers": self._own.strangers} if self._own.strangers else {}
        return {
            **strangers,
            "merged": self._merged,
            "duplicate": self._duplicates,
            "refused": self._refused,
            "devices": self.line.devices,
        }

    def _figures(self) -> Figures:
        return Figures(
            version=self.line.version,
            committed_at=self.line.shelf.published_at,
            waiting_devices=self.line.buffer.slots,
            counters=self._counters(),
            connected=self._online,
        )
