"""What devices usually send, so that one of them can be measured against the others.

Two figures: how many samples a device claims, and how far it moves the model in one version (the sum of the norms of
its updates there, its *slot norm*). Each is the lower median over the devices that were merged last, with one value a
device, its newest: whoever sends a thousand updates has one voice, and fewer than half of the devices cannot move a
median beyond what the others send, neither up nor down. While fewer than three devices are known, nothing counts as
usual: the lower median of two is whatever the smaller one says, and one tiny update would scale everybody down.

Values are taken as they were claimed, before anything is scaled down. So when all devices begin to move the model
further, for instance at a new learning rate, the median follows within one version.

The medians change only when a version is committed: all updates of one version are measured alike, whatever their
order, and a restart needs nothing but each device's row in the ledger.
"""

import sys
from collections.abc import Mapping
from dataclasses import dataclass

PEERS_MAX = 256
"""So many devices, those merged last, are asked. Enough that a burst of strangers is a minority in a fleet of hundreds;
few enough to sort at each version."""

DEVICES_KNOWN_MIN = 3
"""A median over fewer devices is that of one of them."""

BUDGET_RATIO = 1.0
"""Default: the budget of a slot is the median itself."""

BEYOND = 0.1
"""A slot moves the model by at most 1 + `BEYOND` budgets. It has to be little: large steps up the slope break in a few
versions what took many to learn. It is not 0, so that no update that was merged counts for nothing."""

FIRST_NORM_SHARE = 0.1
"""While nothing is usual there is nothing to compare with, and the sender may be hostile: a slot's budget is this share
of max(‖x‖, 1). First updates of the built-in tasks have norms of 0.1 to 0.3 ‖x‖. Too little costs a part of the first
step, once; too much lets whoever comes first begin the line."""

_BUDGET_SHARE_MIN = 1e-6
"""Of max(‖x‖, 1): devices that all send zeros must not make every later update count nothing."""

_SCALE_MIN = 2.0**-126
"""The smallest normal float32. The product of two tiny shares could otherwise be rounded to 0."""


@dataclass(frozen=True)
class Claim:
    """What one device said in the newest version that it had a part in."""

    version: int
    samples: int
    """Of its newest update."""
    slot_norm: float | None
    """Σ‖Δ‖₂ of its updates in that version, before scaling; None: not known, from a ledger of before there were any."""


class Peers:
    """The claims of the devices that were merged last, and their medians."""

    def __init__(self, claims: Mapping[str, Claim]) -> None:
        """Begins with the newest claims of devices; only the `PEERS_MAX` newest are kept."""
        self._claims = dict(claims)
        self.samples: int | None = None
        """Median of the samples; None while fewer than `DEVICES_KNOWN_MIN` devices are known."""
        self.slot_norm: float | None = None
        """Median of the slot norms; None while fewer than `DEVICES_KNOWN_MIN` devices are known."""
        self._settle()

    def committed(self, claims: Mapping[str, Claim]) -> None:
        """A version was made of these devices' updates."""
        self._claims |= claims
        self._settle()

    def _settle(self) -> None:
        if len(self._claims) > PEERS_MAX:
            # Names decide within a version, so that a restart, which reads rows in no order, keeps the same devices.
            newest = sorted(self._claims, key=lambda device: (self._claims[device].version, device))[-PEERS_MAX:]
            self._claims = {device: self._claims[device] for device in newest}
        samples = sorted(claim.samples for claim in self._claims.values())
        norms = sorted(claim.slot_norm for claim in self._claims.values() if claim.slot_norm is not None)
        self.samples = samples[(len(samples) - 1) // 2] if len(samples) >= DEVICES_KNOWN_MIN else None
        self.slot_norm = norms[(len(norms) - 1) // 2] if len(norms) >= DEVICES_KNOWN_MIN else None


def budget_of(usual_norm: float | None, weights_norm: float, *, ratio: float) -> float:
    """The slot norm, above 0, up to which a device's updates in one version are taken whole.

    Args:
        usual_norm: median of the slot norms; None while there is none.
        weights_norm: ‖x‖₂ of the model.
        ratio: of the budget to the median.
    """
    size = max(weights_norm, 1.0)
    if usual_norm is None:
        return ratio * FIRST_NORM_SHARE * size
    return ratio * max(usual_norm, _BUDGET_SHARE_MIN * size)


def scale_of(norm: float, before: float, budget: float) -> float:
    """What an update of this norm is multiplied by, 0 < scale ≤ 1, after updates of norm `before` of the same slot.

    Up to the budget b, a slot is taken whole. Beyond it, a slot of norm R > b moves the model as one of
    b + kb·(R - b)/(R - b + kb) would, with k = `BEYOND`. That is smooth at b, stays under (1 + k)·b however large R is,
    and depends on the sum only, so that nothing is gained by cutting an update into many. The scale never reaches 0:
    what a device learned offline in several updates still counts.
    """
    after, beyond = before + norm, BEYOND * max(budget, sys.float_info.min)
    if after <= budget or norm == 0.0:
        return 1.0
    if before >= budget:
        # The difference of two such values, without subtracting large numbers from one another.
        scale = beyond / (before - budget + beyond) * (beyond / (after - budget + beyond))
    else:
        scale = (budget - before + beyond * ((after - budget) / (after - budget + beyond))) / norm
    return min(1.0, max(scale, _SCALE_MIN))
