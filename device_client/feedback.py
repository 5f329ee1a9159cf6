"""Error feedback: what an encoding left out of one update is told with the next ones.

    wanted   = difference + residual
    told     = decode(encode(wanted))          what travels
    residual = wanted - told                   what waits, on the device, committed together with its update

So over time Σ told + residual = Σ difference, to rounding: a coarse encoding delays, it loses nothing (Seide et al.
2014, "1-Bit Stochastic Gradient Descent"; Karimireddy et al. 2019, "Error Feedback Fixes SignSGD", arXiv:1901.09847,
algorithm 2).

Two rules give something up, and nothing else does:

    clip    A residual's norm is at most RESIDUAL_NORM_MAX times the norm of the newest difference. Training slows down
            towards its end, and steps of its loud beginning must not outweigh what is learned now; nor must what others
            have told since, when an encoding is so coarse that everything waits for long.
    reset   A residual is forgotten when its base is not of the line of the new one (a version number that went back),
            or more than RESIDUAL_VERSIONS_MAX versions older: it is progress on a model that is long gone. Within
            that reach it is kept across a rebase, since most of what one version lacks the next one lacks as well.
"""

import numpy as np

from wire_contract.layout import Vector

RESIDUAL_NORM_MAX = 2.0
"""Of the norm of the newest difference. What waits longer than about two rounds has mostly been told by other devices
meanwhile, and telling it again overshoots: see `ARCHITECTURE.md` for what larger bounds cost. On `har` an
encoder that kept 38 % of the energy had, with a bound of 8, residuals of 1.7 to 3.1 differences, one that kept 25 % of
2.5 to 5.7; at 2 KiB none came to 2."""
RESIDUAL_VERSIONS_MAX = 64


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
