"""Keeps the newest version of the line on the broker: what is published, when.

    an inspection of the broker ended      whatever the broker has lost; surplus messages are deleted
    a new version was committed            its delta, perhaps a snapshot, then the manifest
    a message was deleted or replaced      that message, after a short wait
    the link did not accept all messages   the rest, after PUBLISH_AGAIN_SECONDS
    half of a manifest's lifetime is over  the manifest, with a later expiry

Nothing is published before the first inspection has found that the line is ours (`ownership.py`).
"""

import logging
import math
from collections.abc import Callable, Sequence

from aggregator.ledger.file_format import LedgerBusy
from aggregator.ledger.ledger import Ledger
from aggregator.model_line import ModelLine, announcement
from aggregator.publishing.inspection import SETTLE_SECONDS, Inspection
from aggregator.publishing.ownership import STANDS_IN_THE_WAY
from aggregator.publishing.publisher import Publisher
from aggregator.publishing.startup import StartupGate, publish_anew
from wire_contract.link.protocol import Delivery, Link
from wire_contract.signatures.signing import SigningKey

log = logging.getLogger(__name__)

PUBLISH_AGAIN_SECONDS = 5.0
"""Chosen, not measured: the link's queue needs time to drain. Sooner would find it still full, later delays a
version."""


class Publication:
    """The published state of one model line."""

    def __init__(
        self,
        line: ModelLine,
        ledger: Ledger,
        link: Link,
        *,
        root: str,
        filters: Sequence[str],
        monotonic: Callable[[], float],
        unix: Callable[[], float],
        signing_keys: Sequence[SigningKey] = (),
        lifetime_seconds: float | None = None,
        replaces: bool = False,
        settle_seconds: float = SETTLE_SECONDS,
    ) -> None:
        """Publishes nothing yet.

        Args:
            line: the line to publish.
            ledger: of that line.
            link: subscribed to `filters`.
            root: of the topics.
            filters: see `StartupGate`.
            monotonic: seconds that never go back.
            unix: Unix seconds.
            signing_keys: each of them signs every manifest; without any, manifests are unsigned.
            lifetime_seconds: time from publication to expiry of a manifest; None: manifests do not expire.
            replaces: replace another model line on the broker instead of refusing to start.
            settle_seconds: wait for late retained messages at each inspection.
        """
        settings = line.settings
        self._line, self._ledger = line, ledger
        self._monotonic, self._unix = monotonic, unix
        self.publisher = Publisher(
            link, root=root, task=settings.task, shard=settings.policy.shard, signing_keys=signing_keys
        )
        self._inspection = Inspection(
            self.publisher,
            link,
            ledger,
            root=root,
            task=settings.task,
            keys=[key.public for key in signing_keys],
            monotonic=monotonic,
            settle_seconds=settle_seconds,
        )
        self._gate = StartupGate(
            line, ledger, link, filters=filters, topic=self.publisher.model_topic, replaces=replaces
        )
        self._lifetime_seconds = lifetime_seconds
        self._expires_at: float | None = None
        """Expiry of the manifest that was published last, Unix seconds."""
        self._renew_at = math.inf
        """When the manifest is due for renewal, monotonic seconds."""
        self.is_online = False
        """Connected, and the inspection after the connection has ended."""
        self._is_unpublished = False
        self._publish_again_at = 0.0

    # -- the connection, and what is heard of it

    def __contains__(self, topic: str) -> bool:
        """Whether messages on this topic belong to `hear`."""
        return topic in self._inspection

    def hear(self, topic: str, payload: bytes) -> None:
        """Takes a message on one of our topics."""
        self._inspection.hear(topic, payload)

    def connected(self, *, session_present: bool) -> None:
        """Every connection begins with an inspection: the broker may have lost messages, or have another line's."""
        self._gate.connected(session_present=session_present)
        self._inspection.connected()

    def disconnected(self) -> None:
        self.is_online = False
        self._inspection.disconnected()
        self._gate.disconnected()

    @property
    def is_open(self) -> bool:
        """Whether the first inspection has passed; before that, messages are held and nothing is answered."""
        return self._gate.is_open

    def hold(self, delivery: Delivery) -> None:
        """Keeps a message until the first inspection has passed."""
        self._gate.hold(delivery)

    def take_held(self) -> Sequence[Delivery]:
        """Returns the held messages in their order."""
        return self._gate.take_held()

    @property
    def is_looking(self) -> bool:
        """Whether an inspection is in progress."""
        return self._inspection.is_looking

    def look_is_over(self) -> bool:
        """True once at the end of each inspection; call `settle` then."""
        return self._inspection.look_is_over()

    @property
    def strangers(self) -> int:
        """Foreign messages on the model topic since the program started."""
        return self._inspection.strangers

    # -- what is published

    def settle(self) -> None:
        """Acts on the result of an inspection.

        Raises:
            LineRefused: another line is on the broker; nothing was changed.
            LedgerBusy: the disk is full.
        """
        found = self._inspection.found()
        if not self._gate.is_open:
            self._gate.decide(found, now=self._unix())
        elif found is not None and found.whose in STANDS_IN_THE_WAY:
            self._inspection.report(found)
        if not self.is_online:
            log.info("publishing what is missing of version %d", self._line.version)
        self.is_online = True
        self._publish()

    def new_version(self) -> None:
        """Publishes a new version. Without a connection, it is published after the next inspection instead, so that
        models do not fill the link's queue.
        """
        if self.is_online:
            self._publish(renew=True)

    def line_changed(self) -> None:
        """Publishes the manifest again if there is a connection; it says which line follows, and whether this one is
        closed.
        """
        if self.is_online:
            self._publish()

    def keep_up(self) -> None:
        """Publishes again what is due; called in every turn."""
        if self._is_unpublished and self.is_online and self._monotonic() >= self._publish_again_at:
            self._publish()
        if self.is_online and self._inspection.is_to_be_healed():
            self._publish()
        if self.is_online and self._monotonic() >= self._renew_at:
            self._publish(renew=True)

    def _publish(self, *, renew: bool = False) -> None:
        """Publishes missing messages and deletes expired ones; what the link does not accept now, it gets again later.

        `renew` gives the manifest a later expiry.
        """
        now = self._monotonic()
        is_above = self._surpass()
        if self._lifetime_seconds is not None and (renew or self._expires_at is None):
            self._expires_at = self._unix() + self._lifetime_seconds
            self._renew_at = now + self._lifetime_seconds / 2  # leaves the other half for a time without connection
        line = self._line
        stands = announcement(
            line.settings,
            line.release,
            expires_at=self._expires_at,
            next_line=line.next_line,
            closed=line.is_closed,
            description=line.description,
        )
        is_published = self.publisher.model(stands)
        self._is_unpublished = not (self._inspection.tidy() and is_published and is_above)
        self._publish_again_at = now + PUBLISH_AGAIN_SECONDS

    def _surpass(self) -> bool:
        """Gives the newest version a later publication time than a foreign manifest, so that devices accept it again,
        whatever its number. False: the disk is full.
        """
        if self._inspection.rival_at is None:
            return True
        try:
            publish_anew(self._line, self._ledger, above=self._inspection.rival_at, now=self._unix())
        except LedgerBusy as error:
            log.warning("%s; version %d will be published above the foreign one later", error, self._line.version)
            return False
        self._inspection.rival_at = None
        return True
