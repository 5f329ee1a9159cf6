"""Who takes part, and how evenly."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aggregator.telemetry.participation import SILENT_SECONDS, Activity, Participation, Share, gini


def test_gini_of_known_sets() -> None:
    assert gini([]) is None
    assert gini([0.0, 0.0]) is None
    assert gini([3.0, 3.0, 3.0]) == pytest.approx(0.0)
    assert gini([0.0, 0.0, 0.0, 8.0]) == pytest.approx(0.75)
    assert gini([1.0, 2.0, 3.0, 4.0]) == pytest.approx(0.25)


@given(st.lists(st.floats(0, 1e6), min_size=1, max_size=50), st.floats(0.1, 1e3))
def test_gini_is_half_the_mean_difference_whatever_the_scale(values: list[float], scale: float) -> None:
    found = gini(values)
    if sum(values) == 0:
        assert found is None
        return
    assert found is not None
    mean = sum(values) / len(values)
    differences = sum(abs(a - b) for a in values for b in values)
    assert found == pytest.approx(differences / (2 * len(values) ** 2 * mean), abs=1e-9)
    assert 0 - 1e-9 <= found < 1
    assert gini([scale * value for value in values]) == pytest.approx(found, abs=1e-6)


def test_figures_of_a_small_fleet() -> None:
    fleet = Participation({"old": Share(2.0, 100.0), "never": Share()})
    fleet.contributed(Activity("new", 4.0), at=10_000.0)
    fleet.contributed(Activity("refused", None), at=10_000.0)
    fleet.present("new", online=True)
    fleet.present("old", online=True)
    fleet.present("old", online=False)
    fleet.present("present", online=True)
    found = fleet.figures(now=10_000.0 + SILENT_SECONDS - 1)
    gini_found = found.pop("weight_gini")
    assert gini_found == gini([2.0, 0.0, 4.0, 0.0, 0.0])
    assert found == {
        "devices_known": 5,
        "devices_online": 2,
        "devices_contributing": 1,
        "devices_silent": 4,
        "silent_share": 0.8,
    }
    assert fleet.figures(now=10_000.0 + SILENT_SECONDS)["devices_contributing"] == 0


def test_evaluators_are_not_expected_to_take_part() -> None:
    fleet = Participation()
    fleet.present("eval", online=True)
    fleet.evaluates("eval")
    fleet.present("eval", online=True)
    fleet.present("eval", online=False)
    fleet.contributed(Activity("eval", None), at=0.0)
    assert fleet.figures(now=0.0) == {
        "devices_known": 0,
        "devices_online": 0,
        "devices_contributing": 0,
        "devices_silent": 0,
    }
