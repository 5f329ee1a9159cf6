"""Lets an aggregator begin on the broker, or not, by what its first look has found there (`line_check.py`)."""

import logging
from collections.abc import Sequence
from dataclasses import replace

from aggregator.ledger.ledger import Ledger
from aggregator.model_line import ModelLine
from aggregator.publishing.ownership import (
    STANDS_IN_THE_WAY,
    LineRefused,
    RetainedManifest,
    moment_above,
    outranks,
    refusal,
)
from wire_contract.link.protocol import Delivery, Link

log = logging.getLogger(__name__)


class StartupGate:
    """Before the first look is over nothing is answered: a ledger that is not of this line must leave it alone."""

    def __init__(
        self, line: ModelLine, ledger: Ledger, link: Link, *, filters: Sequence[str], topic: str, replaces: bool
    ) -> None:
        """`filters` are what `link` is subscribed to, `topic` is the model topic; `replaces` as for `enter`."""
        self._line, self._ledger, self._link = line, ledger, link
        self._filters, self._topic, self._replaces = filters, topic, replaces
        self._held: list[Delivery] = []
        self._session_present = True
        self.is_open = False

    def hold(self, delivery: Delivery) -> None:
        """Until `decide`."""
        self._held.append(delivery)

    def release(self) -> Sequence[Delivery]:
        """What was held, in its order."""
        held, self._held = self._held, []
        return held

    def connected(self, *, session_present: bool) -> None:
        self._session_present = session_present

    def disconnected(self) -> None:
        self._held.clear()  # not acknowledged, so all of it comes again

    def decide(self, found: RetainedManifest | None, *, now: float) -> None:
        """After the first look; later ones find nothing that would end an aggregator at work.

        Raises:
            LineRefused: as `enter`.
            LedgerBusy: as `enter`.
        """
        try:
            enter(found, self._line, self._ledger, topic=self._topic, replaces=self._replaces, now=now)
        except LineRefused:
            if not self._session_present:  # begun just now: it would collect updates for nobody
                for one in self._filters:
                    self._link.unsubscribe(one)
            raise
        self.is_open = True


def enter(
    found: RetainedManifest | None, line: ModelLine, ledger: Ledger, *, topic: str, replaces: bool, now: float
) -> None:
    """Returns where this line may be published.

    Args:
        found: on the model topic.
        line: as restored from `ledger`; where it replaces another, or devices may hold something else that stands
            there, its newest version is published anew, with a later moment.
        ledger: remembers that moment.
        topic: the model topic.
        replaces: begin over another line, instead of refusing; also where that line no longer stands there.
        now: Unix seconds.

    Raises:
        LineRefused: another line stands there, and nobody has said that it is to be replaced.
        LedgerBusy: the disk refused.
    """
    rival = None if found is None else found.manifest
    if found is None:
        pass
    elif found.whose in STANDS_IN_THE_WAY:
        if not replaces:
            raise refusal(found, task=line.settings.task, topic=topic, ledger=ledger.path, version=line.version)
        log.warning("replacing the line that stands on %s, as told", topic)
    elif found.whose == "forgotten":
        log.warning("on %s stands a version so old that this ledger has dropped it; publishing over it", topic)
    elif found.reason:
        log.error("what stands on %s is of no use, and is replaced: %s", topic, found.reason)
    digest, at = line.shelf.published.digest, line.shelf.published_at
    if replaces or (rival is not None and outranks(rival, version=line.version, digest=digest, published_at=at)):
        publish_anew(line, ledger, above=0.0 if rival is None else rival.published_at, now=now)


def publish_anew(line: ModelLine, ledger: Ledger, *, above: float, now: float) -> None:
    """Gives the newest version a moment of publication after `above` and after the one that it had (Unix seconds).

    Devices take a version that is not higher for that of a new line if it was published later, so it must be later by
    whatever clock the other line had.

    Raises:
        LedgerBusy: the disk refused; nothing was changed.
    """
    at = moment_above(max(above, line.shelf.published_at), now=now)
    ledger.stamp_newest(at=at)
    line.shelf = replace(line.shelf, published_at=at)
