"""The virtual world: the right order, the right staleness, the same bits every time."""

from collections.abc import Callable
from dataclasses import replace
from math import inf
from pathlib import Path

import numpy as np
import pytest
import torch

from device_client.learning.evaluation import evaluate
from device_client.learning.parameters import layout_of, load_vector, vector_of
from device_client.learning.seeding import seeded
from device_client.tasks.loading import load_task
from device_client.trainer import Trained
from simulators.world.federation import VirtualDevice, run_asynchronous, run_synchronous
from simulators.world.local_trainers import AsyncFedKDTrainer, FedKDTrainer
from simulators.world.server import Rules
from wire_contract.compression.choice import TopK
from wire_contract.compression.rate_control import CompressionTarget
from wire_contract.layout import Layout, TensorSpec, Vector, digest

EXAMPLE = Path(__file__).parents[3] / "examples" / "own_task.py"
LAYOUT = Layout((TensorSpec("weight", (2, 2)), TensorSpec("bias", (2,))))
ZERO = np.zeros(LAYOUT.size, dtype=np.float32)
EXACT = Rules(
    updates_per_version=1,
    server_rate=1.0,
    slot_norm_ratio=inf,
    update_encoding="float32",
    model_encoding="float32",
)


@pytest.fixture(autouse=True)
def one_thread() -> None:
    """Threads that wait for one another on a busy machine cost more than they bring to so small a network."""
    torch.set_num_threads(1)


def learned(weights: Vector) -> Trained:
    return Trained(weights=weights, samples=10, steps=1, metrics={})


def stepping(calls: list[tuple[str, int, int]]) -> Callable[..., Trained]:
    """A trainer that adds one to every weight and writes down when it was asked."""

    def learn(device: str, start: Vector, *, version: int, round_number: int) -> Trained:
        calls.append((device, version, round_number))
        return learned(start + np.float32(1))

    return learn


def test_fast_devices_hand_in_more_and_slow_ones_are_stale() -> None:
    calls: list[tuple[str, int, int]] = []
    devices = [VirtualDevice(name="fast", round_seconds=1.0), VirtualDevice(name="slow", round_seconds=3.5)]
    state = run_asynchronous(devices, stepping(calls), ZERO, LAYOUT, rules=EXACT, versions=5)
    assert calls == [("fast", 0, 0), ("fast", 1, 1), ("fast", 2, 2), ("slow", 0, 0), ("fast", 3, 3)]
    assert state.staleness == [0, 0, 0, 3, 1], "fast was training on version 3 when slow's update made version 4"
    assert state.merged == {"fast": 4, "slow": 1}
    assert state.seconds == 4.0


def test_a_version_is_base_plus_the_rated_mean_difference() -> None:
    devices = [VirtualDevice(name=f"d{number}", round_seconds=1.0) for number in range(3)]
    rules = replace(EXACT, updates_per_version=3, server_rate=0.5)
    versions: list[tuple[int, float]] = []
    state = run_asynchronous(
        devices,
        stepping([]),
        ZERO,
        LAYOUT,
        rules=rules,
        versions=2,
        observe=lambda told: versions.append((told.version, float(told.weights[0]))),
    )
    assert versions == [(0, 0.0), (1, 0.5), (2, 1.0)], "differences, not weights; each buffer is forgotten once merged"
    np.testing.assert_array_equal(state.weights, np.full(LAYOUT.size, 1.0, dtype=np.float32))


def test_without_a_newer_version_a_device_goes_on_along_its_own_line() -> None:
    starts: list[tuple[str, float]] = []

    def learn(device: str, start: Vector, *, version: int, round_number: int) -> Trained:
        del version, round_number
        starts.append((device, float(start[0])))
        return learned(start + np.float32(1))

    devices = [VirtualDevice(name="fast", round_seconds=1.0), VirtualDevice(name="slow", round_seconds=2.5)]
    rules = replace(EXACT, updates_per_version=2)
    state = run_asynchronous(devices, learn, ZERO, LAYOUT, rules=rules, versions=1)
    assert starts == [("fast", 0.0), ("fast", 1.0), ("slow", 0.0)]
    assert float(state.weights[0]) == 1.5, "fast went 2 and slow 1; one slot each"


