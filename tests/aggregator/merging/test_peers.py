"""No device owns the model: what it claims, how often it comes and how far it reaches are bounded by what others do."""

from collections.abc import Iterator
from dataclasses import replace
from math import inf
from pathlib import Path

import numpy as np
import pytest

from aggregator.admission import AdmissionPolicy, Merge, Refuse
from aggregator.ledger.restoring import restore
from aggregator.merging.peers import BEYOND
from aggregator.merging.rule import RuleState
from aggregator.merging.staleness import ABSENCE_MAX, SAMPLES_RATIO_MAX
from aggregator.receipts import receipt_for
from tests.aggregator.bench import Bench
from tests.aggregator.synthetic import LAYOUT, SETTINGS, SyntheticDevice, initial_weights, replay
from wire_contract.layout import Vector

LINE = replace(SETTINGS, updates_per_version=4)
SIZE = float(np.linalg.norm(initial_weights()))
"""‖x‖ of version 0."""

REACH = 1 + BEYOND
"""In budgets."""


def towards(norm: float) -> Vector:
    return np.full(LAYOUT.size, norm / np.sqrt(LAYOUT.size), dtype=np.float32)


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    made = Bench(tmp_path / "ledger.sqlite3", LINE)
    yield made
    made.ledger.close()


HONEST = [SyntheticDevice(f"honest-{number}") for number in range(3)]
"""The fourth place in a version is the hostile device's."""


def merged(bench: Bench, device: SyntheticDevice, norm: float, *, samples: int = 10) -> Merge:
    verdict = bench.verdict(device, difference=towards(norm), samples=samples)
    assert isinstance(verdict, Merge), verdict
    return verdict


def honest_version(bench: Bench, *, norm: float = 0.1) -> None:
    for device in HONEST:
        merged(bench, device, norm)
    bench.next_version()


def moved(bench: Bench) -> float:
    before = bench.line.weights
    return float(np.linalg.norm(bench.line.next_step().weights - before))


def test_claimed_samples_count_up_to_what_others_claim(bench: Bench) -> None:
    hostile = SyntheticDevice("hostile")
    assert merged(bench, hostile, 0.1, samples=2**53).weight == 1.0, "it comes first, and nobody is known yet"
    honest_version(bench)
    assert merged(bench, hostile, 0.1, samples=2**53).weight == SAMPLES_RATIO_MAX
    assert merged(bench, HONEST[0], 0.1, samples=10).weight == 1.0
    assert merged(bench, HONEST[1], 0.1, samples=5).weight == 0.5


def test_with_two_devices_neither_says_what_is_usual(bench: Bench) -> None:
    hostile, honest = SyntheticDevice("hostile"), HONEST[0]
    for norm in (SIZE, 1e-30):
        merged(bench, hostile, norm, samples=2**53)
        merged(bench, honest, 0.1, samples=10)
        bench.next_version()
        again = merged(bench, honest, 0.1)
        assert (again.weight, again.scale) == (1.0, 1.0)
        bench.line.buffer.restore(RuleState())
    merged(bench, hostile, SIZE, samples=2**53)
    merged(bench, honest, 0.0)
    assert moved(bench) < REACH * 0.1 * SIZE / 2 * 1.01, "as in the first version"


def test_many_updates_of_one_device_are_one_voice(bench: Bench) -> None:
    hostile = SyntheticDevice("hostile")
    honest_version(bench)
    for _ in range(50):
        merged(bench, hostile, 0.1, samples=2**53)
    merged(bench, HONEST[0], 0.1)
    bench.next_version()
    assert merged(bench, HONEST[0], 0.1).weight == 1.0


def test_a_newcomer_counts_once_and_a_refusal_makes_nobody_known(bench: Bench) -> None:
    for _ in range(2 * ABSENCE_MAX):
        honest_version(bench)
    newcomer = SyntheticDevice("newcomer")
    assert bench.reason(newcomer, difference=towards(1e6)) == "norm"
    assert merged(bench, newcomer, 0.1).weight == 1.0
    known = HONEST[0]
    bench.next_version()
    for _ in range(3):
        merged(bench, HONEST[1], 0.1)
        bench.next_version()
    assert merged(bench, known, 0.1).weight == 3.0, "five versions went by, but it outvotes no three others"


