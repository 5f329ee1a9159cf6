"""The real program on a real broker, killed where it hurts: every update is merged once, and the weights are the bits
that the journal makes again.
"""

import pytest

from aggregator.ledger.reading import read_totals
from tests.aggregator.synthetic import (
    CHUNKED,
    LAYOUT,
)
from tests.broker.mosquitto import Mosquitto
from tests.e2e.aggregator_process import poll, turn_until
from tests.e2e.aggregator_stage import Stage
from tests.e2e.crashes.crashing_aggregator import POINTS
from wire_contract.publication.manifest import assemble_snapshot

pytestmark = pytest.mark.e2e


@pytest.mark.parametrize("point", list(POINTS))
def test_killed(point: str, stage: Stage, mosquitto: Mosquitto) -> None:
    stage.port = mosquitto.port
    stage.layout = CHUNKED if "chunk" in point else LAYOUT
    dying = stage.aggregator("--snapshot-versions", "1", crash=(point, 2))
    senders = stage.senders(3, updates=3)
    turn_until(senders, lambda: not dying.is_running)
    assert dying.ends() == -9, dying.log
    again = stage.aggregator()
    turn_until(senders, lambda: all(sender.done for sender in senders))
    if point == "between commit and acknowledgement":
        assert read_totals(stage.ledger).duplicates > 0, "the broker delivers again what was committed"
    if "version" in point or "chunk" in point:
        newest = read_totals(stage.ledger).version
        turn_until(senders, lambda: all(sender.manifest and sender.manifest.version >= newest for sender in senders))
    stage.balance(senders, again)


def test_the_broker_is_killed_and_loses_its_state(stage: Stage, mosquitto: Mosquitto) -> None:
    stage.port = mosquitto.port
    process = stage.aggregator()
    senders = stage.senders(3, updates=6)
    for receipts in (3, 9):
        turn_until(senders, lambda receipts=receipts: sum(len(s.receipts) for s in senders) >= receipts)  # type: ignore[misc]
        assert not all(sender.done for sender in senders)
        mosquitto.restart(lose_state=True)
    turn_until(senders, lambda: all(sender.done for sender in senders))
    newest = read_totals(stage.ledger).version
    manifest, _ = stage.late_joiner(lambda manifest, _: manifest.version >= newest)
    assert assemble_snapshot(manifest) is not None, "a broker that lost its retained messages has the model again"
    stage.balance(senders, process)


@pytest.mark.parametrize("point", ["between merge and commit", "between commit and acknowledgement"])
def test_aggregator_and_broker_are_killed_together(point: str, stage: Stage, mosquitto: Mosquitto) -> None:
    # Nobody delivers again: only what was committed before its receipt went out is safe.
    stage.port = mosquitto.port
    dying = stage.aggregator(crash=(point, 3))
    senders = stage.senders(2, updates=4)
    turn_until(senders, lambda: not dying.is_running)
    mosquitto.restart(lose_state=True)
    again = stage.aggregator()
    turn_until(senders, lambda: all(sender.done for sender in senders))
    stage.balance(senders, again)


def test_a_full_disk_is_waited_for(stage: Stage, mosquitto: Mosquitto) -> None:
    stage.port = mosquitto.port
    process = stage.aggregator()
    senders = stage.senders(2, updates=3)
    turn_until(senders, lambda: all(sender.receipts for sender in senders))
    written_ahead = stage.ledger.with_name(stage.ledger.name + "-wal")
    process.limit_files(max(written_ahead.stat().st_size, stage.ledger.stat().st_size))
    turn_until(senders, lambda: bool(process.complaints))
    assert "waiting, nothing is lost" in process.complaints[0]
    assert not all(sender.done for sender in senders)
    process.limit_files(-1)
    turn_until(senders, lambda: all(sender.done for sender in senders))
    stage.balance(senders, process)
    assert set(process.complaints) == {process.complaints[0]}


def test_it_can_be_stopped_while_the_disk_is_full(stage: Stage, mosquitto: Mosquitto) -> None:
    stage.port = mosquitto.port
    full = stage.aggregator()
    poll(lambda: "connected" in full.log, "for the connection")
    full.limit_files(0)
    senders = stage.senders(2, updates=2)
    turn_until(senders, lambda: any(sender.sends for sender in senders))
    assert full.stop() == 0
    again = stage.aggregator()
    turn_until(senders, lambda: all(sender.done for sender in senders))
    stage.balance(senders, again)
