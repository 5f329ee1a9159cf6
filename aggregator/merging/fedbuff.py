"""FedBuff with a bounded divisor: x ← x + η · Σ wᵢ·Δᵢ / max(Σ wᵢ, 2·max wᵢ).

Source: Nguyen et al. 2022, arXiv:2106.06639, which divides by the number of updates K; here the divisor is Σ wᵢ over
the slots. Several updates of one device are summed, because they are consecutive steps of one local line
(Δ₁ + Δ₂ = s₂ - base), and count in the divisor once, with the largest of their weights.

The divisor is Σ wᵢ unless one slot outweighs all others together; then it is twice that slot's weight. So no device
moves the model by more than half of what it would alone, if there is any other in the version. The others do not gain
what it loses: such a version is a smaller step. A version of a single slot (with `--devices-min 1`) takes a full step.

Adding is one pass over memory; the scale is folded into the weight.
"""

from collections.abc import Collection, Mapping

import numpy as np

from aggregator.merging.rule import Contribution, Rule, RuleState, Slot, Step
from wire_contract.layout import Vector


def divisor_of(slot_weights: Collection[float]) -> float:
    """The divisor for these weights (see the module)."""
    divisor = sum(slot_weights)
    return max(divisor, 2 * max(slot_weights)) if len(slot_weights) > 1 else divisor


class FedBuff:
    """The running sum. It needs no state: a restart adds the journal's updates again."""

    def __init__(self, size: int, rate: float) -> None:
        self._rate = rate
        self._sum: Vector = np.zeros(size, dtype=np.float32)
        self._scratch: Vector = np.empty(size, dtype=np.float32)

    def add(self, contribution: Contribution) -> None:
        """One pass over memory."""
        contribution.weighted(out=self._scratch)
        np.add(self._sum, self._scratch, out=self._sum)

    def version(self, weights: Vector, slots: Mapping[str, Slot]) -> Step:
        """`weights` plus η times the sum over the divisor (see the module)."""
        divisor = divisor_of([slot.weight for slot in slots.values()])
        return Step(weights + self._sum * np.float32(self._rate / divisor))

    def restore(self, state: RuleState) -> None:
        """Empties the sum."""
        if state.shared or state.devices:
            raise ValueError("FedBuff keeps no state")
        self._sum.fill(0.0)


FEDBUFF = Rule(
    name="fedbuff",
    divisor="weights",
    sums_only=True,
    keeps_devices=False,
    cuts_at_exactly_k=False,
    begin=FedBuff,
)