def test_one_update_weighs_no_more_than_all_others_of_a_version(bench: Bench) -> None:
    hostile = SyntheticDevice("hostile")
    merged(bench, hostile, 0.1)
    for _ in range(2 * ABSENCE_MAX):
        honest_version(bench)
    weight = merged(bench, hostile, 0.1, samples=2**53).weight
    others = sum(merged(bench, device, 0.1).weight for device in HONEST)
    assert weight == others == LINE.updates_per_version - 1


def test_no_device_moves_the_model_by_more_than_half_of_its_step_in_company(bench: Bench) -> None:
    hostile = SyntheticDevice("hostile")
    merged(bench, hostile, 0.1)
    for _ in range(2 * ABSENCE_MAX):
        honest_version(bench)
    update = merged(bench, hostile, 0.1)
    assert (update.weight, update.scale) == (3.0, 1.0)
    assert moved(bench) == pytest.approx(0.1, rel=1e-4), "alone, where the operator allows that, it has all of it"
    assert merged(bench, HONEST[0], 0.0).weight == 1.0
    assert moved(bench) == pytest.approx(0.05, rel=1e-4), "T passed with two devices, and 3 : 1 is not 75 %"
    assert restore(bench.ledger, LINE).next_step().weights.tobytes() == bench.line.next_step().weights.tobytes()
    bench.next_version()
    assert replay(bench.path, LAYOUT, initial_weights())[1].tobytes() == bench.line.weights.tobytes()


def test_what_reaches_further_than_others_is_scaled_down_and_the_receipt_says_so(bench: Bench) -> None:
    honest_version(bench)
    hostile = SyntheticDevice("hostile")
    update = hostile.payload(bench.line, difference=towards(1.0))
    judged = bench.give(hostile, update)
    assert isinstance(judged.verdict, Merge)
    assert judged.verdict.norm == pytest.approx(1.0)
    assert judged.verdict.scale * judged.verdict.norm < REACH * 0.1
    assert moved(bench) < REACH * 0.1 * 1.0001
    receipt = receipt_for(judged.verdict, version=1, update=judged.update, payload=update)
    assert (receipt.outcome, receipt.detail[:9]) == ("merged", "scaled by")
    plain = receipt_for(merged(bench, HONEST[0], 0.1), version=1, update=judged.update, payload=update)
    assert plain.detail == ""


def test_two_hundred_updates_reach_no_further_than_one(bench: Bench) -> None:
    honest_version(bench)
    hostile = SyntheticDevice("hostile")
    for _ in range(200):
        merged(bench, hostile, 0.1)
    assert moved(bench) < REACH * 0.1 * 1.0001
    for device in HONEST:
        merged(bench, device, 0.0)
    assert moved(bench) < REACH * 0.1 / 4 * 1.0001


def test_a_heavy_update_among_light_ones_counts_as_what_it_is(bench: Bench) -> None:
    honest_version(bench)
    hostile = SyntheticDevice("hostile")
    assert merged(bench, hostile, 10.0 * 0.1, samples=2**53).weight == SAMPLES_RATIO_MAX
    for _ in range(100):
        merged(bench, hostile, 1e-6, samples=1)
    for device in HONEST:
        merged(bench, device, 0.0)
    share = SAMPLES_RATIO_MAX / (SAMPLES_RATIO_MAX + 3)
    assert moved(bench) < share * REACH * 0.1 * 1.0001


