"""What others rely on: the names and the order of the weights, and the two stages of a network."""

import pytest
import torch

from device_client.learning.networks import (
    SEPARABLE_STUDENT,
    STUDENT,
    TEACHER,
    Sensor,
    SeparableConvolution,
    Size,
    WindowClassifier,
)
from device_client.learning.seeding import seeded

NAMES = [
    "convolutions.0.weight",
    "convolutions.1.weight",
    "convolutions.1.bias",
    "convolutions.3.weight",
    "convolutions.4.weight",
    "convolutions.4.bias",
    "convolutions.6.weight",
    "convolutions.7.weight",
    "convolutions.7.bias",
    "spectral.0.weight",
    "spectral.0.bias",
    "spectral.1.weight",
    "spectral.1.bias",
    "head.weight",
    "head.bias",
]
SEPARABLE_NAMES = [
    *NAMES[:3],
    "convolutions.3.over_time.weight",
    "convolutions.3.over_channels.weight",
    *NAMES[4:6],
    "convolutions.6.over_time.weight",
    "convolutions.6.over_channels.weight",
    *NAMES[7:],
]
"""Recorded, both. Another order is another layout:
devices and aggregators of different releases would not work together."""


def network(size: Size) -> WindowClassifier:
    with seeded(1):
        return WindowClassifier(Sensor(samples=50, acceleration_unit=9.81), size, 5)


@pytest.mark.parametrize(
    ("size", "names", "hidden"),
    [
        (STUDENT, NAMES, 2 * 48 + 48),
        (SEPARABLE_STUDENT, SEPARABLE_NAMES, 2 * 48 + 32),
        (TEACHER, NAMES, 2 * 160 + 256),
    ],
)
def test_the_weights_keep_their_names_and_order(size: Size, names: list[str], hidden: int) -> None:
    weights = network(size).state_dict()
    assert list(weights) == names
    assert weights["head.weight"].shape == (5, hidden)


def test_a_separable_convolution_sees_one_channel_over_time_and_then_all_at_one_moment() -> None:
    model = network(SEPARABLE_STUDENT).eval()
    separable = model.convolutions[3]
    assert isinstance(separable, SeparableConvolution)
    over_time, over_channels = separable.over_time, separable.over_channels
    signals = torch.randn(1, 24, 50)
    bent = signals.clone()
    bent[0, 7] += 1.0  # one channel, always
    changed = (over_time(bent) - over_time(signals)).abs().amax(dim=(0, 2)) > 1e-5
    assert changed.nonzero().flatten().tolist() == [7]
    bent = signals.clone()
    bent[0, :, 20] += 1.0  # all channels, once
    changed = (over_channels(bent) - over_channels(signals)).abs().amax(dim=(0, 1)) > 1e-5
    assert changed.nonzero().flatten().tolist() == [20]


def test_a_separable_convolution_is_the_same_in_training_and_has_the_same_gradients() -> None:
    with seeded(1):
        convolution, signals = SeparableConvolution(24, 32, 2), torch.randn(3, 24, 25, requires_grad=True)
    learned = (*convolution.parameters(), signals)
    seen, gradients = [], []
    for training in (True, False):
        seen.append(convolution.train(training)(signals))
        gradients.append(torch.autograd.grad(seen[-1].square().sum(), learned))
    assert seen[0].shape == (3, 32, 13)
    torch.testing.assert_close(seen[0], seen[1])
    for trained, evaluated in zip(*gradients, strict=True):
        torch.testing.assert_close(trained, evaluated)


def test_forward_is_its_two_stages_one_after_the_other() -> None:
    model, windows = network(TEACHER), torch.randn(3, 6, 50)
    hidden = model.eval().features(windows)
    assert hidden.shape == (3, model.head.in_features)
    assert torch.equal(model.classify(hidden), model(windows))
    model.train()
    with seeded(2):
        whole = model(windows)
    with seeded(2):
        assert torch.equal(model.classify(model.features(windows)), whole), "dropout draws the same numbers"


def test_the_stride_of_a_fast_sensor_changes_the_work_and_no_weight() -> None:
    slow, fast = (Sensor(samples=100, acceleration_unit=1.0, first_stride=stride) for stride in (1, 2))
    with seeded(1):
        whole = WindowClassifier(slow, STUDENT, 5)
    with seeded(1):
        halved = WindowClassifier(fast, STUDENT, 5)
    assert all(torch.equal(one, other) for one, other in zip(whole.parameters(), halved.parameters(), strict=True))
    signals = torch.randn(2, 8, 100)
    assert whole.convolutions(signals).shape[2] == 2 * halved.convolutions(signals).shape[2] - 1
    assert halved(torch.randn(2, 6, 100)).shape == (2, 5)
