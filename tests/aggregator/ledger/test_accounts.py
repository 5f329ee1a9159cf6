"""The account of each device, and what a restart takes from the journal."""

from dataclasses import replace
from pathlib import Path

import numpy as np

from aggregator.ledger.ledger import Ledger
from aggregator.ledger.records import Batch, MergedUpdate
from aggregator.ledger.restoring import restore
from aggregator.merging.peers import Claim
from aggregator.merging.rule import Contribution
from tests.aggregator.synthetic import FOLLOWED, SETTINGS, T0, TASK, Account, SyntheticDevice, accounts, begin
from wire_contract.codec import encode
from wire_contract.compression.rate_control import CompressionTarget

LINE = replace(SETTINGS, model_encoding="float16", delta_encoding=CompressionTarget(bytes_max=1_000))


def test_an_account_tells_what_a_device_had_a_part_in(tmp_path: Path) -> None:
    device = SyntheticDevice("a", FOLLOWED)

    def merged(into_version: int, *, norm: float | None, scale: float = 1.0, samples: int = 10) -> Batch:
        update = device.update(base_version=0, base_digest=bytes(32), samples=samples)
        row = MergedUpdate(
            update=update,
            payload=encode(update),
            into_version=into_version,
            staleness=into_version - 1,
            weight=0.5,
            scale=scale,
            norm=norm,
        )
        return Batch(merged=(row,))

    with Ledger(tmp_path / "ledger", task=TASK) as ledger:
        begin(ledger)
        ledger.commit_batch(merged(1, norm=2.0), now=T0)
        ledger.commit_batch(merged(4, norm=3.0, scale=0.5), now=T0 + 1)
        ledger.commit_batch(merged(4, norm=4.0, samples=30), now=T0 + 2)
        assert accounts(ledger.path) == [
            Account(
                device="a",
                first_version=1,
                last_version=4,
                versions=2,
                updates=3,
                samples=30,
                slot_norm=7.0,
                last_merged_at=T0 + 2,
            )
        ]
        assert ledger.claims(9, until=4) == {"a": Claim(4, 30, 7.0)}
        assert ledger.claims(9, until=3) == {"a": Claim(1, 10, 2.0)}, "version 4 is still in the making"
        assert ledger.contributed(since=0, until=4) == {"a": 4}
        assert ledger.contributed(since=0, until=3) == {"a": 1}
        assert ledger.contributed(since=2, until=3) == {}
        ledger.commit_batch(merged(4, norm=None), now=T0 + 3)
        assert accounts(ledger.path)[0].slot_norm is None, "a norm that is not known leaves the sum unknown"
        ledger.commit_batch(merged(5, norm=1.0), now=T0 + 4)
        assert accounts(ledger.path)[0].slot_norm == 1.0


def test_the_scale_in_the_journal_is_used_again_after_a_restart(tmp_path: Path) -> None:
    device = SyntheticDevice("a", FOLLOWED)
    with Ledger(tmp_path / "ledger", task=TASK) as ledger:
        line = begin(ledger, LINE, FOLLOWED)
        difference = np.random.default_rng(1).standard_normal(FOLLOWED.size).astype(np.float32)
        update = device.update(line, difference=difference)
        row = MergedUpdate(
            update=update, payload=encode(update), into_version=1, staleness=0, weight=10.0, scale=0.3, norm=1.0
        )
        ledger.commit_batch(Batch(merged=(row,)), now=T0)
        line.buffer.add(Contribution(device="a", unclipped=difference, weight=10.0, scale=0.3))
        assert restore(ledger, LINE).next_step().weights.tobytes() == line.next_step().weights.tobytes()
