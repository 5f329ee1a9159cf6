"""What a minority of devices can do to the medians that everybody is measured against, and what scaling leaves."""

import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from aggregator.merging.peers import BEYOND, DEVICES_KNOWN_MIN, PEERS_MAX, Claim, Peers, budget_of, scale_of

NORMS = st.floats(0, 1e12)
BUDGETS = st.floats(1e-6, 1e9)
HONEST = st.lists(st.tuples(st.integers(1, 2**53), st.floats(1e-3, 1e3)), min_size=1, max_size=9)


def claims(names: str, said: list[tuple[int, float]], version: int = 1) -> dict[str, Claim]:
    return {f"{names}-{number}": Claim(version, samples, norm) for number, (samples, norm) in enumerate(said)}


@given(HONEST, st.data())
def test_a_minority_moves_no_median_beyond_what_the_others_send(
    honest: list[tuple[int, float]], data: st.DataObject
) -> None:
    most = len(honest) - 1
    hostile = data.draw(st.lists(st.tuples(st.integers(1, 2**53), st.floats(0, 1e15)), max_size=most))
    peers = Peers(claims("honest", honest) | claims("hostile", hostile))
    if len(honest) + len(hostile) < DEVICES_KNOWN_MIN:
        assert (peers.samples, peers.slot_norm) == (None, None), "one of two is no minority"
        return
    assert peers.samples is not None
    assert peers.slot_norm is not None
    assert min(samples for samples, _ in honest) <= peers.samples <= max(samples for samples, _ in honest)
    assert min(norm for _, norm in honest) <= peers.slot_norm <= max(norm for _, norm in honest)


@given(st.integers(1, 300), st.floats(1e-3, 1e3))
def test_however_often_a_device_speaks_it_has_one_voice(versions: int, norm: float) -> None:
    peers = Peers({})
    for version in range(1, versions + 1):
        peers.committed(claims("hostile", [(2**53, 1e9)], version) | claims("honest", [(10, norm)], version))
    peers.committed(claims("third", [(10, norm)], versions + 1))
    assert (peers.samples, peers.slot_norm) == (10, norm)


@given(st.lists(st.integers(0, 3 * PEERS_MAX), min_size=1, max_size=12), st.randoms(use_true_random=False))
def test_the_medians_after_a_restart_are_those_of_before(
    names: list[int],
    random: "np.random.Generator",
) -> None:
    peers, newest = Peers({}), dict[str, Claim]()
    for version, first in enumerate(names, start=1):
        told = {
            f"d{name}": Claim(version, name + 1, float(version + name)) for name in range(first, first + PEERS_MAX // 2)
        }
        peers.committed(told)
        newest |= told
    rows = list(newest.items())
    random.shuffle(rows)  # type: ignore[arg-type]
    again = Peers(dict(rows))
    assert (again.samples, again.slot_norm) == (peers.samples, peers.slot_norm)
    assert sorted(again._claims) == sorted(peers._claims)
    assert len(again._claims) <= PEERS_MAX


@given(st.lists(NORMS, min_size=1, max_size=30), BUDGETS)
def test_a_slot_is_taken_whole_up_to_its_budget_and_reaches_little_further(norms: list[float], budget: float) -> None:
    sent = taken = 0.0
    for norm in norms:
        scale = scale_of(norm, sent, budget)
        assert 0 < np.float32(scale) <= 1
        sent += norm
        taken += scale * norm
        if sent <= budget:
            assert scale == 1.0
    assert taken <= (1 + BEYOND) * budget * (1 + 1e-9)
    whole = scale_of(sent, 0.0, budget) * sent
    assert taken == pytest.approx(whole, rel=1e-6), "nothing is gained by cutting an update into many"


@given(*[st.floats(0, sys.float_info.max)] * 2, st.floats(0, exclude_min=True))
def test_no_update_counts_for_nothing(norm: float, before: float, budget: float) -> None:
    assert 0 < np.float32(scale_of(norm, before, budget)) <= 1


@given(st.floats(0, 1e12), BUDGETS)
def test_who_sends_more_never_counts_less(norm: float, budget: float) -> None:
    less, more = norm, norm * 1.01
    assert scale_of(less, 0.0, budget) * less <= scale_of(more, 0.0, budget) * more * (1 + 1e-12)


@given(st.floats(0, 1e15), st.none() | st.floats(0, 1e15), st.floats(1e-3, 1e3))
def test_a_budget_is_above_zero(weights_norm: float, usual: float | None, ratio: float) -> None:
    budget = budget_of(usual, weights_norm, ratio=ratio)
    largest = 10 * max(weights_norm, 1.0)
    assert np.float32(scale_of(largest, 1_000 * largest, budget)) > 0, "also if everybody sent zeros before"
    assert budget >= ratio * (usual or 0.0)
