"""The buffer between two versions: x ← x + η · Σ wᵢ·Δᵢ / Σ wᵢ  (FedBuff, Nguyen et al. 2022).

One slot a device: a device that hands in several differences before the next version has them summed, because they
are consecutive steps of one local line (Δ₁ + Δ₂ = s₂ - base), and counts in the divisor once, with their mean weight.
So a fast device can neither fill a buffer alone nor outvote the others by its number of updates.

Adding is one pass over memory. The order of additions is the order of the journal, so that a restart that adds the
same updates again gives the same bits.
"""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from wire_contract.layout import Vector


@dataclass
class _Slot:
    weight_sum: float = 0.0
    updates: int = 0


class Buffer:
    """Differences on their way into the next version."""

    def __init__(self, size: int) -> None:
        self._sum: Vector = np.zeros(size, dtype=np.float32)
        self._scratch: Vector = np.empty(size, dtype=np.float32)
        self._slots: dict[str, _Slot] = {}

    @property
    def slots(self) -> int:
        """Devices with at least one update here."""
        return len(self._slots)

    @property
    def devices(self) -> Iterable[str]:
        """Who has a slot."""
        return self._slots.keys()

    @property
    def updates(self) -> int:
        """Updates here, of all devices."""
        return sum(slot.updates for slot in self._slots.values())

    def add(self, device: str, difference: Vector, weight: float) -> None:
        """Takes in one finite `difference` (size,) with its weight > 0; the vector may be used again afterwards."""
        assert weight > 0, f"weight {weight}"
        np.multiply(difference, np.float32(weight), out=self._scratch)
        np.add(self._sum, self._scratch, out=self._sum)
        slot = self._slots.setdefault(device, _Slot())
        slot.weight_sum += weight
        slot.updates += 1

    def merged_onto(self, weights: Vector, rate: float) -> Vector:
        """New weights (size,): `weights` plus `rate` (η) times the weighted mean of what is here."""
        assert self._slots, "an empty buffer makes no version"
        divisor = sum(slot.weight_sum / slot.updates for slot in self._slots.values())
        return weights + self._sum * np.float32(rate / divisor)

    def clear(self) -> None:
        """Begins the next version."""
        self._sum.fill(0.0)
        self._slots.clear()
