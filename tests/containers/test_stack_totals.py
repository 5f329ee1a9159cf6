"""After all that the other tests did to the shared stack: what devices sent against what the aggregator merged.

Runs last, by the order of names.
"""

from pathlib import Path

import pytest

from aggregator.ledger.reading import read_journal, read_totals
from device_client.commands.outboxes import OUTBOX_NAME
from simulators.audit.exactly_once import audit_exactly_once, read_outbox
from tests.containers.conftest import DEVICES
from tests.containers.stack import Stack

pytestmark = [pytest.mark.containers, pytest.mark.timeout(1800)]


def test_nothing_was_lost_and_nothing_was_merged_twice(stack: Stack, tmp_path: Path) -> None:
    stack.compose("stop", *DEVICES)
    stack.compose("stop", "aggregator")
    ledger = stack.copied("aggregator", tmp_path) / "ledger.sqlite3"
    outboxes = [read_outbox(stack.copied(device, tmp_path) / OUTBOX_NAME, device=device) for device in DEVICES]
    audit = audit_exactly_once(
        [outbox for outbox in outboxes if outbox is not None],
        refused={},
        merged=[(one.device, one.sequence) for one in read_journal(ledger)],
    )
    assert len(audit.sent) > len(DEVICES)
    assert read_totals(ledger).refused == 0
    assert audit.agrees, audit
