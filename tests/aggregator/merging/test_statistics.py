"""Running statistics are mixed like populations: no variance below zero, whatever the bases, order or sender."""

import itertools
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from aggregator.admission import Merge, Refuse
from aggregator.ledger.ledger import Ledger
from aggregator.ledger.records import row_of
from aggregator.ledger.restoring import restore
from aggregator.merging.buffer import Buffer
from aggregator.merging.fedbuff import FEDBUFF
from aggregator.merging.rule import Contribution
from aggregator.merging.statistics import RunningStatistics, distance
from aggregator.model_line import ModelLine, opening_release
from tests.aggregator.bench import Bench
from tests.aggregator.synthetic import SETTINGS, TASK, SyntheticDevice, initial_weights
from wire_contract.encoding import encode_vector
from wire_contract.encoding.statistics import second_moment_of, variance_of
from wire_contract.layout import Layout, TensorSpec, Vector

CHANNELS = 3
LAYOUT = Layout(
    (
        TensorSpec("weight", (4,)),
        TensorSpec("running_mean", (CHANNELS,), kind="mean"),
        TensorSpec("running_var", (CHANNELS,), kind="second_moment"),
    )
)
MEANS = st.lists(st.floats(-100, 100, width=32), min_size=CHANNELS, max_size=CHANNELS)
VARIANCES = st.lists(st.floats(2**-10, 1_000, width=32), min_size=CHANNELS, max_size=CHANNELS)
POPULATIONS = st.tuples(MEANS, VARIANCES)


def statistics(means: Any, variances: Any) -> Vector:
    """As a device sends them, (2 · channel,)."""
    means = np.broadcast_to(np.asarray(means, dtype=np.float32), CHANNELS)
    return np.concatenate((means, second_moment_of(means, np.asarray(variances)))).astype(np.float32)


def sent(means: Any = 0.0, variances: Any = 1.0, weights: float = 0.1) -> Vector:
    return np.concatenate((np.full(4, weights, dtype=np.float32), statistics(means, variances)))


def model(means: Any = 0.0, variances: Any = 1.0) -> Vector:
    return np.concatenate((np.full(4, 5.0, dtype=np.float32), statistics(means, variances)))


def buffer(rate: float = 1.0) -> Buffer:
    return Buffer(FEDBUFF.begin(4, rate), RunningStatistics(CHANNELS, rate))


def add(into: Buffer, device: str, vector: Vector, weight: float = 1.0, scale: float = 1.0) -> None:
    """`weight` is that of statistics, 1 / (1 + staleness)."""
    into.add(
        Contribution(
            device=device,
            unclipped=vector[:4],
            weight=1.0,
            staleness=round(1 / weight) - 1,
            statistics=vector[4:],
            statistics_scale=scale,
        )
    )


def merged(devices: dict[str, tuple[Vector, float]], onto: Vector, rate: float = 1.0) -> tuple[Vector, Vector]:
    """Means and variances after merging."""
    made = buffer(rate)
    for device, (vector, weight) in devices.items():
        add(made, device, vector, weight)
    means, moments = LAYOUT.moments(made.step(onto).weights)
    return means, variance_of(means, moments).astype(np.float32)


@given(POPULATIONS, POPULATIONS, st.integers(0, 3))
def test_two_devices_make_the_mixture_by_the_law_of_total_variance(
    one: tuple[list[float], list[float]], other: tuple[list[float], list[float]], staleness: int
) -> None:
    weights = np.array([1.0, 1 / (1 + staleness)])
    total = max(weights.sum(), 2 * weights.max())  # the divisor; what is missing to it stays with the model
    shares = np.array([*weights, total - weights.sum()]) / total
    means = np.array([one[0], other[0], [0.0] * CHANNELS])
    variances = np.array([one[1], other[1], [1.0] * CHANNELS])
    expected_means = shares @ means
    within, between = shares @ variances, shares @ (means - expected_means) ** 2
    found_means, found_variances = merged(
        {"a": (sent(*one), weights[0]), "b": (sent(*other), weights[1])}, onto=model()
    )
    np.testing.assert_allclose(found_means, expected_means, rtol=1e-5, atol=1e-4)
    np.testing.assert_allclose(found_variances, within + between, rtol=1e-3, atol=2e-2)


def test_two_known_populations() -> None:
    means, variances = merged({"a": (sent(-3.0, 1.0), 1.0), "b": (sent(5.0, 4.0), 1.0)}, onto=model(7.0, 9.0))
    assert means.tolist() == [1.0] * CHANNELS
    assert variances.tolist() == [2.5 + 16.0] * CHANNELS, "mean of the variances and variance of the means"


