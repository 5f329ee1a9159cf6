"""Medians over devices, against which each device is measured; norm clipping.

Two figures are compared: the samples that a device claims, and how far it moves the model in one version (the sum of
the norms of its updates, its *slot norm*). Each is the lower median over the most recently merged devices, with one
value per device, its newest. So a device that sends a thousand updates has one vote, and fewer than half of the devices
cannot move a median beyond the range of the others. With fewer than three known devices there is no median: the lower
median of two is the smaller value, and a single tiny update would scale all others down.

Values are taken as claimed, before scaling. So if all devices start to move the model further, for example with a new
learning rate, the median follows within one version.

Medians change only when a version is committed: all updates of a version are measured alike, whatever their order, and
a restart needs nothing but each device's row in the ledger.
"""

import sys
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypeVar

PEERS_MAX = 256
"""Devices in a median, the most recently merged ones. Enough to keep a burst of unknown devices a minority in a fleet
of hundreds; few enough to sort at each version."""

DEVICES_KNOWN_MIN = 3
"""With fewer devices, a single one would determine the median."""

BUDGET_RATIO = 1.0
"""Default budget of a slot, as a multiple of the median slot norm."""

BEYOND = 0.1
"""A slot moves the model by less than (1 + `BEYOND`) times its budget. It is small because a few large steps in a wrong
direction undo what many versions have learned, and not 0, so that every merged update has some effect."""

FIRST_NORM_SHARE = 0.1
"""Budget of a slot while there is no median, as a share of max(‖x‖, 1); the sender may be hostile. First updates of the
built-in tasks have norms of 0.1 to 0.3 ‖x‖. A smaller value costs part of the first step, once; a larger one would let
the first sender determine the model."""

_BUDGET_SHARE_MIN = 1e-6
"""Smallest budget, as a share of max(‖x‖, 1): if all devices send zeros, later updates must still count."""

_FIRST_DISTANCE = 1.0
"""Budget of running statistics while there is no median: a standard deviation. Chosen, not measured: it costs part of
the first step, once."""

_DISTANCE_MIN = 1e-3
"""Smallest budget of running statistics: if all devices send those of the model, later ones must still count."""

_SCALE_MIN = 2.0**-126
"""The smallest normal float32; the product of two tiny factors could otherwise round to 0."""


Number = TypeVar("Number", int, float)


@dataclass(frozen=True)
class Claim:
    """One device's figures in the newest version that it contributed to."""

    version: int
    samples: int
    """As its newest update claims."""
    slot_norm: float | None
    """Σ‖Δ‖₂ of its updates in that version, before scaling; None: unknown, from a ledger of format 2."""
    statistics_norm: float | None = None
    """Distance of its newest running statistics from the model's (`statistics.py`), before scaling; None: it sent
    none."""


class Peers:
    """The claims of the most recently merged devices, and their medians."""

    def __init__(self, claims: Mapping[str, Claim]) -> None:
        """Starts from the newest claim of each device; only the `PEERS_MAX` newest are kept."""
        self._claims = dict(claims)
        self.samples: int | None = None
        """Median of the samples; None while fewer than `DEVICES_KNOWN_MIN` devices are known."""
        self.slot_norm: float | None = None
        """Median of the slot norms; None while fewer than `DEVICES_KNOWN_MIN` devices are known."""
        self.statistics_norm: float | None = None
        """Median of the distances of statistics; None while fewer than `DEVICES_KNOWN_MIN` are known."""
        self._settle()

    def committed(self, claims: Mapping[str, Claim]) -> None:
        """A version was committed; `claims` are those of its devices."""
        self._claims |= claims
        self._settle()

    def _settle(self) -> None:
        if len(self._claims) > PEERS_MAX:
            # Ties within a version are broken by name, so that a restart, which reads rows in any order, keeps the
            # same.
            newest = sorted(self._claims, key=lambda device: (self._claims[device].version, device))[-PEERS_MAX:]
            self._claims = {device: self._claims[device] for device in newest}
        claims = self._claims.values()
        self.samples = _lower_median([claim.samples for claim in claims])
        self.slot_norm = _lower_median([claim.slot_norm for claim in claims if claim.slot_norm is not None])
        distances = [claim.statistics_norm for claim in claims if claim.statistics_norm is not None]
        self.statistics_norm = _lower_median(distances)


def _lower_median(values: list[Number]) -> Number | None:
    """None with fewer than `DEVICES_KNOWN_MIN` values."""
    return sorted(values)[(len(values) - 1) // 2] if len(values) >= DEVICES_KNOWN_MIN else None


def budget_of(usual_norm: float | None, weights_norm: float, *, ratio: float) -> float:
    """The slot norm, above 0, up to which a device's updates in one version are not scaled down.

    Args:
        usual_norm: median slot norm; None while there is none.
        weights_norm: ‖x‖₂ of the model.
        ratio: budget divided by the median.
    """
    size = max(weights_norm, 1.0)
    if usual_norm is None:
        return ratio * FIRST_NORM_SHARE * size
    return ratio * max(usual_norm, _BUDGET_SHARE_MIN * size)


def statistics_budget_of(usual_norm: float | None, *, ratio: float) -> float:
    """The distance, above 0, up to which a device's running statistics are not scaled down.

    Args:
        usual_norm: median distance; None while there is none.
        ratio: budget divided by the median.
    """
    return ratio * (_FIRST_DISTANCE if usual_norm is None else max(usual_norm, _DISTANCE_MIN))


def scale_of(norm: float, before: float, budget: float) -> float:
    """Factor for an update of this norm, 0 < scale ≤ 1, if the slot already holds updates of total norm `before`.

    Up to the budget b the factor is 1. Beyond it, a slot of norm R > b moves the model as one of norm
    b + kb·(R - b)/(R - b + kb) would, with k = `BEYOND`. This is smooth at b, stays below (1 + k)·b for any R, and
    depends only on the sum of norms, so splitting an update into several gains nothing. The factor never reaches 0:
    a backlog that a device learned offline still counts.
    """
    after, beyond = before + norm, BEYOND * max(budget, sys.float_info.min)
    if after <= budget or norm == 0.0:
        return 1.0
    if before >= budget:
        # The difference of two such values, rearranged to avoid cancellation.
        scale = beyond / (before - budget + beyond) * (beyond / (after - budget + beyond))
    else:
        scale = (budget - before + beyond * ((after - budget) / (after - budget + beyond))) / norm
    return min(1.0, max(scale, _SCALE_MIN))
