"""Staleness weights and the buffer: what no order, duplicate or number of updates may change."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from aggregator.merging.buffer import Buffer
from aggregator.merging.fedbuff import FEDBUFF
from aggregator.merging.rule import Contribution, RuleState
from aggregator.merging.staleness import (
    ABSENCE_MAX,
    DECAYS,
    SAMPLE_WEIGHTS,
    SAMPLES_RATIO_MAX,
    Decay,
    SampleWeight,
    weight_of,
)
from tests.laws.wire import vectors
from wire_contract.layout import Vector

SIZE = 4
DECAY_NAMES: st.SearchStrategy[Decay] = st.sampled_from(sorted(DECAYS))
SAMPLE_WEIGHT_NAMES: st.SearchStrategy[SampleWeight] = st.sampled_from(sorted(SAMPLE_WEIGHTS))
WEIGHTS = st.floats(1e-3, 1e6)
DIFFERENCES = vectors(SIZE, largest=1e3)
ENTRIES = st.tuples(st.sampled_from(["a", "b", "c"]), DIFFERENCES, WEIGHTS)
ZERO = np.zeros(SIZE, dtype=np.float32)


def new_buffer(rate: float = 1.0) -> Buffer:
    return Buffer(FEDBUFF.begin(SIZE, rate))


def add(buffer: Buffer, device: str, difference: Vector, weight: float, **changes: float) -> None:
    buffer.add(Contribution(device=device, unclipped=difference, weight=weight, **changes))  # type: ignore[arg-type]


def merged(entries: list[tuple[str, Vector, float]], onto: Vector = ZERO, rate: float = 1.0) -> Vector:
    buffer = new_buffer(rate)
    for device, difference, weight in entries:
        add(buffer, device, difference, weight)
    return buffer.step(onto).weights


@given(DECAY_NAMES, st.integers(0, 2**53 - 1))
def test_a_decay_is_a_share_that_never_rises(name: Decay, staleness: int) -> None:
    decay = DECAYS[name]
    assert decay(0) == 1.0
    assert 0 < decay(staleness + 1) <= decay(staleness) <= 1


@given(
    DECAY_NAMES,
    SAMPLE_WEIGHT_NAMES,
    st.tuples(st.integers(1, 2**53), st.none() | st.integers(1, 2**53)),
    st.tuples(st.integers(0, 2**53), st.integers(1, 2**53)),
    st.floats(1, 1_000),
)
def test_weights_are_above_zero_also_in_float32_and_bounded(
    decay: Decay,
    sample_weight: SampleWeight,
    samples_and_usual: tuple[int, int | None],
    staleness_and_absence: tuple[int, int],
    weight_max: float,
) -> None:
    (samples, usual), (staleness, absence) = samples_and_usual, staleness_and_absence

    def weight(staleness: int, absence: int, weight_max: float = np.inf) -> float:
        return weight_of(
            samples,
            staleness,
            absence,
            usual_samples=usual,
            decay=decay,
            sample_weight=sample_weight,
            weight_max=weight_max,
        )

    assert 0 < np.float32(weight(staleness, absence)) < np.inf
    assert weight(staleness, absence) <= weight(0, absence)
    assert weight(staleness, 1) <= weight(staleness, absence) <= ABSENCE_MAX * weight(staleness, 1)
    assert weight(0, 1) <= SAMPLES_RATIO_MAX, "nobody has more by what it says of itself"
    assert weight(staleness, absence, weight_max) == min(weight(staleness, absence), weight_max)


@given(SAMPLE_WEIGHT_NAMES, st.integers(1, 2**52), st.integers(1, 2**52))
def test_more_samples_never_count_less(name: SampleWeight, samples: int, usual: int) -> None:
    assert SAMPLE_WEIGHTS[name](1) == 1
    assert SAMPLE_WEIGHTS[name](samples / usual) <= SAMPLE_WEIGHTS[name](2 * samples / usual)


@given(st.lists(ENTRIES, min_size=1, max_size=8), st.randoms(use_true_random=False))
def test_the_order_inside_a_batch_changes_nothing_but_rounding(
    entries: list[tuple[str, Vector, float]], random: "np.random.Generator"
) -> None:
    shuffled = list(entries)
    random.shuffle(shuffled)  # type: ignore[arg-type]
    one, other = merged(entries), merged(shuffled)
    scale = sum(weight * float(np.abs(difference).max()) for _, difference, weight in entries)
    divisor = min(weight for _, _, weight in entries)
    assert np.allclose(one, other, rtol=0, atol=1e-6 * len(entries) * scale / divisor)


@given(DIFFERENCES, st.lists(WEIGHTS, min_size=1, max_size=8), st.floats(0.01, 10), DIFFERENCES)
def test_weights_are_renormalised(difference: Vector, weights: list[float], rate: float, onto: Vector) -> None:
    # What everybody agrees on is taken whole, however many they are and however little each counts, unless one of them
    # outweighs the others: then it has half a step, and they the rest in proportion.
    entries = [(f"device-{index}", difference, weight) for index, weight in enumerate(weights)]
    heaviest, others = max(weights), sum(weights) - max(weights)
    taken = 1.0 if len(weights) == 1 or others >= heaviest else (1 + others / heaviest) / 2
    expected = onto.astype(np.float64) + rate * taken * difference.astype(np.float64)
    allowed = 1e-6 * (len(weights) + 2) * (np.abs(onto) + rate * np.abs(difference)) + 1e-30
    assert (np.abs(merged(entries, onto, rate) - expected) <= allowed).all()


@given(st.lists(DIFFERENCES, min_size=1, max_size=6), WEIGHTS)
def test_the_increments_of_one_device_add_up(increments: list[Vector], weight: float) -> None:
    result = merged([("a", increment, weight) for increment in increments])
    exact = np.sum([increment.astype(np.float64) for increment in increments], axis=0)
    size = np.sum([np.abs(increment).astype(np.float64) for increment in increments], axis=0)
    assert (np.abs(result - exact) <= 1e-6 * (len(increments) + 2) * size + 1e-30).all()


@given(st.integers(1, 20))
def test_many_small_steps_do_not_outvote_one_large_one(steps: int) -> None:
    fast = [("fast", np.full(SIZE, 1 / steps, dtype=np.float32), 10.0)] * steps
    slow = [("slow", np.full(SIZE, -1, dtype=np.float32), 10.0)]
    assert np.allclose(merged(fast + slow), 0, atol=1e-5)
    buffer = new_buffer()
    for entry in fast + slow:
        add(buffer, *entry)
    assert (buffer.slots, buffer.updates) == (2, steps + 1)


@given(st.lists(st.tuples(WEIGHTS, st.floats(1e-3, 1)), min_size=1, max_size=8), st.floats(1e-3, 1e3))
def test_a_slot_moves_the_model_no_further_than_its_scaled_norms(
    updates: list[tuple[float, float]], other_weight: float
) -> None:
    # Whatever weights a device gives its updates: one heavy one among light ones must not count against their mean.
    towards = np.full(SIZE, 0.5, dtype=np.float32)  # of norm 1
    buffer = new_buffer()
    for weight, scale in updates:
        add(buffer, "hostile", towards, weight, scale=scale, norm=1.0)
    add(buffer, "other", ZERO, other_weight)
    moved = float(np.linalg.norm(buffer.step(ZERO).weights))
    heaviest = max(weight for weight, _ in updates)
    share = min(heaviest / (heaviest + other_weight), 0.5)
    assert moved <= share * sum(scale for _, scale in updates) * (1 + 1e-5)
    assert buffer.norm_of("hostile") == len(updates), "before scaling"


@given(WEIGHTS, st.lists(WEIGHTS, max_size=6), st.floats(0.01, 10))
def test_no_device_of_several_moves_the_model_by_more_than_half_of_its_step(
    weight: float, others: list[float], rate: float
) -> None:
    towards = np.full(SIZE, 0.5, dtype=np.float32)  # of norm 1
    entries = [("hostile", towards, weight), *((f"other-{index}", ZERO, other) for index, other in enumerate(others))]
    moved = float(np.linalg.norm(merged(entries, rate=rate)))
    assert moved <= rate * (0.5 if others else 1.0) * (1 + 1e-6)
    if not others:
        assert moved == pytest.approx(rate), "a device that is alone, where the operator allows it, has a whole step"


@given(st.lists(ENTRIES, min_size=1, max_size=5), st.lists(ENTRIES, min_size=1, max_size=5))
def test_a_cleared_buffer_remembers_nothing(
    before: list[tuple[str, Vector, float]], after: list[tuple[str, Vector, float]]
) -> None:
    buffer = new_buffer()
    for entry in before:
        add(buffer, *entry)
    buffer.restore(RuleState())
    for entry in after:
        add(buffer, *entry)
    assert buffer.step(ZERO).weights.tobytes() == merged(after).tobytes()


def test_the_buffer_keeps_no_reference_to_a_difference() -> None:
    buffer, scratch = new_buffer(), np.ones(SIZE, dtype=np.float32)
    add(buffer, "a", scratch, 2.0)
    scratch.fill(np.nan)
    assert buffer.step(ZERO).weights.tolist() == [1.0] * SIZE


def test_an_empty_buffer_makes_no_version() -> None:
    with pytest.raises(AssertionError):
        new_buffer().step(ZERO)
