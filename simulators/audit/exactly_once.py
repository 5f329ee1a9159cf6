"""Whether every update that left a device was merged exactly once. Counted at both ends, compared here.

What was sent is read from the devices' own outboxes: an outbox gives each update the next sequence, counts an attempt
before it sends, and forgets an update only when its receipt came. So sent = all sequences ever given, without those
that still wait and were never tried. What was merged is read from the aggregator's ledger. Neither knows of the other.
"""

import sqlite3
from collections.abc import Collection, Iterable, Mapping
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, order=True)
class SentUpdate:
    """One update by its name."""

    device: str
    incarnation: str
    """Hexadecimal."""
    sequence: int


@dataclass(frozen=True, kw_only=True)
class OutboxState:
    """What one device's outbox says."""

    device: str
    incarnation: str
    last_sequence: int
    waiting: Mapping[int, int]
    """Sequence to attempts, of what has no receipt yet."""

    @property
    def sent(self) -> frozenset[SentUpdate]:
        """The distinct updates that left the device at least once."""
        never = {sequence for sequence, attempts in self.waiting.items() if attempts == 0}
        return frozenset(
            SentUpdate(self.device, self.incarnation, sequence)
            for sequence in range(1, self.last_sequence + 1)
            if sequence not in never
        )

    @property
    def unanswered(self) -> frozenset[SentUpdate]:
        """Those of them that have no receipt yet."""
        return frozenset(
            SentUpdate(self.device, self.incarnation, sequence)
            for sequence, attempts in self.waiting.items()
            if attempts
        )


def read_outbox(path: Path, *, device: str) -> OutboxState | None:
    """Reads it while the device may be writing; None where there is none yet."""
    if not path.is_file():
        return None
    try:
        with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True, timeout=5.0)) as db:
            db.execute("BEGIN")  # one moment for both tables
            identity = db.execute("SELECT incarnation, last_sequence FROM identity").fetchone()
            waiting = dict(db.execute("SELECT sequence, attempts FROM queue"))
    except sqlite3.OperationalError:  # it is just being made
        return None
    return OutboxState(
        device=device, incarnation=bytes(identity[0]).hex(), last_sequence=int(identity[1]), waiting=waiting
    )


@dataclass(frozen=True, kw_only=True)
class Audit:
    """Both ends of the ledger."""

    sent: frozenset[SentUpdate]
    refused: frozenset[SentUpdate]
    merged: tuple[tuple[str, int], ...]
    """(device, sequence) of each merge, repetitions included."""
    unanswered: frozenset[SentUpdate] = frozenset()
    """SentUpdate, and still kept in an outbox, because no receipt has come: nothing of it is lost."""

    @property
    def missing(self) -> tuple[SentUpdate, ...]:
        """SentUpdate, neither refused nor merged, and kept nowhere."""
        merged = set(self.merged)
        gone = self.sent - self.refused - self.unanswered
        return tuple(sorted(one for one in gone if (one.device, one.sequence) not in merged))

    @property
    def kept(self) -> int:
        """Updates that were not merged yet and wait in an outbox."""
        merged = set(self.merged)
        return sum((one.device, one.sequence) not in merged for one in self.unanswered)

    @property
    def unexpected(self) -> tuple[tuple[str, int], ...]:
        """Merged, though nobody sent it, or it was refused, or it was merged before."""
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
        """One line for a person."""
        if self.agrees:
            return (
                f"{len(self.merged)} updates merged, exactly the {len(self.sent)} sent"
                f" without the {len(self.refused)} refused"
                + (f" and the {self.kept} that still wait in an outbox" if self.kept else "")
            )
        missing = ", ".join(f"{one.device} {one.sequence}" for one in self.missing) or "none"
        unexpected = ", ".join(f"{device} {sequence}" for device, sequence in self.unexpected) or "none"
        return (
            f"the ledgers DIFFER: {len(self.sent)} sent, {len(self.refused)} refused, {len(self.merged)} merged;"
            f" missing: {missing}; unexpected: {unexpected}"
        )


def audit_exactly_once(
    outboxes: Iterable[OutboxState],
    refused: Mapping[str, Collection[int]],
    merged: Iterable[tuple[str, int]],
) -> Audit:
    """Compares.

    Args:
        outboxes: of all devices, after they have drained.
        refused: sequences by device, as their receipts said.
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
