"""One hostile device of six in the virtual world, at the aggregator's defaults: the bounds hold, and nothing else does.

Devices learn to reach a point each, near one another; the model is as good as it is near their middle.
"""

from collections.abc import Collection
from dataclasses import replace

import numpy as np
import pytest

from aggregator.model_line import LineSettings
from benchmarks.attack import rules_of
from device_client.trainer import Trained
from simulators.world.attacks import ATTACKS, SAMPLES_CLAIMED_MAX, Attacker
from simulators.world.federation import VirtualDevice, run_asynchronous
from simulators.world.server import Rules, SimulationState, unbounded
from wire_contract.layout import Layout, TensorSpec, Vector
from wire_contract.publication.manifest import PublishedVersion

LAYOUT = Layout((TensorSpec("weight", (20, 10)), TensorSpec("bias", (10,))))
MIDDLE = np.random.default_rng(0).standard_normal(LAYOUT.size).astype(np.float32)
START = 2 * np.random.default_rng(1).standard_normal(LAYOUT.size).astype(np.float32)
DISTANCE = float(np.linalg.norm(START - MIDDLE))
VERSIONS = 30
RULES = replace(rules_of(LineSettings(task="world")), update_encoding="float32", model_encoding="float32")
DEVICES = [VirtualDevice(name=f"d{number}", round_seconds=1.0 + number / 9) for number in range(6)]
HOSTILE = "d0"
ONCE = sorted(ATTACKS.keys() - {"nothing"})


def learn(device: str, start: Vector, *, version: int, round_number: int) -> Trained:
    del version, round_number
    own = np.random.default_rng(ord(device[1])).standard_normal(LAYOUT.size).astype(np.float32)
    return Trained(weights=start + 0.3 * (MIDDLE + 0.1 * own - start), samples=100, steps=1, metrics={})


def from_newest(newest: PublishedVersion) -> Vector:
    return learn(HOSTILE, newest.weights, version=newest.version, round_number=0).weights - newest.weights


def run(
    rules: Rules,
    attack: str = "",
    *,
    samples: int = 100,
    honest: Collection[int] = (),
    strikes: Collection[int] = (),
    versions: int = VERSIONS,
) -> tuple[float, SimulationState]:
    """How far from the middle it ends, in parts of where it began; without an attack the device is silent."""
    adversary = Attacker(
        HOSTILE,
        ATTACKS[attack] if attack else lambda _model, _learned: (),
        from_newest,
        task="world",
        samples=samples,
        honest=honest,
        strikes=strikes,
    )
    state = run_asynchronous(DEVICES, learn, START, LAYOUT, rules=rules, versions=versions, adversary=adversary)
    return float(np.linalg.norm(state.weights - MIDDLE)) / DISTANCE, state


PLACES = {
    "first of all": (range(0), 0),
    "a newcomer": (range(0), 15),
    "known": (range(15), 15),
    "known, then away": (range(3), 15),
}


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("attack", ONCE)
@pytest.mark.parametrize("samples", [100, SAMPLES_CLAIMED_MAX])
def test_what_one_device_breaks_is_mended(attack: str, place: str, samples: int) -> None:
    honest, begin = PLACES[place]
    strikes = range(begin, begin + (5 if attack == "flip" else 1))
    alone, _ = run(RULES)
    attacked, state = run(RULES, attack, samples=samples, honest=honest, strikes=strikes)
    assert alone < 0.1
    assert attacked < 0.15
    assert state.refused.keys() <= {HOSTILE}


@pytest.mark.parametrize("attack", ["huge", "huge bias", "flip", "flood"])
def test_it_is_the_bounds_that_hold(attack: str) -> None:
    attacked, _ = run(unbounded(RULES), attack, samples=SAMPLES_CLAIMED_MAX, strikes=range(24, 29))
    assert attacked > 2


@pytest.mark.parametrize("attack", ONCE)
@pytest.mark.parametrize("samples", [100, SAMPLES_CLAIMED_MAX])
def test_right_after_an_attack_the_model_is_no_further_off_than_it_began(attack: str, samples: int) -> None:
    for begin in (0, 15):
        struck, _ = run(RULES, attack, samples=samples, strikes=(begin,), versions=begin + 1)
        assert struck < 1.0


def test_tiny_updates_in_every_version_starve_nobody() -> None:
    alone, _ = run(RULES)
    attacked, state = run(RULES, "nothing", samples=1, strikes=range(VERSIONS))
    assert attacked < alone + 0.1
    assert np.mean([scale for name, scales in state.scales.items() if name != HOSTILE for scale in scales]) > 0.8


def test_nobody_hostile_and_nothing_is_refused() -> None:
    honest, state = run(RULES, honest=range(VERSIONS))
    believed, _ = run(unbounded(RULES), honest=range(VERSIONS))
    assert not state.refused
    assert honest == pytest.approx(believed, abs=0.02)
