"""Error feedback: nothing that was learned is lost, it is only told later."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from device_client.feedback import RESIDUAL_NORM_MAX, RESIDUAL_VERSIONS_MAX, carried, clipped
from device_client.rounds import Line, Trained, dropped, make_update, next_round
from wire_contract import codec
from wire_contract.encoding import decode_vector
from wire_contract.encoding_choice import EncodingChoice, TopShare
from wire_contract.layout import Layout, TensorSpec, Vector, digest
from wire_contract.manifest import Published
from wire_contract.messages import Identity, Update
from wire_contract.planner import Plan

LAYOUT = Layout((TensorSpec("matrix", (40, 30)), TensorSpec("bias", (40,))))
CHOICES: tuple[EncodingChoice, ...] = (
    "int8",
    "int4",
    Plan(bytes_max=200),
    Plan(bytes_max=900),
    Plan(error_max=0.3),
    TopShare(share=0.02),
)


def base(version: int) -> Published:
    weights = np.random.default_rng(version).normal(size=LAYOUT.size).astype(np.float32)
    return Published("task", version, LAYOUT, weights, digest(weights))


def step(line: Line | None, on: Published, difference: Vector, choice: EncodingChoice) -> tuple[Vector, Line]:
    """One round that learns `difference`: what the update told, and the line after it."""
    todo = next_round(on, line, now=0.0, rounds_max=1_000, retrain_after_seconds=0.0)
    assert todo is not None
    trained = Trained(weights=todo.start + difference, samples=1, steps=1, metrics={})
    payload, after = make_update(
        todo,
        trained,
        task="task",
        identity=Identity("device", bytes(8), 1),
        encoding=choice,
        train_seconds=0.0,
        now=0.0,
    )
    return decode_vector(codec.decode(payload, Update).tensors, LAYOUT), after


@settings(max_examples=40, deadline=None)
@given(
    st.sampled_from(CHOICES),
    st.integers(0, 2**32 - 1),
    st.lists(st.tuples(st.booleans(), st.floats(0.5, 2.0)), min_size=1, max_size=12),
)
def test_the_sum_of_what_was_told_and_the_residual_is_the_sum_of_what_was_learned(
    choice: EncodingChoice, seed: int, rounds: list[tuple[bool, float]]
) -> None:
    """Over rounds on one base and over rebases alike, but for what a clip gave up: that is what was over its bound."""
    random = np.random.default_rng(seed)
    line: Line | None = None
    on = base(0)
    told, learned = np.zeros(LAYOUT.size), np.zeros(LAYOUT.size)
    for rebases, size in rounds:
        if rebases:
            on = base(on.version + 1)
        difference = (size * random.laplace(size=LAYOUT.size)).astype(np.float32)
        before = None if line is None else line.weights
        start = on.weights if before is None or rebases else before
        waiting = None if line is None else line.residual
        said, line = step(line, on, difference, choice)
        told += said
        learned += line.weights.astype(np.float64) - start
        if waiting is not None:
            over = max(1 - RESIDUAL_NORM_MAX * np.linalg.norm(difference) / max(np.linalg.norm(waiting), 1e-9), 0.0)
            learned -= over * waiting.astype(np.float64)
        assert line.residual is not None
        np.testing.assert_allclose(told + line.residual, learned, atol=1e-4 * len(rounds))


def test_what_one_update_leaves_out_the_next_ones_tell() -> None:
    """Without feedback a top-40 % encoding would never tell the small elements of a steady step."""
    steady = np.linspace(0.5, 1.5, LAYOUT.size).astype(np.float32)
    line: Line | None = None
    told = np.zeros(LAYOUT.size)
    rounds = 200
    for version in range(rounds):
        said, line = step(line, base(version), steady, TopShare(share=0.4))
        told += said
    assert np.all(told > 0), "every element had its turn"
    np.testing.assert_allclose(told.sum() / rounds, steady.sum(), rtol=0.25)


@given(st.floats(0, 1e6), st.floats(0, 1e6))
def test_a_residual_is_clipped_to_a_multiple_of_the_newest_step(residual_size: float, step_size: float) -> None:
    residual = np.full(7, residual_size, dtype=np.float32)
    difference = np.full(7, step_size, dtype=np.float32)
    kept = clipped(residual, difference)
    bound = RESIDUAL_NORM_MAX * np.linalg.norm(difference.astype(np.float64))
    assert np.linalg.norm(kept.astype(np.float64)) <= bound * (1 + 1e-5)
    if np.linalg.norm(residual.astype(np.float64)) <= bound:
        assert kept is residual


@pytest.mark.parametrize(
    ("to_version", "kept"),
    [(5, True), (6, True), (5 + RESIDUAL_VERSIONS_MAX, True), (6 + RESIDUAL_VERSIONS_MAX, False), (4, False)],
)
def test_a_residual_outlives_a_rebase_within_reach(to_version: int, *, kept: bool) -> None:
    residual = np.ones(3, dtype=np.float32)
    found = carried(residual, from_version=5, to_version=to_version, size=3)
    assert (found is residual) == kept
    assert carried(residual, from_version=5, to_version=5, size=4) is None, "the student has another form now"
    assert carried(np.array([1, np.nan, 1], dtype=np.float32), from_version=5, to_version=5, size=3) is None


def test_a_residual_is_forgotten_on_a_new_line_and_outlives_a_dropped_round() -> None:
    _, line = step(None, base(9), np.ones(LAYOUT.size, dtype=np.float32), TopShare(share=0.01))
    assert line.residual is not None
    again = next_round(base(9), line, now=0.0, rounds_max=9, retrain_after_seconds=0.0)
    assert again is not None
    assert dropped(again, now=0.0).residual is line.residual
    other = next_round(base(2), line, now=0.0, rounds_max=9, retrain_after_seconds=0.0)
    assert other is not None
    assert other.residual is None, "version 2 after version 9 is another line"
    same = next_round(replace(base(10)), line, now=0.0, rounds_max=9, retrain_after_seconds=0.0)
    assert same is not None
    assert same.residual is line.residual
