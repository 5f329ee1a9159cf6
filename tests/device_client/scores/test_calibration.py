"""The calibration error by its definition, and a temperature that is the best of all."""

import numpy as np
import pytest

from device_client.scores.calibration import (
    BINS,
    TEMPERATURES,
    Calibration,
    fitted_temperature,
    negative_log_likelihood,
)


def test_the_error_is_the_mean_distance_in_bins_whatever_the_batches() -> None:
    random = np.random.default_rng(0)
    probabilities = np.concatenate([random.random(200), [0.0, 1.0]])
    happened = random.random(202) < probabilities**2
    expected = 0.0
    for index in range(BINS):
        inside = (probabilities >= index / BINS) & ((probabilities < (index + 1) / BINS) | (index == BINS - 1))
        if inside.any():
            expected += inside.sum() / 202 * abs(happened[inside].mean() - probabilities[inside].mean())
    whole, parts = Calibration(), Calibration()
    whole.update(probabilities, happened)
    for start in range(0, 202, 7):
        parts.update(probabilities[start : start + 7], happened[start : start + 7])
    assert whole.error == pytest.approx(expected)
    assert parts.error == pytest.approx(expected)
    mean, share, count = whole.points
    assert count.sum() == 202
    assert float((count * np.abs(mean - share)).sum() / 202) == pytest.approx(expected)
    assert np.isnan(Calibration().error)


def over_confident(count: int, sharpness: float) -> tuple[np.ndarray, np.ndarray]:
    """Logits that are `sharpness` times what the labels were drawn from."""
    random = np.random.default_rng(1)
    true = 1.5 * random.standard_normal((count, 3))
    shares = np.exp(true) / np.exp(true).sum(axis=1, keepdims=True)
    labels = (random.random((count, 1)) > shares.cumsum(axis=1)).sum(axis=1)
    return sharpness * true, labels


@pytest.mark.parametrize("sharpness", [0.5, 1.0, 4.0])
def test_the_temperature_is_found_that_logits_were_sharpened_by(sharpness: float) -> None:
    logits, labels = over_confident(20_000, sharpness)
    found = fitted_temperature(logits, labels)
    assert found == pytest.approx(sharpness, rel=0.03)
    least = negative_log_likelihood(logits, labels, temperature=found)
    for other in (0.98 * found, 1.02 * found, 1.0):
        assert least <= negative_log_likelihood(logits, labels, temperature=other) + 1e-12


def test_without_a_minimum_the_end_of_the_range_is_returned() -> None:
    certain = np.array([[2.0, 0.0], [0.0, 1.0]])
    assert fitted_temperature(certain, [0, 1]) == pytest.approx(TEMPERATURES[0])
    assert fitted_temperature(certain, [1, 0]) == pytest.approx(TEMPERATURES[1])
    assert np.isfinite(negative_log_likelihood([[1e4, 0.0]], [1]))
    with pytest.raises(ValueError, match="at least one example, and finite logits"):
        fitted_temperature(np.zeros((0, 2)), [])