@given(
    st.lists(st.tuples(POPULATIONS, st.sampled_from([1.0, 0.5, 0.1]), st.floats(1e-6, 1)), min_size=1, max_size=8),
    st.data(),
)
def test_no_order_and_no_base_makes_a_variance_negative(
    updates: list[tuple[tuple[list[float], list[float]], float, float]], data: st.DataObject
) -> None:
    weights = model(*data.draw(POPULATIONS))
    rate = data.draw(st.floats(0.1, 3.0))
    made = buffer(rate)
    for number, (population, weight, scale) in enumerate(updates):
        add(made, f"d{number % 3}", sent(*population), weight, scale)
        if data.draw(st.booleans()):
            weights = made.step(weights).weights
            made.restore(type(made.step(weights).state)())
        means, moments = LAYOUT.moments(weights)
        assert (moments.astype(np.float64) - means.astype(np.float64) ** 2 >= 0).all()


def test_the_newest_statistics_of_a_device_count_and_its_weights_add_up() -> None:
    made = buffer()
    add(made, "a", sent(50.0, 1.0))
    add(made, "a", sent(2.0, 1.0))
    add(made, "b", sent(4.0, 1.0))
    after = made.step(model()).weights
    assert LAYOUT.moments(after)[0].tolist() == [3.0] * CHANNELS
    np.testing.assert_allclose(after[:4], 5.0 + 0.3 / 2)


def test_what_was_not_measured_stays_as_it_is() -> None:
    vector = sent(2.0, 1.0)
    vector[4] = vector[4 + CHANNELS] = 0.0
    means, variances = merged({"a": (vector, 1.0)}, onto=model(9.0, 4.0))
    assert means.tolist() == [9.0, 2.0, 2.0]
    assert variances.tolist() == [4.0, 1.0, 1.0]


@given(POPULATIONS)
def test_the_distance_has_no_unit(population: tuple[list[float], list[float]]) -> None:
    here, there = statistics([1.0, -2.0, 3.0], [1.0, 4.0, 9.0]), statistics(*population)
    scaled = np.repeat([32.0, 1024.0], CHANNELS).astype(np.float32)
    assert distance(here, here) == 0.0
    apart = distance((there * scaled).astype(np.float32), (here * scaled).astype(np.float32))
    assert apart == pytest.approx(distance(there, here), rel=1e-2, abs=1e-2)


def test_a_shift_by_one_standard_deviation_is_about_one_whatever_the_other_channels() -> None:
    here = statistics([0.0, 1e4, 0.0], [1.0, 1e8, 1e-4])
    moved = statistics([1.0, 1e4, 0.0], [1.0, 1e8, 1e-4])
    assert distance(moved, here) == pytest.approx(np.sqrt(2 / CHANNELS), rel=1e-3)


# -- admission and ledger


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    made = statistics_bench(tmp_path / "ledger.sqlite3")
    yield made
    made.ledger.close()


def statistics_bench(path: Path) -> Bench:
    made = Bench.__new__(Bench)
    made.path, made.now, made.ledger = path, 0.0, Ledger(path, task=TASK)
    made.line = begin_with_statistics(made.ledger)
    return made


def begin_with_statistics(ledger: Ledger) -> ModelLine:
    settings = replace(SETTINGS, updates_per_version=3, model_encoding="float16")
    release = opening_release(settings, LAYOUT, model(), published_at=1.0)
    ledger.begin_line(row_of(release), LAYOUT, model())
    return restore(ledger, settings)


SEQUENCES = itertools.count(1)


def device(name: str) -> SyntheticDevice:
    return SyntheticDevice(name, LAYOUT, sequences=SEQUENCES)


def verdict(bench: Bench, name: str, vector: Vector) -> Merge:
    found = bench.verdict(device(name), tensors=encode_vector(vector, LAYOUT, "float32"))
    assert isinstance(found, Merge), found
    return found


def known(bench: Bench) -> None:
    """Three devices with usual updates, so that there are medians."""
    for name in ("a", "b", "c"):
        verdict(bench, name, sent(0.1, 1.1))
    bench.next_version()


def test_large_activations_take_nothing_from_the_weights(bench: Bench) -> None:
    known(bench)
    usual = verdict(bench, "usual", sent(0.1, 1.1))
    large = verdict(bench, "large", sent(1e5, 1e10))
    assert (usual.norm, usual.scale) == (large.norm, large.scale) == (pytest.approx(0.2), pytest.approx(1.0))
    assert large.statistics_scale < 1e-3 < usual.statistics_scale


