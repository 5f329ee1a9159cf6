"""Error feedback: what the encoding of one update leaves out is sent with the next ones.

    wanted   = difference + residual
    sent     = decode(encode(wanted))          what the aggregator receives
    residual = wanted - sent                   stays on the device, committed together with its update

Over time Σ sent + residual = Σ difference, up to rounding: apart from the three cases below, a coarse encoding delays
what was learned but loses none of it (Seide et al. 2014, "1-Bit Stochastic Gradient Descent"; Karimireddy et al. 2019,
"Error Feedback Fixes SignSGD", arXiv:1901.09847, algorithm 2).

An update that the aggregator refuses has not been merged. Whether its content returns to the residual depends on the
reason (`CARRIED_OVER_REASONS`); if so, it waits in the outbox, as it was encoded, for the next round.

Content is given up in three cases, and in no other:

    clip    A residual's norm is at most RESIDUAL_NORM_MAX times the norm of the newest difference. Late in training
            the steps get smaller, and large early residuals must not outweigh them. And residuals sent late repeat
            what others already contributed, which matters when an encoding is so coarse that everything is late.
    reset   A residual is dropped when its base is more than RESIDUAL_VERSIONS_MAX versions older than the new base, or
            newer (the version number went back: another model line): it is progress on a model that is long gone.
            Within that range it survives a change of base, since most of what one version lacks the next lacks too.
    refusal An update that is refused for its content or its age is lost with its content.

So over all time, with refusals: Σ sent (merged updates) + residual + clips + resets + refusals = Σ difference.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from wire_contract.encoding import decode_vector
from wire_contract.errors import ContractError
from wire_contract.layout import Layout, Vector
from wire_contract.limits import MODEL_LIMITS
from wire_contract.messages import Update
from wire_contract.signatures.envelope import read_unverified

RESIDUAL_NORM_MAX = 2.0
"""In norms of the newest difference. Content that has waited for more than about two rounds has mostly been contributed
by other devices meanwhile, and sending it again overshoots: `docs/experiments.md` has what larger bounds cost. On
`har`, with a bound of 8, residuals were 1.7 to 3.1 differences under an encoder that kept 38 % of the energy, and
2.5 to 5.7 under one that kept 25 %; at 2 KiB none reached 2."""
RESIDUAL_VERSIONS_MAX = 64
"""Versions between the bases. Chosen, not measured: far above the staleness of a device that is online, and a bound for
one that comes back after months."""

CARRIED_OVER_REASONS = frozenset({"budget", "malformed", "too_large"})
"""Refusals of an update's form, not of its content: the content is sent again with the next round. `malformed` is among
them because a device only makes what it can read itself: the aggregator is older, or the bytes were damaged.

Not among them:

- `rate`: the update itself is sent again.
- `norm`, `not_finite`, `layout`, `signature`: its content is wrong, or this device is not accepted. Sent again, it
  would spoil every further update.
- `too_stale`, `unknown_base`: it is progress on a model that is too old for this aggregator, or of another line. Sent
  again on a new base, it would count as fresh.
- a reason that this program does not know: it may be about the content, and one lost update does less harm.
"""
_OWN_LIMITS = MODEL_LIMITS
"""For decoding this device's own updates, which may have been too large for others."""


@dataclass(frozen=True)
class UnmergedUpdate:
    """An update that was not merged, and whose content is to be sent again."""

    sequence: int
    payload: bytes
    """As it was sent, or would have been."""
    base_version: int


def clipped(residual: Vector, difference: Vector, weights_size: int | None = None) -> Vector:
    """`residual` (size,), scaled down if its norm is above the bound that `difference` (size,) sets.

    Only the first `weights_size` elements count (None: all); running statistics have no residual.
    """
    norm = float(np.linalg.norm(residual[:weights_size].astype(np.float64)))
    bound = RESIDUAL_NORM_MAX * float(np.linalg.norm(difference[:weights_size].astype(np.float64)))
    if norm <= bound:
        return residual
    return residual * np.float32(bound / norm)


def carried(residual: Vector | None, *, from_version: int, to_version: int, size: int) -> Vector | None:
    """A residual (size,) of base `from_version` if it still counts on base `to_version`, else None."""
    if residual is None or residual.size != size or not np.isfinite(residual).all():
        return None
    return residual if 0 <= to_version - from_version <= RESIDUAL_VERSIONS_MAX else None


def add_unmerged(
    residual: Vector | None, unmerged: Sequence[UnmergedUpdate], *, to_version: int, layout: Layout
) -> Vector | None:
    """`residual` (layout.size,) plus the content of `unmerged` that still counts on base `to_version`; None: nothing.

    Updates that cannot be decoded or have another layout are skipped: another program or student wrote them.
    """
    total = residual
    for one in unmerged:
        try:
            update = read_unverified(one.payload, Update, limits=_OWN_LIMITS)
            if update.layout_fingerprint != layout.fingerprint:
                continue
            content = decode_vector(update.tensors, layout)
        except ContractError:
            continue
        content[layout.weights_size :] = 0.0  # statistics are no difference, and the next update has newer ones
        content_now = carried(content, from_version=one.base_version, to_version=to_version, size=layout.size)
        if content_now is not None:
            total = content_now if total is None else total + content_now
    return total
