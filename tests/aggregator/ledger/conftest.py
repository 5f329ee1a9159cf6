"""A ledger with 300 versions."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from aggregator.ledger import pruning
from aggregator.ledger.ledger import Ledger
from benchmarks import long_ledgers
from benchmarks.long_ledgers import LedgerSize, write


@pytest.fixture
def one(tmp_path: Path) -> Iterator[Ledger]:
    """An open ledger with 300 versions of 20 updates."""
    write(tmp_path / "ledger", LedgerSize(versions=300, devices=30))
    with Ledger(tmp_path / "ledger", task=long_ledgers.TASK) as ledger:
        yield ledger


@pytest.fixture
def exact(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows go as soon as they may."""
    monkeypatch.setattr(pruning, "SLACK_VERSIONS", 0)
    monkeypatch.setattr(pruning, "SUMMARY_VERSIONS_KEPT", 0)
