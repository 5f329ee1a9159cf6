"""The buffer between two versions: one slot a device, and what the merging rule has made of the updates so far.

A device that hands in several updates before the next version has one slot. So a fast device can neither fill a buffer
alone nor outvote the others by its number of updates; nor can one hide a heavy update among many light ones, because
the slot has the largest of their weights and not their mean. What a slot brings is at most its weight times the sum of
its scaled norms, which `peers.py` bounds.
"""

from collections.abc import Mapping

from aggregator.merging.rule import Contribution, Merger, RuleState, Slot, Step
from wire_contract.layout import Vector


class Buffer:
    """Updates on their way into the next version."""

    def __init__(self, merger: Merger) -> None:
        self._merger = merger
        self._slots: dict[str, Slot] = {}

    @property
    def slots(self) -> int:
        """Devices with at least one update here."""
        return len(self._slots)

    @property
    def devices(self) -> Mapping[str, Slot]:
        """The slots by device."""
        return self._slots

    @property
    def updates(self) -> int:
        """Updates here, of all devices."""
        return sum(slot.updates for slot in self._slots.values())

    def norm_of(self, device: str) -> float:
        """Σ‖Δ‖₂ of the device's updates here, before scaling."""
        slot = self._slots.get(device)
        return 0.0 if slot is None else slot.norm

    def add(self, contribution: Contribution) -> None:
        """Takes in one update."""
        assert contribution.weight > 0, f"weight {contribution.weight}"
        assert 0 < contribution.scale <= 1, f"scale {contribution.scale}"
        self._merger.add(contribution)
        slot = self._slots.setdefault(contribution.device, Slot())
        slot.weight = max(slot.weight, contribution.weight)
        slot.updates += 1
        slot.norm += contribution.norm
        slot.samples = contribution.samples

    def step(self, weights: Vector) -> Step:
        """The next version after master `weights` (size,); changes nothing."""
        assert self._slots, "an empty buffer makes no version"
        return self._merger.version(weights, self._slots)

    def restore(self, state: RuleState) -> None:
        """Begins the next version, after the one that `state` was committed with.

        Raises:
            ValueError: the state is not one that the rule wrote.
        """
        self._merger.restore(state)
        self._slots.clear()
