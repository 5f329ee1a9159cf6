"""The plan of the demo: device profiles, outages, and as many versions as there is time for."""

import json
from itertools import pairwise
from pathlib import Path

import pytest

from simulators.__main__ import main
from simulators.demo.baselines import budget_epochs
from simulators.demo.calibration import OVERHEAD, versions_within
from simulators.demo.plan import PROFILES, DemoPlan, assign_profiles
from tests.waiting import PATIENCE_SECONDS


def test_every_kind_of_trouble_occurs_and_never_two_at_once() -> None:
    outages = sorted((outage for profile in PROFILES for outage in profile.outages), key=lambda outage: outage.begin)
    assert {outage.kind for outage in outages} == {"offline", "killed", "held"}
    assert all(0 < outage.begin < outage.end < 1 for outage in outages)
    assert all(one.end <= other.begin for one, other in pairwise(outages))
    duties = [profile.duty_cycle for profile in PROFILES]
    assert max(duties) == pytest.approx(10 * min(duties))


@pytest.mark.parametrize(("devices", "expected"), [(1, 1), (2, 1), (3, 1), (4, 2), (6, 4), (12, 8)])
def test_versions_come_with_one_away_and_one_slow(devices: int, expected: int) -> None:
    assert DemoPlan.of(devices).updates_per_version == expected


@pytest.mark.parametrize(
    ("seconds", "cores", "expected"),
    [(60.3, 2, 100), (60.3, 1, 50), (30.3, 2, 50), (0.01, 2, 1), (1e6, 2, DemoPlan.of(6).versions)],
)
def test_as_many_versions_as_there_is_time_for(seconds: float, cores: int, expected: int) -> None:
    """Of 4 updates of 2 epochs of 0.05 s, three times: the federation, pooled, and alone."""
    epoch_seconds = 0.05 / OVERHEAD
    assert versions_within(seconds, DemoPlan.of(6), epochs=2, epoch_seconds=epoch_seconds, cores=cores) == expected


def test_pace_is_measured_or_refused_in_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["pace", "--task", f"{Path(__file__).parents[3]}/examples/own_task.py:task"]) == 0
    assert 0 < json.loads(capsys.readouterr().out)["epoch_seconds"] < PATIENCE_SECONDS
    assert main(["pace", "--task", "nothing"]) == 2
    assert len(capsys.readouterr().err.splitlines()) == 1


def test_more_devices_than_characters() -> None:
    names = [f"person-{number}" for number in range(len(PROFILES) + 1)]
    assert assign_profiles(names)[names[-1]] == PROFILES[0]


def test_budget_of_the_baselines_is_that_of_the_federation() -> None:
    assert budget_epochs(versions=60, updates_per_version=3, epochs=2, devices=6) == 60
