"""Error feedback: nothing that was learned is lost, it is only told later."""

import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from device_client.trainer import Trained
from device_client.uplink.error_feedback import (
    CARRIED_OVER_REASONS,
    RESIDUAL_NORM_MAX,
    RESIDUAL_VERSIONS_MAX,
    UnmergedUpdate,
    add_unmerged,
    carried,
    clipped,
)
from device_client.uplink.outbox import Outbox
from device_client.uplink.rounds import LocalStudent, after_failed_round, make_update, next_round, with_unmerged
from tests.wire_contract.keys import key_of
from wire_contract import codec
from wire_contract.compression.choice import EncodingChoice, TopK
from wire_contract.compression.rate_control import CompressionTarget
from wire_contract.encoding import decode_vector
from wire_contract.layout import Layout, TensorSpec, Vector, digest
from wire_contract.messages import Identity, Presence, Update
from wire_contract.publication.manifest import PublishedVersion

LAYOUT = Layout((TensorSpec("matrix", (40, 30)), TensorSpec("bias", (40,))))
CHOICES: tuple[EncodingChoice, ...] = (
    "int8",
    "int4",
    CompressionTarget(bytes_max=200),
    CompressionTarget(bytes_max=900),
    CompressionTarget(error_max=0.3),
    TopK(share=0.02),
)


def base(version: int) -> PublishedVersion:
    weights = np.random.default_rng(version).normal(size=LAYOUT.size).astype(np.float32)
    return PublishedVersion("task", version, LAYOUT, weights, digest(weights))


def step(
    line: LocalStudent | None, on: PublishedVersion, difference: Vector, choice: EncodingChoice
) -> tuple[Vector, LocalStudent]:
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
    line: LocalStudent | None = None
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
    line: LocalStudent | None = None
    told = np.zeros(LAYOUT.size)
    rounds = 200
    for version in range(rounds):
        said, line = step(line, base(version), steady, TopK(share=0.4))
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
    _, line = step(None, base(9), np.ones(LAYOUT.size, dtype=np.float32), TopK(share=0.01))
    assert line.residual is not None
    again = next_round(base(9), line, now=0.0, rounds_max=9, retrain_after_seconds=0.0)
    assert again is not None
    assert after_failed_round(again, now=0.0).residual is line.residual
    other = next_round(base(2), line, now=0.0, rounds_max=9, retrain_after_seconds=0.0)
    assert other is not None
    assert other.residual is None, "version 2 after version 9 is another line"
    same = next_round(replace(base(10)), line, now=0.0, rounds_max=9, retrain_after_seconds=0.0)
    assert same is not None
    assert same.residual is line.residual


FATES = ("merged", "too large here", "too_large", "budget", "malformed", "norm", "too_stale", "unknown_base", "waits")