def test_whoever_comes_first_does_not_begin_the_line(bench: Bench) -> None:
    hostile = SyntheticDevice("hostile")
    merged(bench, hostile, 9.9 * SIZE, samples=2**53)
    assert moved(bench) < REACH * 0.1 * SIZE * 1.0001, "also if nobody else came"
    for device in HONEST:
        merged(bench, device, 0.0)
    assert moved(bench) < REACH * 0.1 * SIZE / 4 * 1.0001
    bench.next_version()
    merged(bench, hostile, 0.5 * SIZE)
    assert moved(bench) < 1e-5 * SIZE, "now there are others to compare with, who sent nothing"


def test_far_too_large_is_refused_and_a_faster_fleet_is_not(bench: Bench) -> None:
    honest_version(bench)
    hostile = SyntheticDevice("hostile")
    assert bench.reason(hostile, difference=towards(1.01 * SIZE)) == "norm", "over 30 times the others, and over ‖x‖"
    assert merged(bench, hostile, 0.98 * SIZE).scale < 0.1
    bench.next_version()
    honest_version(bench, norm=0.9 * SIZE)
    assert merged(bench, HONEST[0], 0.9 * SIZE).scale == 1.0, "what all of them do is usual within one version"


def test_nobody_is_starved_by_tiny_updates_of_a_minority(bench: Bench) -> None:
    hostile = SyntheticDevice("hostile")
    for _ in range(5):
        merged(bench, hostile, 1e-9, samples=1)
        honest_version(bench)
    honest = merged(bench, HONEST[0], 0.1)
    assert (honest.weight, honest.scale) == (1.0, 1.0)


def test_a_tiny_update_in_the_first_version_starves_nobody_in_the_next(bench: Bench) -> None:
    merged(bench, SyntheticDevice("hostile"), 1e-30, samples=1)
    merged(bench, HONEST[0], 0.1)
    bench.next_version()
    for device in HONEST:
        assert merged(bench, device, 0.1).scale == 1.0


@pytest.mark.parametrize("ratio", [1e-320, 1e-200])
def test_no_ratio_makes_an_update_count_for_nothing(tmp_path: Path, ratio: float) -> None:
    bench = Bench(tmp_path / "l", replace(LINE, policy=AdmissionPolicy(slot_norm_ratio=ratio)))
    for _ in range(3):
        assert merged(bench, HONEST[0], 0.1).scale > 0
    bench.ledger.close()


def test_a_restart_decides_as_the_lost_line_would_have(bench: Bench) -> None:
    for samples, norm in ((10, 0.1), (20, 0.3), (40, 0.2)):
        for device in HONEST:
            merged(bench, device, norm, samples=samples)
        bench.next_version()
    merged(bench, HONEST[0], 0.5, samples=1_000)  # a claim that counts only from the next version on
    merged(bench, HONEST[2], 0.1)
    again = restore(bench.ledger, LINE)
    assert again.next_step().weights.tobytes() == bench.line.next_step().weights.tobytes()
    for device in (*HONEST, SyntheticDevice("new")):
        payload = device.payload(bench.line, difference=towards(0.9), samples=35)
        one, other = bench.line.judge(device.parsed, payload), again.judge(device.parsed, payload)
        assert one == other
        assert isinstance(one.verdict, Merge)
        assert one.verdict.scale < 1
    assert again.next_step().weights.tobytes() == bench.line.next_step().weights.tobytes()


def test_bounds_can_be_taken_away(tmp_path: Path) -> None:
    believed = AdmissionPolicy(samples_ratio_max=inf, slot_norm_ratio=inf, weight_max=inf)
    bench = Bench(tmp_path / "l", replace(LINE, policy=believed))
    honest_version(bench)
    verdict = bench.verdict(SyntheticDevice("d"), difference=towards(9.9 * SIZE), samples=1_000)
    assert verdict == Merge(weight=100.0, staleness=0)
    bench.ledger.close()


def test_refused_at_once_is_what_no_bound_could_mend(bench: Bench) -> None:
    verdict = bench.verdict(SyntheticDevice("d"), difference=towards(10.1 * SIZE))
    assert isinstance(verdict, Refuse)
    assert verdict.reason == "norm"
