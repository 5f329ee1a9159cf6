"""Baselines out of the lines that the training programs print."""

import pytest

from simulators.reporting.baselines import BaselineResults


def test_baselines_out_of_their_lines() -> None:
    baselines = BaselineResults(epochs=3)
    baselines.take({"who": "centralised", "metrics": {"accuracy": 0.9}})
    for device, accuracy in (("a", 0.5), ("b", 0.7)):
        assert not baselines.is_complete("ab")
        baselines.take({"who": "local", "device": device, "metrics": {"accuracy": accuracy}})
    assert baselines.is_complete("ab")
    assert baselines.local_mean() == pytest.approx(0.6)


def test_baselines_that_were_not_measured_are_named() -> None:
    baselines = BaselineResults(epochs=3)
    assert (baselines.pooled(), baselines.local_mean()) == (None, None)
    assert baselines.missing(["a", "b"]) == ("pooled data", "a alone", "b alone")
    baselines.take({"who": "local", "device": "b", "metrics": {"accuracy": 0.7}})
    assert baselines.missing(["a", "b"]) == ("pooled data", "a alone")
    assert baselines.local_mean() == 0.7
