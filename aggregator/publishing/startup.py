"""Whether an aggregator may start, given what the first inspection found on the broker (`ownership.py`)."""

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
    """Holds back all messages until the first inspection: a ledger of another line must not answer anything."""

    def __init__(
        self, line: ModelLine, ledger: Ledger, link: Link, *, filters: Sequence[str], topic: str, replaces: bool
    ) -> None:
        """`link` is subscribed to `filters`; `topic` is the model topic; `replaces` as for `enter`."""
        self._line, self._ledger, self._link = line, ledger, link
        self._filters, self._topic, self._replaces = filters, topic, replaces
        self._held: list[Delivery] = []
        self._session_present = True
        self.is_open = False

    def hold(self, delivery: Delivery) -> None:
        """Keeps a message until `decide`."""
        self._held.append(delivery)

    def take_held(self) -> Sequence[Delivery]:
        """Returns the held messages in their order."""
        held, self._held = self._held, []
        return held

    def connected(self, *, session_present: bool) -> None:
        self._session_present = session_present

    def disconnected(self) -> None:
        self._held.clear()  # not acknowledged, so the broker delivers them again

    def decide(self, found: RetainedManifest | None, *, now: float) -> None:
        """Called after the first inspection only: later ones never stop a running aggregator.

        Raises:
            LineRefused: as `enter`.
            LedgerBusy: as `enter`.
        """
        try:
            enter(found, self._line, self._ledger, topic=self._topic, replaces=self._replaces, now=now)
        except LineRefused:
            if not self._session_present:  # a session that was just created would collect updates that nobody fetches
                for one in self._filters:
                    self._link.unsubscribe(one)
            raise
        self.is_open = True


def enter(
    found: RetainedManifest | None, line: ModelLine, ledger: Ledger, *, topic: str, replaces: bool, now: float
) -> None:
    """Returns if this line may be published.

    Args:
        found: the manifest on the model topic.
        line: restored from `ledger`; if it replaces another line, or devices may hold another manifest, its newest
            version gets a later publication time.
        ledger: stores that time.
        topic: the model topic.
        replaces: replace another line instead of refusing, even if that line is no longer on the broker.
        now: Unix seconds.

    Raises:
        LineRefused: another line is there, and `replaces` is not set.
        LedgerBusy: the disk is full.
    """
    rival = None if found is None else found.manifest
    if found is None:
        pass
    elif found.whose in STANDS_IN_THE_WAY:
        if not replaces:
            raise refusal(found, task=line.settings.task, topic=topic, ledger=ledger.path, version=line.version)
        log.warning("replacing the line on %s (--replace-line)", topic)
    elif found.whose == "forgotten":
        log.warning("%s has a version so old that this ledger no longer has it; publishing above it", topic)
    elif found.reason:
        log.error("the manifest on %s cannot be used and is replaced: %s", topic, found.reason)
    digest, at = line.release.published.digest, line.release.published_at
    if replaces or (rival is not None and outranks(rival, version=line.version, digest=digest, published_at=at)):
        publish_anew(line, ledger, above=0.0 if rival is None else rival.published_at, now=now)


def publish_anew(line: ModelLine, ledger: Ledger, *, above: float, now: float) -> None:
    """Gives the newest version a publication time after `above` and after its previous one (Unix seconds).

    Devices accept a version that is not higher as the start of a new line if its publication time is later. So it must
    be later by the other line's clock, whatever that showed.

    Raises:
        LedgerBusy: the disk is full; nothing was changed.
    """
    at = moment_above(max(above, line.release.published_at), now=now)
    ledger.stamp_newest(at=at)
    line.release = replace(line.release, published_at=at)
