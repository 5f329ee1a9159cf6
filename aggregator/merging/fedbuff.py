"""The buffer between two versions: x ← x + η · Σ wᵢ·Δᵢ / max(Σ wᵢ, 2·max wᵢ)  (FedBuff, Nguyen et al. 2022, whose
divisor is Σ wᵢ).

One slot a device: a device that hands in several differences before the next version has them summed, because they
are consecutive steps of one local line (Δ₁ + Δ₂ = s₂ - base), and counts in the divisor once, with the largest of their
weights. So a fast device can neither fill a buffer alone nor outvote the others by its number of updates; nor can one
hide a heavy update among many light ones, as it could if their mean were in the divisor. What a slot brings is at most
its weight times the sum of its scaled norms, which `peers.py` bounds.

The divisor is Σ wᵢ unless one slot outweighs all others together; then it is twice that slot's weight. So a device
never moves the model by more than half of what it would alone, if any other is in the version; the others do not gain
what it loses, so such a version is a smaller step. A version of a single slot, which `--devices-min 1` allows, takes
it whole.

Adding is one pass over memory, the scale of an update being part of its weight there. The order of additions is the
order of the journal, so that a restart that adds the same updates again gives the same bits.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from wire_contract.layout import Vector


@dataclass
class Slot:
    """What one device has in the next version."""

    weight: float = 0.0
    """The largest of its updates."""
    updates: int = 0
    norm: float = 0.0
    """Σ‖Δ‖₂ of its updates, before scaling."""
    samples: int = 0
    """Of its newest update."""


class Buffer:
    """Differences on their way into the next version."""

    def __init__(self, size: int) -> None:
        self._sum: Vector = np.zeros(size, dtype=np.float32)
        self._scratch: Vector = np.empty(size, dtype=np.float32)
        self._slots: dict[str, Slot] = {}

    @property
    def slots(self) -> int:
        """Devices with at least one update here."""
        return len(self._slots)

    @property
    def devices(self) -> Mapping[str, Slot]:
        """Who has a slot, and what it is."""
        return self._slots

    @property
    def updates(self) -> int:
        """Updates here, of all devices."""
        return sum(slot.updates for slot in self._slots.values())

    def norm_of(self, device: str) -> float:
        """Σ‖Δ‖₂ of what the device has here, before scaling."""
        slot = self._slots.get(device)
        return 0.0 if slot is None else slot.norm

    def add(
        self, device: str, difference: Vector, weight: float, *, scale: float = 1.0, norm: float = 0.0, samples: int = 1
    ) -> None:
        """Takes in one difference; the vector may be used again afterwards.

        Args:
            device: whose slot it is.
            difference: (size,) of finite values.
            weight: above 0; of the device, in the divisor too.
            scale: of the difference, above 0 and at most 1.
            norm: ‖difference‖₂, for the slot's account.
            samples: claimed by the device.
        """
        assert weight > 0, f"weight {weight}"
        assert 0 < scale <= 1, f"scale {scale}"
        np.multiply(difference, np.float32(weight * scale), out=self._scratch)
        np.add(self._sum, self._scratch, out=self._sum)
        slot = self._slots.setdefault(device, Slot())
        slot.weight = max(slot.weight, weight)
        slot.updates += 1
        slot.norm += norm
        slot.samples = samples

    def merged_onto(self, weights: Vector, rate: float) -> Vector:
        """New weights (size,): `weights` plus `rate` (η) times the sum over the divisor (see the module)."""
        assert self._slots, "an empty buffer makes no version"
        slot_weights = [slot.weight for slot in self._slots.values()]
        divisor = sum(slot_weights)
        if len(slot_weights) > 1:
            divisor = max(divisor, 2 * max(slot_weights))
        return weights + self._sum * np.float32(rate / divisor)

    def clear(self) -> None:
        """Begins the next version."""
        self._sum.fill(0.0)
        self._slots.clear()
