"""Every update that left a device is merged once: the devices' outboxes against the aggregator's ledger."""

import sqlite3
from pathlib import Path

import numpy as np
import pytest

from device_client.uplink.outbox import Outbox
from device_client.uplink.rounds import LocalStudent
from simulators.audit.exactly_once import OutboxState, SentUpdate, audit_exactly_once, read_outbox


def count(device: str, last: int, **waiting: int) -> OutboxState:
    return OutboxState(
        device=device, incarnation="aa", last_sequence=last, waiting={int(k[1:]): v for k, v in waiting.items()}
    )


def test_sent_is_what_left_the_device_at_least_once() -> None:
    assert count("a", 4, s3=2, s4=0).sent == {
        SentUpdate("a", "aa", 1),
        SentUpdate("a", "aa", 2),
        SentUpdate("a", "aa", 3),
    }


def test_both_ledgers_agree() -> None:
    compared = audit_exactly_once([count("a", 2), count("b", 2)], {"b": [1]}, [("a", 1), ("b", 2), ("a", 2)])
    assert compared.agrees
    assert str(compared) == "4 updates sent: 3 merged exactly once, 1 refused"


def test_what_still_waits_in_an_outbox_is_not_lost() -> None:
    """A slow machine may end a run before every receipt has come."""
    compared = audit_exactly_once([count("a", 4, s2=1, s3=3, s4=0)], {}, [("a", 1), ("a", 2)])
    assert compared.agrees
    assert str(compared) == "3 updates sent: 2 merged exactly once, 1 still waiting in an outbox"
    assert not audit_exactly_once([count("a", 4, s3=3)], {}, [("a", 1), ("a", 2)]).agrees, (
        "4 has left the outbox without a receipt"
    )


@pytest.mark.parametrize(
    ("merged", "word"),
    [
        ([("a", 1)], "missing: a 2"),
        ([("a", 1), ("a", 2), ("a", 2)], "unexpected: a 2"),
        ([("a", 1), ("a", 2), ("x", 1)], "unexpected: x 1"),
        ([("a", 1), ("x", 1)], "missing: a 2; unexpected: x 1"),
    ],
)
def test_each_kind_of_difference_is_found_and_named(merged: list[tuple[str, int]], word: str) -> None:
    compared = audit_exactly_once([count("a", 2)], {}, merged)
    assert not compared.agrees
    assert word in str(compared)


def test_a_real_outbox_is_read_while_it_is_open(tmp_path: Path) -> None:
    path = tmp_path / "outbox.sqlite"
    assert read_outbox(path, device="a") is None
    local = LocalStudent(0, bytes(32), 1, np.zeros(3, dtype=np.float32), 1.0)
    with Outbox(path, task="t", device="a") as outbox:
        for payload in (b"1", b"2", b"3"):
            outbox.add(outbox.next_identity, payload, local)
        head = outbox.head()
        assert head is not None
        outbox.attempted(head)
        outbox.settle(1)
        outbox.record()
        second = outbox.head()
        assert second is not None
        outbox.attempted(second)
        found = read_outbox(path, device="a")
        assert found is not None
        assert found.incarnation == outbox.incarnation.hex()
    assert (found.last_sequence, dict(found.waiting)) == (3, {2: 1, 3: 0})
    assert {one.sequence for one in found.sent} == {1, 2}


def test_an_outbox_that_is_just_being_made_is_none_yet(tmp_path: Path) -> None:
    path = tmp_path / "outbox.sqlite"
    sqlite3.connect(path).close()
    assert read_outbox(path, device="a") is None
