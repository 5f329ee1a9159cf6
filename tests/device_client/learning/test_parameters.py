"""A module and its vector say the same."""

import numpy as np
import pytest
import torch
from torch import nn

from device_client.learning.networks import STUDENT, Sensor, WindowClassifier
from device_client.learning.parameters import layout_of, load_vector, vector_of
from wire_contract.errors import LayoutError

SENSOR = Sensor(samples=50, acceleration_unit=9.81)


def student(seed: int) -> WindowClassifier:
    torch.manual_seed(seed)
    return WindowClassifier(SENSOR, STUDENT, 5).eval()


def test_what_goes_in_comes_out() -> None:
    one, other = student(1), student(2)
    layout = layout_of(one)
    vector = vector_of(one, layout)
    assert vector.dtype == np.float32
    assert vector.shape == (layout.size,)
    load_vector(other, layout, vector)
    windows = torch.randn(3, 6, 50)
    assert torch.equal(one(windows), other(windows))
    np.testing.assert_array_equal(vector_of(other, layout), vector)


def test_the_vector_is_a_copy_both_ways() -> None:
    module = student(1)
    layout = layout_of(module)
    vector = vector_of(module, layout)
    vector[:] = 7.0
    assert not np.any(vector_of(module, layout) == 7.0)
    load_vector(module, layout, vector)
    vector[:] = 8.0
    assert np.all(vector_of(module, layout) == 7.0)


def test_the_order_is_that_of_the_state_dict_and_fixed_buffers_stay_at_home() -> None:
    module = student(1)
    assert [spec.name for spec in layout_of(module).tensors] == list(module.state_dict())
    assert layout_of(module).size == sum(parameter.numel() for parameter in module.parameters())


def test_running_statistics_travel_and_counters_do_not() -> None:
    names = [spec.name for spec in layout_of(nn.BatchNorm1d(3)).tensors]
    assert names == ["weight", "bias", "running_mean", "running_var"]


def test_foreign_weights_are_refused_by_name() -> None:
    module, foreign = student(1), nn.Linear(3, 2)
    with pytest.raises(LayoutError, match="another task"):
        load_vector(module, layout_of(foreign), vector_of(foreign, layout_of(foreign)))
    with pytest.raises(LayoutError):
        load_vector(module, layout_of(module), np.zeros(3, dtype=np.float32))
    with pytest.raises(LayoutError):
        vector_of(foreign, layout_of(module))
