"""Participation of devices, and how even it is. No clock: each call has the time as an argument."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

SILENT_SECONDS = 3_600.0
"""A device without a merged update for this long counts as silent. Chosen, not measured: a shorter time counts devices
that merely wait for a charger, a longer one notices an outage late."""
DEVICES_MAX = 1_000_000
"""Devices beyond this number are not counted. Bounds the memory if names are invented; chosen far above what one
aggregator serves."""


class Activity(NamedTuple):
    """One judged update, for participation."""

    device: str
    weight: float | None
    """Weight of the merge; None if it was not merged."""


@dataclass
class Share:
    """One device's part since the ledger was created."""

    weight: float = 0.0
    merged_at: float = 0.0
    """Unix seconds of its newest merged update; 0: none."""


def gini(values: Iterable[float]) -> float | None:
    """Gini coefficient of non-negative values: 0 if all are equal, near 1 if one has all; None if their sum is 0.

    G = 2 Σ i·xᵢ / (n Σ xᵢ) - (n + 1)/n with x ascending, i from 1.
    """
    ascending = np.sort(np.fromiter(values, dtype=np.float64))
    total = float(ascending.sum())
    if total <= 0:
        return None
    count = ascending.size
    ranks = np.arange(1, count + 1)
    return float(2 * (ranks @ ascending) / (count * total) - (count + 1) / count)


class Participation:
    """The devices of one shard."""

    def __init__(self, shares: Mapping[str, Share] | None = None) -> None:
        self._shares = dict(shares or {})
        self._online: set[str] = set()
        self._evaluators: set[str] = set()

    def contributed(self, contribution: Activity, at: float) -> None:
        """Notes an update that was judged at Unix second `at`."""
        share = self._share(contribution.device)
        if share is not None and contribution.weight is not None:
            share.weight += contribution.weight
            share.merged_at = at

    def present(self, device: str, *, online: bool) -> None:
        """The device, or the broker by its will, announced that it is online or offline."""
        if self._share(device) is not None and online:
            self._online.add(device)
        elif not online:
            self._online.discard(device)

    def evaluates(self, device: str) -> None:
        """The device is an evaluator, and does not count as a participant."""
        if device in self._evaluators or len(self._evaluators) < DEVICES_MAX:
            self._evaluators.add(device)
            self._shares.pop(device, None)
            self._online.discard(device)

    def figures(self, now: float) -> dict[str, int | float]:
        """Fields of a `fedkd_fleet` point at Unix second `now`."""
        known = len(self._shares)
        for share in self._shares.values():  # a clock that was ahead is no reason to count a device as active for long
            share.merged_at = min(share.merged_at, now)
        contributing = sum(share.merged_at > now - SILENT_SECONDS for share in self._shares.values())
        found: dict[str, int | float] = {
            "devices_known": known,
            "devices_online": len(self._online),
            "devices_contributing": contributing,
            "devices_silent": known - contributing,
        }
        if known:
            found["silent_share"] = (known - contributing) / known
        evenness = gini(share.weight for share in self._shares.values())
        if evenness is not None:
            found["weight_gini"] = evenness
        return found

    def _share(self, device: str) -> Share | None:
        share = self._shares.get(device)
        if share is None and device not in self._evaluators and len(self._shares) < DEVICES_MAX:
            share = self._shares[device] = Share()
        return share
