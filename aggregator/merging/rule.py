"""What a merging rule is: a value that declares its properties, and a merger that does the arithmetic.

Three stages make a version. Admission decides, for each update, its weight and its scale (`staleness.py`, `peers.py`):
staleness, samples, caps and clipping are settled there, before any rule. The buffer (`buffer.py`) keeps one slot a
device, for all rules alike. The rule turns what was added into new master weights. `RULES` in `rules.py` lists them.

A merger is used in this order, by one thread:

    restore(state of the newest version)     at the start, from the ledger
    add(contribution) …                      in the order of the journal
    version(weights, slots) → Step           changes nothing: the ledger may have to wait for its disk
    restore(step.state)                      once the ledger has the step; begins the next version

A running merger goes on from exactly what its restarted twin would read, so a restart is bit-identical as long as `add`
and `version` are deterministic. What was added since the newest version is not part of the state: a restart adds it
again from the journal.

`Step.state` lists only the values that changed; a value stays until it is replaced, or deleted with None. So a rule
writes what a version changes, whatever it keeps: momentum vectors (`shared`, replaced each time), the K newest updates
of FedFa (`shared`, one key each, one replaced), the last H bases of FedAsync (`shared`, one key a version, the oldest
deleted), the last update of each device of CA2FL, FedVARP and MIFA (`devices`, those of the version replaced, evicted
ones deleted). The ledger writes them in the transaction of the version (`ledger/rule_state.py`).
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Literal, Protocol

from wire_contract.layout import Vector

Divisor = Literal["weights", "count", "devices", "none"]
"""What a rule divides its sum by: Σw, the K contributions of the version, all n known devices, or nothing."""


@dataclass(frozen=True, kw_only=True)
class Contribution:
    """One accepted update, weighed and scaled, as every rule sees it."""

    device: str
    difference: Vector
    """(size,), decoded; the caller uses this memory again afterwards, so a rule must not keep it."""
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


@dataclass
class Slot:
    """What one device has in the next version."""

    weight: float = 0.0
    """The largest weight of its updates."""
    updates: int = 0
    norm: float = 0.0
    """Σ‖Δ‖₂ of its updates, before scaling."""
    samples: int = 0
    """As its newest update claims."""


@dataclass(frozen=True)
class RuleState:
    """What a rule remembers beyond the buffer, as bytes that it defines itself; None deletes a value."""

    shared: Mapping[str, bytes | None] = field(default_factory=dict)
    """By key. A rule with `devices` also has a value here, by which the ledger knows whose state it holds."""
    devices: Mapping[tuple[str, str], bytes | None] = field(default_factory=dict)
    """By device and key."""


@dataclass(frozen=True)
class Step:
    """What a rule makes of a buffer."""

    weights: Vector
    """New master weights (size,)."""
    state: RuleState = field(default_factory=RuleState)
    """The values that changed; committed together with the weights."""


class Merger(Protocol):
    """A rule at work on one model line. Reads no clock, no disk and no random source."""

    def add(self, contribution: Contribution) -> None:
        """Takes in one update."""

    def version(self, weights: Vector, slots: Mapping[str, Slot]) -> Step:
        """The next version after master `weights` (size,). Changes nothing.

        Args:
            weights: of the newest version.
            slots: of the devices whose updates were added since; at least one.
        """

    def restore(self, state: RuleState) -> None:
        """Takes on `state` (everything at the start, the changes later) and begins the next version.

        Raises:
            ValueError: the state is not one that this rule wrote.
        """


@dataclass(frozen=True, kw_only=True)
class Rule:
    """A merging rule as a value."""

    name: str
    """For settings and for the ledger, which keeps the rule's state under it."""
    divisor: Divisor
    sums_only: bool
    """The version depends on sums and maxima over updates alone, so shards can hand up partial ones."""
    keeps_devices: bool
    """It has state for each device, which has to be bounded."""
    cuts_at_exactly_k: bool
    """A version takes exactly K contributions. Others follow whole batches: n updates may make a version at once."""
    begin: Callable[[int, float], Merger]
    """Makes a merger for vectors of a size, with the server's rate η."""
