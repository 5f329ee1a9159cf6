"""Keeps the newest version of a line on the broker: what is published when.

    after each look at the broker          whatever is missing there (a broker may have lost it), and the rest goes
    a new version is committed             its delta, perhaps a snapshot, then the manifest
    something was deleted or replaced      published again, a little later
    the link did not take all of it        offered again after PUBLISH_AGAIN_SECONDS
    half of a manifest's lifetime is over  the manifest again, with a later expiry

Nothing is published before the first look has said that the line there is ours (`line_check.py`).
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


class Publication:
    """See the module."""

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
            line: whose newest version is published.
            ledger: of that line.
            link: subscribed to `filters`.
            root: of the topics.
            filters: see `StartupGate`.
            monotonic: seconds that never go back.
            unix: Unix seconds.
            signing_keys: each signs every manifest; none: manifests go out plain.
            lifetime_seconds: a manifest expires so long after it was published; None: never.
            replaces: begin anew over another line that stands on the broker, instead of refusing to start.
            settle_seconds: how long a look at the broker waits for retained messages that come late.
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
        """Of the manifest that was published last, Unix seconds."""
        self._renew_at = math.inf
        """On the monotonic clock: then the manifest needs a later expiry."""
        self.is_online = False
        """Connected, and it is known what stands on the broker."""
        self._is_unpublished = False
        self._publish_again_at = 0.0

    # -- the connection, and what is heard of it

    def __contains__(self, topic: str) -> bool:
        """Whether messages of this topic are to be given to `hear`."""
        return topic in self._inspection

    def hear(self, topic: str, payload: bytes) -> None:
        """A message on a topic that is in here."""
        self._inspection.hear(topic, payload)

    def connected(self, *, session_present: bool) -> None:
        """A broker may have lost what it retained, or hold what is not ours: every connection begins with a look."""
        self._gate.connected(session_present=session_present)
        self._inspection.connected()

    def disconnected(self) -> None:
        self.is_online = False
        self._inspection.disconnected()
        self._gate.disconnected()

    @property
    def is_open(self) -> bool:
        """Whether the first look is over; before that nothing is answered, and deliveries are held."""
        return self._gate.is_open

    def hold(self, delivery: Delivery) -> None:
        """Until the first look is over."""
        self._gate.hold(delivery)

    def release(self) -> Sequence[Delivery]:
        """What was held, in its order."""
        return self._gate.release()

    @property
    def is_looking(self) -> bool:
        """Whether it is not known yet what stands on the broker."""
        return self._inspection.is_looking

    def look_is_over(self) -> bool:
        """True once for each look: `settle` is next."""
        return self._inspection.look_is_over()

    @property
    def strangers(self) -> int:
        """Messages of others on the model topic while this program ran."""
        return self._inspection.strangers

    # -- what is published

    def settle(self) -> None:
        """What follows of a look.

        Raises:
            LineRefused: another line stands there; nothing was changed.
            LedgerBusy: the disk refused.
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
        """The line has a new version. Without a connection it is published after the next look: a queue for later must
        not fill with models.
        """
        if self.is_online:
            self._publish(renew=True)

    def keep_up(self) -> None:
        """Publishes again what has to be; called in every turn."""
        if self._is_unpublished and self.is_online and self._monotonic() >= self._publish_again_at:
            self._publish()
        if self.is_online and self._inspection.is_to_be_healed():
            self._publish()
        if self.is_online and self._monotonic() >= self._renew_at:
            self._publish(renew=True)

    def _publish(self, *, renew: bool = False) -> None:
        """All that does not stand on the broker yet, and what is no longer kept goes. What the link does not take now
        (its queue is full) is offered again a little later. `renew`: the manifest gets a later expiry.
        """
        now = self._monotonic()
        is_above = self._surpass()
        if self._lifetime_seconds is not None and (renew or self._expires_at is None):
            self._expires_at = self._unix() + self._lifetime_seconds
            self._renew_at = now + self._lifetime_seconds / 2  # who is away for the other half does no harm
        stands = announcement(self._line.settings, self._line.shelf, expires_at=self._expires_at)
        is_published = self.publisher.model(stands)
        self._is_unpublished = not (self._inspection.tidy() and is_published and is_above)
        self._publish_again_at = now + PUBLISH_AGAIN_SECONDS

    def _surpass(self) -> bool:
        """Gives the newest version a later moment than what somebody else announced, so that devices take it again,
        whatever number that had. False: the disk does not take it now.
        """
        if self._inspection.rival_at is None:
            return True
        try:
            publish_anew(self._line, self._ledger, above=self._inspection.rival_at, now=self._unix())
        except LedgerBusy as error:
            log.warning("%s; version %d is published above the stranger's later", error, self._line.version)
            return False
        self._inspection.rival_at = None
        return True
