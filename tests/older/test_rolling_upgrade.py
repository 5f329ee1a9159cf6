"""A running federation is upgraded program by program, without losing or repeating anything.

Every program keeps its files: the aggregator its ledger, each device its outbox and student. In between, old and new
programs teach one model together.
"""

import sqlite3
from contextlib import closing
from itertools import pairwise

import pytest

from tests.older.federation import PATIENCE_SECONDS, Federation
from tests.older.program import Age

pytestmark = [pytest.mark.e2e, pytest.mark.broker]

UPDATES_EACH = 3
"""Settled by each device between two steps of the upgrade."""
DEVICES = ("machine-1", "machine-2")


def outbox_of(federation: Federation, name: str) -> tuple[bytes, int, set[int]]:
    """Of a device that is not running: incarnation, last sequence, and the sequences that still wait for a receipt."""
    (file,) = (federation.folder / name).rglob("outbox.sqlite")
    with closing(sqlite3.connect(f"file:{file}?mode=ro", uri=True)) as db:
        incarnation, sequence = db.execute("SELECT incarnation, last_sequence FROM identity").fetchone()
        waiting = {row[0] for row in db.execute("SELECT sequence FROM queue")}
    return incarnation, sequence, waiting


ORDERS = {"aggregator-first": ("aggregator", *DEVICES), "devices-first": (*DEVICES, "aggregator")}


@pytest.mark.parametrize("order", ORDERS.values(), ids=ORDERS)
def test_a_rolling_upgrade_loses_and_repeats_nothing(federation: Federation, order: tuple[str, ...]) -> None:
    def start(name: str, age: Age) -> None:
        if name == "aggregator":
            federation.start_aggregator(age)
        else:
            federation.start_device(age, name)

    def everybody_is_answered() -> None:
        wanted = {name: federation.receipts(name) + UPDATES_EACH for name in DEVICES}
        federation.until(lambda: all(federation.receipts(name) >= wanted[name] for name in DEVICES))

    for name in ("aggregator", *DEVICES):
        start(name, "older")
    everybody_is_answered()
    incarnations = {}
    for name in order:
        assert federation.stop(name) in {0, -15}, federation.logs
        if name in DEVICES:
            incarnations[name], _, _ = outbox_of(federation, name)
        start(name, "newer")
        everybody_is_answered()
    federation.end()

    journal = federation.asked("SELECT device, incarnation, sequence FROM journal ORDER BY id")
    assert len(set(journal)) == len(journal), "each update was merged once"
    assert not [row for row in federation.asked("SELECT * FROM counter") if row[0] == "refused"], federation.logs
    for name in DEVICES:
        merged = [row for row in journal if row[0] == name]
        assert {row[1] for row in merged} == {incarnations[name]}, "the outbox went on; no device began anew"
        sequences = [row[2] for row in merged]
        _, last, waiting = outbox_of(federation, name)
        assert set(sequences) | waiting == set(range(1, last + 1)), "what is not merged still waits: nothing is lost"
        assert sequences == sorted(sequences), "updates are merged in the order in which they were made"
        assert not federation.told(name, "warning"), federation.logs
    versions = [row[0] for row in federation.asked("SELECT version FROM version ORDER BY version")]
    assert all(after - before == 1 for before, after in pairwise(versions[1:])), "the line went on"

    for name, says in ((DEVICES[0], "newer program wrote it"), ("aggregator", "format")):
        start(name, "older")
        assert federation.running.pop(name).wait(PATIENCE_SECONDS) == 2, "there is no way back but a copy"
        assert says in (federation.folder / f"{name}.log").read_text().splitlines()[-1]
