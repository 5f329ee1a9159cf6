"""Lets an aggregator begin on the broker, or not, by what its first look has found there (`line_check.py`)."""

import logging
import math
from collections.abc import Sequence
from dataclasses import replace

from aggregator.ledger import Ledger
from aggregator.line_check import STANDS_IN_THE_WAY, Found, LineRefused, refusal
from aggregator.model_line import ModelLine
from wire_contract.link import Delivery, Link

log = logging.getLogger(__name__)


class Entry:
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

    def decide(self, found: Found | None, *, now: float) -> None:
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


def enter(found: Found | None, line: ModelLine, ledger: Ledger, *, topic: str, replaces: bool, now: float) -> None:
    """Returns where this line may be published.

    Args:
        found: on the model topic.
        line: as restored from `ledger`; where it replaces another, its newest version is stamped with a later moment.
        ledger: remembers that moment.
        topic: the model topic.
        replaces: begin over another line, instead of refusing.
        now: Unix seconds.

    Raises:
        LineRefused: another line stands there, and nobody has said that it is to be replaced.
        LedgerBusy: the disk refused.
    """
    if found is None:
        return
    if found.whose in STANDS_IN_THE_WAY:
        if not replaces:
            raise refusal(found, task=line.settings.task, topic=topic, ledger=ledger.path, version=line.version)
        _replace(found, line, ledger, now=now)
        log.warning("replacing the line that stands on %s, as told", topic)
    elif found.whose == "forgotten":
        log.warning("on %s stands a version so old that this ledger has dropped it; publishing over it", topic)
    elif found.reason:
        log.error("what stands on %s is of no use, and is replaced: %s", topic, found.reason)


def _replace(found: Found, line: ModelLine, ledger: Ledger, *, now: float) -> None:
    """Devices take a version that is not higher for that of a new line if it was published later, so it must be later
    by whatever clock the other line had.
    """
    later = 0.0 if found.manifest is None else found.manifest.published_at + 1.0
    at = max(now, later) if math.isfinite(later) else now
    ledger.stamp_newest(at=at)
    line.shelf = replace(line.shelf, published_at=at)
