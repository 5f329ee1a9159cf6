"""Weight of an update: w = min(g(samples) · s(staleness) · min(absence, absence_max), weight_max).

*Samples* are a claim of the device, so they count as a multiple of the median over devices (`peers.py`), up to a bound;
while there is no median, all devices count alike. So weights are near 1, whatever a task calls a sample. No update
weighs more than `weight_max`, by default K - 1: the weight of all others in a version, if there are K - 1 of them and
each is fresh and has the median number of samples. If there are fewer, or they are lighter, the divisor in `fedbuff.py`
limits the update to half of its own step.

*Staleness* is current version - base version, in versions; the base is named in the message. Each decay satisfies
0 < s ≤ 1, never increases, and s(0) = 1: a fresh update is never discounted. Only relative weights within one
buffer matter: `fedbuff.py` divides by their sum (or by twice the heaviest, if that outweighs all others), so
updates that are all equally stale make as large a step as fresh ones.

*Absence* is the number of versions since the device last contributed, this one included: 1 for a device that is in
every version. A slow device uploads one update while others upload ten, and that one is also the stale one; without a
correction it would hardly influence the model. The interval between two contributions estimates the inverse of the
participation rate (FedAU: Wang and Ji 2024, arXiv:2306.03401, who average the intervals and also cut them off), so over
time every device has the same influence, whatever its speed. A device that was never merged has absence 1: otherwise
every new name would start with ten votes.
"""

import math
from collections.abc import Callable, Mapping
from typing import Literal

Decay = Literal["constant", "polynomial", "hinge"]
SampleWeight = Literal["uniform", "root", "linear"]

_EXPONENT = 0.5
"""a of FedBuff; FedAsync's polynomial usually has the same."""
_HINGE_FREE = 4
"""b of FedAsync, where 6 is usual. Chosen, not measured: a smaller one would nearly silence devices that are merely
slow, a larger one would merge stale updates at full weight."""
_HINGE_SLOPE = 10.0
"""a of FedAsync, at its usual value: one version beyond `_HINGE_FREE` leaves a weight of 1/11."""

DECAYS: Mapping[Decay, Callable[[int], float]] = {
    "constant": lambda _: 1.0,
    # FedAsync (Xie et al. 2019), s(t-τ) = (t-τ+1)^-a; FedBuff (Nguyen et al. 2022) uses a = 1/2.
    "polynomial": lambda staleness: (1 + staleness) ** -_EXPONENT,
    # FedAsync's hinge, made continuous where the decay begins (+1 in the denominator).
    "hinge": lambda staleness: 1.0 if staleness <= _HINGE_FREE else 1 / (_HINGE_SLOPE * (staleness - _HINGE_FREE) + 1),
}

SAMPLE_WEIGHTS: Mapping[SampleWeight, Callable[[float], float]] = {
    "uniform": lambda _: 1.0,
    # Between the two: more data of one person helps, but less than proportionally.
    "root": math.sqrt,
    # FedAvg (McMahan et al. 2017).
    "linear": float,
}


ABSENCE_MAX = 10
"""Default: fully corrects a device that is ten times slower than others, but not one that was switched off for a
month."""


SAMPLES_RATIO_MAX = 1.0
"""Default: fewer samples than the median count less, more do not count more. So a claim can lower a device's weight but
never raise it above an ordinary one's, and a false claim gains nothing. An operator who trusts the devices may allow
more."""


def weight_of(
    samples: int,
    staleness: int,
    absence: int,
    *,
    usual_samples: int | None,
    decay: Decay,
    sample_weight: SampleWeight,
    samples_ratio_max: float = SAMPLES_RATIO_MAX,
    absence_max: int = ABSENCE_MAX,
    weight_max: float = math.inf,
) -> float:
    """The weight of one update, above 0, before the rule divides.

    Args:
        samples: as the device claims, 1 or more.
        staleness: in versions.
        absence: in versions; 1 for a device that contributed to the newest version, or never.
        usual_samples: median over devices; None while there is none.
        decay: s.
        sample_weight: g, applied to samples ÷ median.
        samples_ratio_max: upper bound of samples ÷ median.
        absence_max: upper bound of absence.
        weight_max: upper bound of the weight.
    """
    share = 1.0 if usual_samples is None else min(samples / usual_samples, samples_ratio_max)
    weight = SAMPLE_WEIGHTS[sample_weight](share) * DECAYS[decay](staleness) * min(absence, absence_max)
    return min(weight, weight_max)
