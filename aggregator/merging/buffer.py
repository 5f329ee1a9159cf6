"""The buffer between two versions: one slot per device, and the merger of the rule.

All updates of a device in one version share a slot. So a fast device can neither fill a buffer alone nor outvote others
by its number of updates. Nor can it hide a heavy update among many light ones: the slot has the largest of their
weights, not the mean. A slot contributes at most its weight times the sum of its scaled norms, which `peers.py` bounds.
"""

from collections.abc import Mapping
from dataclasses import replace
from functools import partial

import numpy as np

from aggregator.merging.rule import Contribution, Merger, RuleState, Slot, Step
from aggregator.merging.statistics import RunningStatistics
from wire_contract.layout import Vector

_UNTIL_CHECKED = partial(np.errstate, over="ignore", invalid="ignore")
"""`Buffer.step` checks the sum, so numpy need not warn."""


class Buffer:
    """Accepted updates that wait for the next version."""

    def __init__(self, merger: Merger, statistics: RunningStatistics | None = None) -> None:
        """`statistics`: for layouts with running statistics, which the rule does not see."""
        self._merger = merger
        self._statistics = statistics
        self._slots: dict[str, Slot] = {}

    @property
    def slots(self) -> int:
        """Number of devices with at least one buffered update."""
        return len(self._slots)

    @property
    def devices(self) -> Mapping[str, Slot]:
        """The slots by device."""
        return self._slots

    @property
    def updates(self) -> int:
        """Number of buffered updates of all devices."""
        return sum(slot.updates for slot in self._slots.values())

    def norm_of(self, device: str) -> float:
        """Σ‖Δ‖₂ of the device's buffered updates, before scaling."""
        slot = self._slots.get(device)
        return 0.0 if slot is None else slot.norm

    def add(self, contribution: Contribution) -> None:
        """Adds one update."""
        assert contribution.weight > 0, f"weight {contribution.weight}"
        assert 0 < contribution.scale <= 1, f"scale {contribution.scale}"
        with _UNTIL_CHECKED():
            self._merger.add(contribution)
        slot = self._slots.setdefault(contribution.device, Slot())
        slot.weight = max(slot.weight, contribution.weight)
        slot.updates += 1
        slot.norm += contribution.norm
        slot.samples = contribution.samples
        if self._statistics is not None:
            self._statistics.add(contribution)
            slot.statistics_norm = contribution.statistics_norm

    def step(self, weights: Vector) -> Step:
        """The next version after master `weights` (layout.size,); changes nothing.

        If the sum is not finite, the version has the weights of the one before, and what was added is given up.
        Admission bounds each update, so this takes weights near the end of float32, or a journal without norms.
        """
        with _UNTIL_CHECKED():
            step = self._merged(weights)
        return step if np.isfinite(step.weights).all() else Step(weights, is_discarded=True)

    def _merged(self, weights: Vector) -> Step:
        assert self._slots, "an empty buffer makes no version"
        if self._statistics is None:
            return self._merger.version(weights, self._slots)
        size = weights.size - 2 * self._statistics.channels
        step = self._merger.version(weights[:size], self._slots)
        statistics = self._statistics.version(weights[size:])
        return replace(step, weights=np.concatenate((step.weights, statistics)))

    def restore(self, state: RuleState) -> None:
        """Begins the next version, after the one that `state` was committed with.

        Raises:
            ValueError: the state is not one that the rule wrote.
        """
        self._merger.restore(state)
        self._slots.clear()
        if self._statistics is not None:
            self._statistics.clear()
