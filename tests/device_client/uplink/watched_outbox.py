"""An outbox under test: short ways to fill it, and a subclass that sees every SQL statement."""

import sqlite3
from collections.abc import Callable
from typing import Any

import numpy as np

from device_client.uplink.outbox import Outbox
from device_client.uplink.outbox_rows import Entry
from device_client.uplink.rounds import LocalStudent

NAMES = {"task": "walking", "device": "watch-1"}


def local_student(rounds: int, *, version: int = 3) -> LocalStudent:
    residual = None if rounds == 1 else np.full(5, 0.25 * rounds, dtype=np.float32)
    return LocalStudent(
        version, bytes([version]) * 32, rounds, np.full(5, rounds, dtype=np.float32), 100.0 + rounds, residual
    )


def add(outbox: Outbox, payload: bytes, rounds: int = 1) -> Entry:
    return outbox.add(outbox.next_identity, payload, local_student(rounds))


def forget(outbox: Outbox, sequence: int) -> None:
    """Its fate is known."""
    outbox.settle(sequence)
    outbox.record()


def sequences(outbox: Outbox) -> list[int]:
    last = outbox.next_identity.sequence
    return [number for number in range(1, last + 1) if outbox.find(number) is not None]


class WatchedOutbox(Outbox):
    """Calls `before` ahead of every statement."""

    before: Callable[[str], None] = staticmethod(lambda _statement: None)

    def _execute(self, statement: str, *values: object) -> sqlite3.Cursor:
        self.before(statement)
        return super()._execute(statement, *values)


def whole(outbox: Outbox) -> tuple[Any, ...]:
    kept = outbox.local_student()
    held = outbox.model()
    return (
        outbox.incarnation,
        outbox.next_identity.sequence,
        [(entry.payload, entry.attempts) for number in sequences(outbox) if (entry := outbox.find(number))],
        None if kept is None else (kept.rounds, kept.weights.tolist()),
        None if held is None else held.version,
    )


def first_update(outbox: Outbox) -> None:
    add(outbox, b"first", rounds=1)
