"""Checks that every update that left a device was merged exactly once, by comparing both ends.

What was sent is read from the devices' outboxes: an outbox gives each update the next sequence number, counts an
attempt before it sends, and deletes an update only when its receipt has arrived. So sent = all sequence numbers given
so far, except those that still wait and were never tried. What was merged is read from the aggregator's ledger. The two
are written independently.
"""

import sqlite3
from collections.abc import Collection, Iterable, Mapping
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, order=True)
class SentUpdate:
    """The identity of one update."""

    device: str
    incarnation: str
    """Hexadecimal."""
    sequence: int


@dataclass(frozen=True, kw_only=True)
class OutboxState:
    """The state of one device's outbox."""

    device: str
    incarnation: str
    last_sequence: int
    waiting: Mapping[int, int]
    """Attempts by sequence number, for updates without a receipt."""

    @property
    def sent(self) -> frozenset[SentUpdate]:
        """Updates that were sent at least once."""
        never = {sequence for sequence, attempts in self.waiting.items() if attempts == 0}
        return frozenset(
            SentUpdate(self.device, self.incarnation, sequence)
            for sequence in range(1, self.last_sequence + 1)
            if sequence not in never
        )

    @property
    def unanswered(self) -> frozenset[SentUpdate]:
        """Updates that were sent and have no receipt yet."""
        return frozenset(
            SentUpdate(self.device, self.incarnation, sequence)
            for sequence, attempts in self.waiting.items()
            if attempts
        )


def read_outbox(path: Path, *, device: str) -> OutboxState | None:
    """Reads an outbox, also while the device is writing; None if it does not exist yet."""
    if not path.is_file():
        return None
    try:
        with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True, timeout=5.0)) as db:
            db.execute("BEGIN")  # a consistent read of both tables
            identity = db.execute("SELECT incarnation, last_sequence FROM identity").fetchone()
            waiting = dict(db.execute("SELECT sequence, attempts FROM queue"))
    except sqlite3.OperationalError:  # it is being created
        return None
    return OutboxState(
        device=device, incarnation=bytes(identity[0]).hex(), last_sequence=int(identity[1]), waiting=waiting
    )


@dataclass(frozen=True, kw_only=True)
class Audit:
    """The comparison of both ends."""

    sent: frozenset[SentUpdate]
    refused: frozenset[SentUpdate]
    merged: tuple[tuple[str, int], ...]
    """(device, sequence) of each merge, duplicates included."""
    unanswered: frozenset[SentUpdate] = frozenset()
    """Sent, and still in an outbox because no receipt has arrived; not lost."""

    @property
    def missing(self) -> tuple[SentUpdate, ...]:
        """Sent, but neither refused, merged nor kept in an outbox: lost."""
        merged = set(self.merged)
        gone = self.sent - self.refused - self.unanswered
        return tuple(sorted(one for one in gone if (one.device, one.sequence) not in merged))

    @property
    def kept(self) -> int:
        """Number of updates that were sent, are not merged, and still wait in an outbox."""
        merged = set(self.merged)
        return sum((one.device, one.sequence) not in merged for one in self.unanswered)

    @property
    def unexpected(self) -> tuple[tuple[str, int], ...]:
        """Merged although never sent, refused, or already merged."""
        expected = {(one.device, one.sequence) for one in self.sent - self.refused}
        seen: set[tuple[str, int]] = set()
        wrong = []
        for merge in self.merged:
            if merge not in expected or merge in seen:
                wrong.append(merge)
            seen.add(merge)
        return tuple(wrong)

    @property
    def agrees(self) -> bool:
        return not self.missing and not self.unexpected

    def __str__(self) -> str:
        """The result in one line."""
        if self.agrees:
            exceptions = [(len(self.refused), "refused"), (self.kept, "still waiting in an outbox")]
            others = "".join(f", {count} {what}" for count, what in exceptions if count)
            return f"{len(self.sent)} updates sent: {len(self.merged)} merged exactly once{others}"
        missing = ", ".join(f"{one.device} {one.sequence}" for one in self.missing) or "none"
        unexpected = ", ".join(f"{device} {sequence}" for device, sequence in self.unexpected) or "none"
        return (
            f"outboxes and ledger DIFFER: {len(self.sent)} sent, {len(self.refused)} refused, {len(self.merged)} merged"
            f"; missing: {missing}; unexpected: {unexpected}"
        )


def audit_exactly_once(
    outboxes: Iterable[OutboxState],
    refused: Mapping[str, Collection[int]],
    merged: Iterable[tuple[str, int]],
) -> Audit:
    """Compares what was sent with what was merged.

    Args:
        outboxes: of all devices, after they were drained.
        refused: refused sequence numbers by device, from the receipts.
        merged: (device, sequence) of every entry in the ledger's journal.
    """
    counts = list(outboxes)
    incarnations = {count.device: count.incarnation for count in counts}
    return Audit(
        sent=frozenset().union(*(count.sent for count in counts)),
        refused=frozenset(
            SentUpdate(device, incarnations[device], sequence)
            for device, sequences in refused.items()
            for sequence in sequences
            if device in incarnations
        ),
        merged=tuple(merged),
        unanswered=frozenset().union(*(count.unanswered for count in counts)),
    )
