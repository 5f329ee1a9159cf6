"""What a merging rule is: a value that declares its properties, and a merger that does the arithmetic.

A version is made in three stages. Admission decides the weight and the scale of each update (`staleness.py`,
`peers.py`); staleness, samples, caps and norm clipping are settled there, before any rule. The buffer (`buffer.py`)
keeps one slot per device, for all rules alike. The rule computes new master weights. `rules.py` lists the rules.

A merger is called in this order, by one thread:

    restore(state of the newest version)     at the start, from the ledger
    add(contribution) …                      in the order of the journal
    version(weights, slots) → Step           pure: the commit may have to wait for a full disk, or fail
    restore(step.state)                      after the commit; starts the next version

A running merger continues from exactly the state that a restarted one would read, so a restart is bit-identical if
`add` and `version` are deterministic. Buffered updates are not part of the state: a restart adds them again from the
journal.

`Step.state` contains only the values that changed. A value stays until it is replaced, or deleted with None, so a rule
writes only what a version changes: momentum vectors (`shared`, replaced each time), the K newest updates of FedFa
(`shared`, one key each, one replaced), the last H bases of FedAsync (`shared`, one key per version, the oldest
deleted), the last update of each device in CA2FL, FedVARP and MIFA (`devices`, the contributors' replaced, evicted ones
deleted). The ledger writes them in the version's transaction (`ledger/rule_state.py`).
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Literal, Protocol

import numpy as np

from wire_contract.layout import Vector

Divisor = Literal["weights", "count", "devices", "none"]
"""What a rule divides its sum by: Σw, the K updates of the version, all n known devices, or nothing."""


@dataclass(frozen=True, kw_only=True)
class Contribution:
    """One accepted update as a rule sees it, with weight and scale decided."""

    device: str
    unclipped: Vector
    """(size,), the decoded difference of the weights. Rules call `clipped` or `weighted` instead, so that none forgets
    the scale."""
    weight: float
    """Above 0: staleness, samples and absence, bounded (`staleness.weight_of`)."""
    scale: float = 1.0
    """Factor on the difference, above 0 and at most 1 (`peers.scale_of`)."""
    norm: float = 0.0
    """‖difference‖₂ before scaling."""
    samples: int = 1
    """As the device claims."""
    base_version: int = 0
    """The version that the difference starts from."""
    staleness: int = 0
    """Versions, when the update was judged. It is part of `weight` already."""
    statistics: Vector | None = None
    """The device's running statistics (2 · channel,), which are no rule's business (`statistics.py`); None: the layout
    has none."""
    statistics_norm: float = 0.0
    """Their distance from the model's, before scaling."""
    statistics_scale: float = 1.0
    """Factor on their difference from the model's, above 0 and at most 1."""

    def clipped(self) -> Vector:
        """The scaled difference, (size,). The caller may reuse this memory, so a rule must copy what it keeps."""
        return self.unclipped if self.scale == 1.0 else self.unclipped * np.float32(self.scale)

    def weighted(self, out: Vector) -> None:
        """Writes the scaled difference times the weight to `out` (size,), in one pass."""
        np.multiply(self.unclipped, np.float32(self.weight * self.scale), out=out)


@dataclass
class Slot:
    """One device's part in the next version."""

    weight: float = 0.0
    """The largest weight of its updates."""
    updates: int = 0
    norm: float = 0.0
    """Σ‖Δ‖₂ of its updates, before scaling."""
    samples: int = 0
    """As its newest update claims."""
    statistics_norm: float | None = None
    """Distance of its newest statistics from the model's, before scaling; None: it sent none."""


@dataclass(frozen=True)
class RuleState:
    """State of a rule beyond the buffer, as bytes in a format of its own; None deletes a value."""

    shared: Mapping[str, bytes | None] = field(default_factory=dict)
    """By key. A rule with `devices` needs a value here as well, by which the ledger tells whose state it holds."""
    devices: Mapping[tuple[str, str], bytes | None] = field(default_factory=dict)
    """By device and key."""


@dataclass(frozen=True)
class Step:
    """The result of merging a buffer."""

    weights: Vector
    """New master weights (size,)."""
    state: RuleState = field(default_factory=RuleState)
    """Changed values, committed together with the weights."""
    is_discarded: bool = False
    """The sum was not finite; the weights are those of the version before."""


class Merger(Protocol):
    """A rule at work on one model line. Reads no clock, no disk and no random source."""

    def add(self, contribution: Contribution) -> None:
        """Adds one update."""

    def version(self, weights: Vector, slots: Mapping[str, Slot]) -> Step:
        """The next version. Changes nothing.

        Args:
            weights: master weights (size,) of the newest version.
            slots: at least one, of the devices whose updates were added.
        """

    def restore(self, state: RuleState) -> None:
        """Applies `state` (all of it at the start, changes later) and starts the next version.

        Raises:
            ValueError: this rule did not write that state.
        """


@dataclass(frozen=True, kw_only=True)
class Rule:
    """A merging rule as a value.

    Sharding, privacy and per-device caches will refuse the combinations that the declared properties exclude. None of
    them exists yet, and the aggregator's loop follows whole batches, so the properties are declared but not yet read.
    """

    name: str
    """In settings, and in the ledger's keys of the rule's state."""
    divisor: Divisor
    sums_only: bool
    """A version depends only on sums and maxima over updates, so shards can pass on partial ones."""
    keeps_devices: bool
    """It keeps state per device, which it must bound."""
    cuts_at_exactly_k: bool
    """A version consists of exactly K updates. Other rules follow whole batches, so a version may contain more than
    K."""
    begin: Callable[[int, float], Merger]
    """Creates a merger; arguments: number of weights, server rate η."""