@settings(max_examples=30, deadline=None)
@given(
    choice=st.sampled_from(CHOICES),
    seed=st.integers(0, 2**32 - 1),
    rounds=st.lists(
        st.tuples(st.booleans(), st.floats(0.5, 2.0), st.sampled_from(FATES), st.integers(1, 3)),
        min_size=1,
        max_size=12,
    ),
)
def test_with_refusals_all_that_was_learned_was_told_or_waits_or_is_named(
    choice: EncodingChoice, seed: int, rounds: list[tuple[bool, float, str, int]]
) -> None:
    """Σ told (merged) + residual + what waits + clips + final refusals = Σ learned, with the real outbox, opened anew
    now and then. Fates come late, out of order and in groups, as receipts do.
    """
    random = np.random.default_rng(seed)
    learned, told, given_up = (np.zeros(LAYOUT.size) for _ in range(3))
    on, line = base(0), None
    pending: list[tuple[int, str, Vector]] = []
    with tempfile.TemporaryDirectory() as folder:
        outbox = Outbox(Path(folder) / "outbox", task="task", device="device")
        for number, (rebases, size, fate, delay) in enumerate(rounds):
            if rebases:
                on = base(on.version + 1)
            todo = next_round(on, line, now=0.0, rounds_max=1_000, retrain_after_seconds=0.0)
            assert todo is not None
            todo = with_unmerged(todo, outbox.unmerged())
            difference = (size * random.laplace(size=LAYOUT.size)).astype(np.float32)
            trained = Trained(weights=todo.start + difference, samples=1, steps=1, metrics={})
            identity = outbox.next_identity
            payload, line = make_update(
                todo, trained, task="task", identity=identity, encoding=choice, train_seconds=0.0, now=0.0
            )
            outbox.add(identity, payload, line, carried_over=todo.carried_over)
            learned += line.weights.astype(np.float64) - todo.start
            if todo.residual is not None:
                given_up += todo.residual.astype(np.float64) - clipped(todo.residual, line.weights - todo.start)
            pending.append((identity.sequence, fate, decode_vector(codec.decode(payload, Update).tensors, LAYOUT)))
            if number % delay:
                continue
            for sequence, what, content in pending:
                if what == "waits":
                    continue
                if what == "merged":
                    told += content
                elif what != "too large here" and what not in CARRIED_OVER_REASONS:
                    given_up += content
                outbox.settle(sequence, carry_over=what == "too large here" or what in CARRIED_OVER_REASONS)
            outbox.record()
            pending = [one for one in pending if one[1] == "waits"]
            outbox.close()
            outbox = Outbox(Path(folder) / "outbox", task="task", device="device")
        kept = outbox.local_student()
        assert kept is not None
        assert kept.residual is not None
        waits = sum((one[2] for one in pending), np.zeros(LAYOUT.size))
        unmerged = add_unmerged(None, outbox.unmerged(), to_version=on.version, layout=LAYOUT)
        outbox.close()
    if unmerged is not None:
        waits += unmerged
    np.testing.assert_allclose(told + kept.residual + waits + given_up, learned, atol=1e-4 * len(rounds))


@pytest.mark.parametrize(
    ("base_version", "to_version", "counts"),
    [
        (5, 5, True),
        (5, 6, True),
        (5, 5 + RESIDUAL_VERSIONS_MAX, True),
        (5, 6 + RESIDUAL_VERSIONS_MAX, False),
        (5, 4, False),
    ],
)
def test_the_content_of_an_update_is_told_again_within_the_reach_of_a_residual(
    base_version: int, to_version: int, *, counts: bool
) -> None:
    todo = next_round(base(base_version), None, now=0.0, rounds_max=1, retrain_after_seconds=0.0)
    assert todo is not None
    difference = np.linspace(-1, 1, LAYOUT.size, dtype=np.float32)
    trained = Trained(weights=todo.start + difference, samples=1, steps=1, metrics={})
    for key in (None, key_of(bytes(32))):
        payload, _ = make_update(
            todo,
            trained,
            task="task",
            identity=Identity("device", bytes(8), 1),
            encoding="float32",
            train_seconds=0.0,
            now=0.0,
            signing_key=key,
        )
        unmerged = [UnmergedUpdate(1, payload, base_version)]
        found = add_unmerged(None, unmerged, to_version=to_version, layout=LAYOUT)
        assert (found is not None) == counts
        if found is not None:
            np.testing.assert_allclose(found, difference, atol=1e-6)


@pytest.mark.parametrize("payload", [b"", b"no update", codec.encode(Presence(status="online"))])
def test_content_that_cannot_be_read_or_is_of_another_student_is_nothing_to_tell(payload: bytes) -> None:
    residual = np.ones(LAYOUT.size, dtype=np.float32)
    assert add_unmerged(residual, [UnmergedUpdate(1, payload, 0)], to_version=0, layout=LAYOUT) is residual
    other = Layout((TensorSpec("renamed", (40, 30)), TensorSpec("bias", (40,))))
    published = replace(base(0), layout=other)
    todo = next_round(published, None, now=0.0, rounds_max=1, retrain_after_seconds=0.0)
    assert todo is not None
    trained = Trained(weights=todo.start + 1, samples=1, steps=1, metrics={})
    written, _ = make_update(
        todo,
        trained,
        task="task",
        identity=Identity("device", bytes(8), 1),
        encoding="float32",
        train_seconds=0.0,
        now=0.0,
    )
    assert add_unmerged(residual, [UnmergedUpdate(1, written, 0)], to_version=0, layout=LAYOUT) is residual
