"""How much an update still counts: w = g(samples) · s(staleness).

Staleness is current version - base version, in versions, with the base taken from the message. Each decay obeys
0 < s ≤ 1, never rises, and s(0) = 1: a fresh update is never halved. Weights only order the updates of one buffer
against one another; `merging.py` divides by their sum, so no decay makes the model itself learn more slowly for ever.
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

SAMPLE_WEIGHTS: Mapping[SampleWeight, Callable[[int], float]] = {
    "uniform": lambda _: 1.0,
    # Between the two: much data of one person says more, but not in proportion.
    "root": math.sqrt,
    # FedAvg (McMahan et al. 2017).
    "linear": float,
}


def weight_of(samples: int, staleness: int, *, decay: Decay, sample_weight: SampleWeight) -> float:
    """The weight of one update, before the buffer renormalises; above 0."""
    return SAMPLE_WEIGHTS[sample_weight](samples) * DECAYS[decay](staleness)
