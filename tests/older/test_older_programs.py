"""An older and a newer device teach one model together, under an older and under a newer aggregator.

Real programs, real mosquitto. Each update is merged once, each receipt understood, and all of them have the same model.
"""

from itertools import pairwise

import pytest

from tests.older.federation import Federation
from tests.older.program import Age

pytestmark = [pytest.mark.e2e, pytest.mark.broker]

UPDATES_EACH = 5
DEVICES: dict[str, Age] = {"machine-1": "older", "machine-2": "newer"}


@pytest.mark.parametrize("age", ["older", "newer"])
def test_devices_of_both_ages_teach_one_model(federation: Federation, age: Age) -> None:
    federation.start_aggregator(age)
    for name, device_age in DEVICES.items():
        federation.start_device(device_age, name)
    federation.until(lambda: min(federation.receipts(name) for name in DEVICES) >= UPDATES_EACH)
    federation.end()

    journal = federation.asked("SELECT device, incarnation, sequence, base_version FROM journal ORDER BY id")
    assert len({row[:3] for row in journal}) == len(journal), "each update was merged once"
    assert not [row for row in federation.asked("SELECT * FROM counter") if row[0] == "refused"], federation.logs
    (newest,) = federation.asked("SELECT max(version) FROM version")
    for name in DEVICES:
        merged = [row for row in journal if row[0] == name]
        receipts = federation.told(name, "receipt")
        assert {receipt["outcome"] for receipt in receipts} <= {"merged", "duplicate"}
        settled = {receipt["sequence"] for receipt in receipts}
        assert settled <= {row[2] for row in merged}, "what a receipt ended is merged"
        assert len(merged) - len(settled) <= 1, "at most the last one was under way at the end"
        assert not federation.told(name, "warning"), federation.logs
        versions = [model["version"] for model in federation.told(name, "model")]
        steps = [after - before for before, after in pairwise(versions)]
        assert 1 in steps, "versions that are no snapshots were had, by deltas"
        assert versions[-1] >= newest[0] - 1
        # An update names the digest of its base, and one of another digest would have been refused.
        assert len({row[3] for row in merged}) > 1, "several versions were trained on"
