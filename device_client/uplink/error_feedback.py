"""Error feedback: what an encoding left out of one update is told with the next ones.

    wanted   = difference + residual
    told     = decode(encode(wanted))          what travels
    residual = wanted - told                   what waits, on the device, committed together with its update

So over time Σ told + residual = Σ difference, to rounding: a coarse encoding delays, it loses nothing (Seide et al.
2014, "1-Bit Stochastic Gradient Descent"; Karimireddy et al. 2019, "Error Feedback Fixes SignSGD", arXiv:1901.09847,
algorithm 2).

An update that the aggregator does not take in is not told either. Whether its content goes back into the residual
depends on why (`RETOLD_REASONS`); then it waits in the outbox, as it was encoded, for the next round.

Three rules give something up, and nothing else does:

    clip    A residual's norm is at most RESIDUAL_NORM_MAX times the norm of the newest difference. Training slows down
            towards its end, and steps of its loud beginning must not outweigh what is learned now; nor must what others
            have told since, when an encoding is so coarse that everything waits for long.
    reset   A residual is forgotten when its base is not of the line of the new one (a version number that went back),
            or more than RESIDUAL_VERSIONS_MAX versions older: it is progress on a model that is long gone. Within
            that reach it is kept across a rebase, since most of what one version lacks the next one lacks as well.
    refusal An update that is refused for what it holds, or for its age, is lost with its content.

So over all time, with refusals: Σ told (in merged updates) + residual + clips + resets + refusals = Σ difference.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from wire_contract.encoding import decode_vector
from wire_contract.errors import ContractError
from wire_contract.layout import Layout, Vector
from wire_contract.limits import MODEL_LIMITS
from wire_contract.messages import Update
from wire_contract.signatures.envelope import read

RESIDUAL_NORM_MAX = 2.0
"""Of the norm of the newest difference. What waits longer than about two rounds has mostly been told by other devices
meanwhile, and telling it again overshoots: see `docs/experiments.md` for what larger bounds cost. On `har` an
encoder that kept 38 % of the energy had, with a bound of 8, residuals of 1.7 to 3.1 differences, one that kept 25 % of
2.5 to 5.7; at 2 KiB none came to 2."""
RESIDUAL_VERSIONS_MAX = 64

RETOLD_REASONS = frozenset({"budget", "malformed", "too_large"})
"""Refusals of an update's form, which say nothing against its content: the next round tells it again. `malformed` is
among them because a device makes what it can read itself: the aggregator is older, or the bytes were damaged.

Not among them:

- `rate`: the update itself is sent again.
- `norm`, `not_finite`, `layout`, `signature`: its content is wrong, or this device is not wanted. Told again, it would
  spoil each further update.
- `too_stale`, `unknown_base`: it is progress on a model that is too old for this aggregator, or of another line. Told
  again on a new base it would count as fresh.
- a reason that this program does not know: it may be about the content, and one lost update is the smaller harm.
"""
_OWN_LIMITS = MODEL_LIMITS
"""Of updates that this device made, and that may have been too large for others."""


@dataclass(frozen=True)
class Untold:
    """An update that was not taken in, and whose content is to be told again."""

    sequence: int
    payload: bytes
    """As it was sent, or should have been."""
    base_version: int


def clipped(residual: Vector, difference: Vector) -> Vector:
    """`residual` (size,), scaled down where it is over the bound that `difference` (size,) sets."""
    norm = float(np.linalg.norm(residual.astype(np.float64)))
    bound = RESIDUAL_NORM_MAX * float(np.linalg.norm(difference.astype(np.float64)))
    if norm <= bound:
        return residual
    return residual * np.float32(bound / norm)


def carried(residual: Vector | None, *, from_version: int, to_version: int, size: int) -> Vector | None:
    """What of a residual (size,) left on version `from_version` still counts on `to_version`; None: nothing."""
    if residual is None or residual.size != size or not np.isfinite(residual).all():
        return None
    return residual if 0 <= to_version - from_version <= RESIDUAL_VERSIONS_MAX else None


def with_untold(residual: Vector | None, untold: Sequence[Untold], *, to_version: int, layout: Layout) -> Vector | None:
    """`residual` (layout.size,) and what of the content of `untold` still counts on `to_version`; None: nothing.

    An update that can no longer be read or has another layout tells nothing: another program or student wrote it.
    """
    total = residual
    for one in untold:
        try:
            update = read(one.payload, Update, limits=_OWN_LIMITS)
            if update.layout_fingerprint != layout.fingerprint:
                continue
            content = decode_vector(update.tensors, layout)
        except ContractError:
            continue
        content_now = carried(content, from_version=one.base_version, to_version=to_version, size=layout.size)
        if content_now is not None:
            total = content_now if total is None else total + content_now
    return total