def test_what_is_learned_offline_is_handed_in_late_and_stale() -> None:
    calls: list[tuple[str, int, int]] = []
    devices = [
        VirtualDevice(name="here", round_seconds=1.0),
        VirtualDevice(name="away", round_seconds=1.5, offline=((1.0, 4.2),)),
    ]
    state = run_asynchronous(devices, stepping(calls), ZERO, LAYOUT, rules=EXACT, versions=5)
    assert [device for device, _, _ in calls] == ["here", "here", "here", "here", "away"]
    assert state.staleness[-1] == 4
    assert state.seconds == pytest.approx(4.2)


def test_models_and_updates_travel_encoded() -> None:
    def thirds(device: str, start: Vector, *, version: int, round_number: int) -> Trained:
        del device, version, round_number
        return learned(start + np.linspace(0.03, 0.33, LAYOUT.size, dtype=np.float32))

    devices = [VirtualDevice(name="one", round_seconds=1.0)]
    rules = Rules(updates_per_version=1, server_rate=1.0, slot_norm_ratio=inf)
    weights = run_asynchronous(devices, thirds, ZERO, LAYOUT, rules=rules, versions=1).weights
    np.testing.assert_array_equal(weights, weights.astype(np.float16).astype(np.float32))
    exact = run_asynchronous(devices, thirds, ZERO, LAYOUT, rules=EXACT, versions=1).weights
    assert 0 < np.abs(weights - exact).max() < 0.01


def test_fewer_devices_than_a_version_needs_is_a_broken_invariant() -> None:
    with pytest.raises(AssertionError, match="this many devices"):
        run_asynchronous(
            [VirtualDevice(name="one", round_seconds=1.0)], stepping([]), ZERO, LAYOUT, rules=Rules(), versions=1
        )


def test_synchronous_rounds_wait_for_everybody() -> None:
    calls: list[tuple[str, int, int]] = []
    state = run_synchronous(["a", "b"], stepping(calls), ZERO, LAYOUT, rules=EXACT, rounds=3, versions=9)
    assert calls == [("a", 0, 0), ("b", 0, 0), ("a", 3, 1), ("b", 3, 1), ("a", 6, 2), ("b", 6, 2)]
    assert state.staleness == [0] * 6
    np.testing.assert_array_equal(state.weights, np.full(LAYOUT.size, 3.0, dtype=np.float32))


def test_real_training_is_repeatable_and_learns() -> None:
    task = load_task(f"{EXAMPLE}:task", data=None)
    with seeded(3):
        student = task.student()
    layout = layout_of(student)
    initial = vector_of(student, layout)
    data = {device: task.examples_of(device) for device in task.devices}
    devices = [VirtualDevice(name=device, round_seconds=1.0 + at / 7) for at, device in enumerate(task.devices)]

    def run() -> Vector:
        trainer = AsyncFedKDTrainer(task, data, None, layout, seed=3)
        return run_asynchronous(
            devices, trainer, initial, layout, rules=Rules(updates_per_version=5), versions=9
        ).weights

    weights = run()
    np.testing.assert_array_equal(weights, run())
    load_vector(student, layout, weights)
    assert evaluate(student, task.held_out(), task)["accuracy"] > 0.8


WIDE = Layout((TensorSpec("weight", (60, 100)), TensorSpec("bias", (60,))))


def small_steps(device: str, start: Vector, *, version: int, round_number: int) -> Trained:
    """Learns a little noise, another one each time."""
    random = np.random.default_rng([len(device), version, round_number])
    return learned(start + (0.01 * random.laplace(size=start.size)).astype(np.float32))


def bytes_of(rules: Rules) -> tuple[int, int]:
    """Up and down of the first of three devices, after ten versions."""
    devices = [VirtualDevice(name="d" * number, round_seconds=1.0) for number in (1, 2, 3)]
    zero = np.zeros(WIDE.size, dtype=np.float32)
    state = run_asynchronous(devices, small_steps, zero, WIDE, rules=rules, versions=10)
    assert state.bytes_up.keys() == state.bytes_down.keys() == {"d", "dd", "ddd"}
    return state.bytes_up["d"], state.bytes_down["d"]


