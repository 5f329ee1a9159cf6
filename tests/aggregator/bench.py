"""A line and its ledger, one update at a time."""

from pathlib import Path
from typing import Any

from aggregator.admission import (
    Judged,
    Refuse,
    Verdict,
)
from aggregator.ledger.ledger import Ledger
from aggregator.ledger.records import batch_of, row_of
from aggregator.model_line import LineSettings, ModelLine
from tests.aggregator.synthetic import SETTINGS, T0, TASK, SyntheticDevice, begin


class Bench:
    """A line and its ledger, one update at a time."""

    def __init__(self, path: Path, settings: LineSettings = SETTINGS) -> None:
        self.path = path
        self.ledger = Ledger(path, task=TASK)
        self.now = T0
        self.line: ModelLine = begin(self.ledger, settings)

    def give(self, device: SyntheticDevice, payload: bytes) -> Judged:
        judged = self.line.judge(device.parsed, payload)
        self.now += 1
        self.ledger.commit_batch(batch_of([judged]), now=self.now)
        for crowded in self.line.crowded():
            for key in self.ledger.forget_incarnations(crowded):
                self.line.forget(key)
        return judged

    def verdict(self, device: SyntheticDevice, **changes: Any) -> Verdict:
        return self.give(device, device.payload(self.line, **changes)).verdict

    def reason(self, device: SyntheticDevice, **changes: Any) -> str:
        verdict = self.verdict(device, **changes)
        assert isinstance(verdict, Refuse), verdict
        assert 0 < len(verdict.detail) <= 300
        return verdict.reason

    def next_version(self) -> None:
        step = self.line.next_step()
        release = self.line.next_release(step.weights, at=T0)
        self.ledger.commit_version(row_of(release), step, rule=self.line.settings.rule.name)
        self.line.advance(release, step)