def test_large_weights_take_nothing_from_the_statistics(bench: Bench) -> None:
    known(bench)
    large = verdict(bench, "large", sent(0.1, 1.1, weights=4.0))
    assert large.scale < 0.1
    assert large.statistics_scale == 1.0


def test_one_sender_does_not_ruin_the_statistics(bench: Bench) -> None:
    known(bench)
    for means, variances in ((1e6, 1e12), (0.0, 0.0), (-1e3, 0.0)):
        before = bench.line.weights
        for name in ("a", "b"):
            verdict(bench, name, sent(0.1, 1.1))
        verdict(bench, "hostile", sent(means, variances))
        bench.next_version()
        found_means, moments = LAYOUT.moments(bench.line.weights)
        variance = variance_of(found_means, moments)
        assert (np.abs(found_means - before[4 : 4 + CHANNELS]) < 0.5).all()
        assert (variance > 0.5).all()
        assert (variance < 2.0).all()


def test_an_impossible_second_moment_counts_as_no_variance(bench: Bench) -> None:
    known(bench)
    vector = sent(0.1, 1.1)
    vector[-CHANNELS:] = -5.0
    for name in ("a", "b", "c"):
        verdict(bench, name, vector)
    bench.next_version()
    means, moments = LAYOUT.moments(bench.line.weights)
    assert (moments.astype(np.float64) >= means.astype(np.float64) ** 2).all()


@pytest.mark.parametrize(("at", "value"), [(4, np.nan), (9, np.inf), (4, 1e16), (8, -1e31)])
def test_statistics_that_cannot_be_are_refused_by_name(bench: Bench, at: int, value: float) -> None:
    vector = sent()
    vector[at] = value
    tensors = [encode_vector(np.zeros(10, dtype=np.float32), LAYOUT, "float32")[0]]
    tensors += [type(tensors[0])(vector[4:7].tobytes()), type(tensors[0])(vector[7:].tobytes())]
    found = bench.verdict(device("bad"), tensors=tuple(tensors))
    assert isinstance(found, Refuse)
    if np.isfinite(value):
        assert found.reason == "norm"
    else:
        assert found.reason == "not_finite"
        assert ("running_mean" if at < 7 else "running_var") in found.detail


def test_a_restart_in_the_middle_of_a_version_has_the_same_bits(tmp_path: Path) -> None:
    bench = statistics_bench(tmp_path / "ledger.sqlite3")
    random = np.random.default_rng(0)
    for _ in range(3):
        for name in ("a", "b", "c", "d"):
            verdict(bench, name, sent(random.normal(0, 3, CHANNELS), random.uniform(0.1, 9, CHANNELS)))
        expected = bench.line.next_step().weights
        bench.ledger.close()
        bench.ledger = Ledger(bench.path, task=TASK)
        bench.line = restore(bench.ledger, bench.line.settings)
        assert bench.line.next_step().weights.tobytes() == expected.tobytes()
        scales = [verdict(bench, name, sent(5.0, 1.0)).statistics_scale for name in ("e", "f")]
        assert all(0 < scale <= 1 for scale in scales)
        bench.next_version()
    standing, line = bench.line._standing, restore(bench.ledger, bench.line.settings)
    assert line._standing.usual_statistics_norm == standing.usual_statistics_norm is not None
    bench.ledger.close()


def test_without_statistics_nothing_is_recorded_of_them(tmp_path: Path) -> None:
    bench = Bench(tmp_path / "ledger.sqlite3")
    found = bench.verdict(SyntheticDevice("a"), difference=initial_weights() * np.float32(0.01))
    assert isinstance(found, Merge)
    assert (found.statistics_norm, found.statistics_scale) == (None, 1.0)
    bench.next_version()
    assert bench.line._standing.statistics is None
    bench.ledger.close()


# -- what is not finite


def test_a_sum_beyond_float32_makes_a_version_without_a_change(tmp_path: Path) -> None:
    bench = Bench(tmp_path / "ledger.sqlite3")
    bench.line.weights = np.full(bench.line.layout.size, 3.4e38, dtype=np.float32)
    for name in ("a", "b"):
        contribution = Contribution(device=name, unclipped=bench.line.weights.copy(), weight=1.0)
        bench.line.buffer.add(contribution)
    step = bench.line.next_step()
    assert step.is_discarded
    assert step.weights is bench.line.weights
    bench.line.buffer.restore(step.state)
    assert not bench.line.buffer.slots
    bench.ledger.close()
