"""How much an update counts: w = min(g(samples) · s(staleness) · min(absence, absence_max), weight_max).

Samples are what a device claims, so they are counted in multiples of what devices usually claim (`peers.py`), and up to
a bound; while nothing is known of others, all count alike. So weights are near 1, whatever a task calls a sample. No
update weighs more than `weight_max`, which is K - 1: the others of a version together, if there are K - 1 of them and
each is fresh and has the usual samples. If there are fewer or they are lighter, it has half of its own step, by the
divisor in `merging.py`.

Staleness is current version - base version, in versions, with the base taken from the message. Each decay obeys
0 < s ≤ 1, never rises, and s(0) = 1: a fresh update is never halved. Weights only order the updates of one buffer
against one another; `merging.py` divides by their sum (or by twice the heaviest, where one outweighs all others), so
updates that are all equally stale make as large a step as fresh ones.

Absence is the number of versions since the device last had a part in one, this one included: 1 for a device that is in
every version. A slow device hands in one update while others hand in ten, and its one is also the stale one; without a
correction its person would all but vanish from the model. The interval between two parts of a device estimates the
inverse of its participation rate (FedAU: Wang and Ji 2024, arXiv:2306.03401, who average it and cut it off as well), so
that over time every device has the same say, whatever its speed. A device that was never merged counts once: absence
is earned by having been there, or every new name would begin with ten votes.
"""

import math
from collections.abc import Callable, Mapping
from typing import Literal

Decay = Literal["constant", "polynomial", "hinge"]
SampleWeight = Literal["uniform", "root", "linear"]

_EXPONENT = 0.5
_HINGE_FREE = 4
_HINGE_SLOPE = 10.0

DECAYS: Mapping[Decay, Callable[[int], float]] = {
    "constant": lambda _: 1.0,
    # FedAsync (Xie et al. 2019), s(t-τ) = (t-τ+1)^-a; FedBuff (Nguyen et al. 2022) uses a = 1/2.
    "polynomial": lambda staleness: (1 + staleness) ** -_EXPONENT,
    # FedAsync, but continuous where the decay begins.
    "hinge": lambda staleness: 1.0 if staleness <= _HINGE_FREE else 1 / (_HINGE_SLOPE * (staleness - _HINGE_FREE) + 1),
}

SAMPLE_WEIGHTS: Mapping[SampleWeight, Callable[[float], float]] = {
    "uniform": lambda _: 1.0,
    # Between the two: much data of one person says more, but not in proportion.
    "root": math.sqrt,
    # FedAvg (McMahan et al. 2017).
    "linear": float,
}


ABSENCE_MAX = 10
"""Default: ten times slower than the others is made good, a month in a drawer is not."""


SAMPLES_RATIO_MAX = 1.0
"""Default: fewer samples than usual count less, more do not count further. So a claim can lower a device's weight and
never raise it over that of an ordinary one, and whoever lies about its samples gains nothing by it. An operator who
knows the devices may allow more."""


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
    """The weight of one update, before the buffer renormalises; above 0.

    Args:
        samples: claimed by the device, 1 or more.
        staleness: versions.
        absence: versions; 1 for a device that was in the newest version, or never in any.
        usual_samples: median over devices; None while there is none.
        decay: s.
        sample_weight: g, applied to samples ÷ usual samples.
        samples_ratio_max: bound of samples ÷ usual samples.
        absence_max: bound of the absence.
        weight_max: bound of the product.
    """
    share = 1.0 if usual_samples is None else min(samples / usual_samples, samples_ratio_max)
    weight = SAMPLE_WEIGHTS[sample_weight](share) * DECAYS[decay](staleness) * min(absence, absence_max)
    return min(weight, weight_max)