def test_bytes_are_those_of_the_payloads() -> None:
    whole = Rules(updates_per_version=3, update_encoding="float32", model_encoding="float32")
    up, down = bytes_of(whole)
    assert 10 * 4 * WIDE.size < up < 10 * (4 * WIDE.size + 400), "ten updates"
    assert 10 * 4 * WIDE.size < down < 11 * (4 * WIDE.size + 900), "ten versions whole, zeros, and ten receipts"
    planned = Rules(
        updates_per_version=3,
        update_encoding=CompressionTarget(bytes_max=300),
        delta_encoding=CompressionTarget(bytes_max=500),
    )
    up, down = bytes_of(planned)
    assert 10 * 290 < up < 10 * (300 + 250)
    assert down < 2 * WIDE.size + 900 + 10 * (500 + 700), "version 0 whole in float16, then ten deltas"


def test_error_feedback_can_be_left_out() -> None:
    def only_the_first(*, feedback: bool) -> Vector:
        rules = Rules(
            updates_per_version=1,
            server_rate=1.0,
            update_encoding=TopK(share=0.001),
            model_encoding="float32",
            error_feedback=feedback,
        )

        def steady(device: str, start: Vector, *, version: int, round_number: int) -> Trained:
            del device, version, round_number
            return learned(start + np.linspace(1.0, 1.2, start.size, dtype=np.float32))

        zero = np.zeros(WIDE.size, dtype=np.float32)
        one = [VirtualDevice(name="one", round_seconds=1.0)]
        return run_asynchronous(one, steady, zero, WIDE, rules=rules, versions=20).weights

    assert np.count_nonzero(only_the_first(feedback=True)) > 10 * np.count_nonzero(only_the_first(feedback=False))


def test_teachers_that_learn_stay_with_their_devices() -> None:
    task = load_task(f"{EXAMPLE}:task", data=None)
    assert task.teacher is not None
    with seeded(3):
        student, teacher = task.student(), task.teacher()
    layout = layout_of(student)
    data = {device: task.examples_of(device) for device in task.devices[:2]}
    trainer = FedKDTrainer(task, data, teacher, layout, seed=3)
    before = {device: vector_of(own, layout_of(own)) for device, own in trainer.teachers.items()}
    devices = [VirtualDevice(name=device, round_seconds=1.0) for device in data]
    rules = Rules(updates_per_version=2, server_rate=1.0)
    run_asynchronous(devices, trainer, vector_of(student, layout), layout, rules=rules, versions=1)
    after = {device: vector_of(own, layout_of(own)) for device, own in trainer.teachers.items()}
    one, other = data
    assert np.array_equal(before[one], before[other])
    assert not np.array_equal(after[one], before[one])
    assert not np.array_equal(after[one], after[other])


def dyadic_steps(device: str, start: Vector, *, version: int, round_number: int) -> Trained:
    """Steps that are small multiples of 2^-9, so that sums and squared norms are exact in any order of summation."""
    random = np.random.default_rng([len(device), version, round_number])
    step = random.integers(-8, 9, size=start.size).astype(np.float32) / np.float32(512)
    return Trained(weights=start + step, samples=8 * len(device), steps=3, metrics={})


VERSION_20 = "2fbd115ead10ca292313f6ff5f16e9850ad883a2320fbe0813a64ebfaf9a04d8"
"""SHA-256 of its weights, recorded on 30 November 2026 before the packages were divided into folders."""


def test_version_20_of_a_seeded_world_is_still_the_one_that_was_recorded() -> None:
    """Slow, fast and absent devices, stale updates, unequal samples, deltas: merging must not change unseen."""
    devices = [
        VirtualDevice(name="d" * number, round_seconds=1.0 + number / 3, offline=((4.0, 9.5),) if number == 4 else ())
        for number in range(1, 7)
    ]
    rules = Rules(updates_per_version=4, devices_min=2, update_encoding="float16", delta_encoding="float16")
    zero = np.zeros(WIDE.size, dtype=np.float32)
    state = run_asynchronous(devices, dyadic_steps, zero, WIDE, rules=rules, versions=20)
    assert state.version == 20
    assert max(state.staleness) > 1
    assert digest(state.weights).hex() == VERSION_20
