"""One device on a stage for each test, and the check that no update was lost or settled twice."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.device_client.stage import Stage


@pytest.fixture
def stage(tmp_path: Path) -> Stage:
    return Stage(tmp_path)


@pytest.fixture(autouse=True)
def _every_update_is_accounted_for(stage: Stage) -> Iterator[None]:
    """After every test: each update ever queued either waits in the outbox, or was answered or dropped, never both."""
    yield
    if not stage.path.exists():
        return
    identities = [update.identity for update in stage.aggregator.merged]
    assert len(identities) == len(set(identities)), "an update was merged twice"
    with stage.outbox() as outbox:
        queued = set(range(1, outbox.next_identity.sequence))
    waiting = set(stage.queued())
    answered = {receipt["sequence"] for receipt in stage.told("receipt") if receipt["reason"] != "rate"}
    too_large = [re.match(r"update (\d+) is too large", warning["message"]) for warning in stage.told("warning")]
    dropped = {int(match[1]) for match in too_large if match is not None}
    assert waiting | answered | dropped == queued, "an update was lost"
    assert waiting.isdisjoint(answered | dropped), "an update waits for a receipt that has come"
