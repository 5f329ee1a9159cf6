"""A module and its vector say the same."""

import itertools
import warnings
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations

from device_client.learning.networks import STUDENT, Sensor, WindowClassifier
from device_client.learning.parameters import LoadedWeights, layout_of, load_vector, vector_of
from wire_contract.errors import LayoutError
from wire_contract.layout import Layout, TensorSpec

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
    with pytest.raises(LayoutError, match="of another network than WindowClassifier"):
        load_vector(module, layout_of(foreign), vector_of(foreign, layout_of(foreign)))
    with pytest.raises(LayoutError):
        load_vector(module, layout_of(module), np.zeros(3, dtype=np.float32))
    with pytest.raises(LayoutError):
        vector_of(foreign, layout_of(module))


# -- networks as people have them


def trained(module: nn.Module, steps: int = 3, inputs: int = 4) -> None:
    optimiser = torch.optim.SGD([p for p in module.parameters() if p.requires_grad], lr=0.1)
    generator = torch.Generator().manual_seed(0)
    dtype = next(module.parameters()).dtype
    module.train()
    for _ in range(steps):
        optimiser.zero_grad()
        x = torch.randn(8, inputs, generator=generator).to(dtype) * 3 + 2
        module(x).float().square().mean().backward()
        optimiser.step()
    module.eval()


def names(module: nn.Module) -> list[str]:
    return [spec.name for spec in layout_of(module).tensors]


def round_trip(make: Callable[[], nn.Module]) -> None:
    """What a round leaves in the vector gives a second module the same outputs."""
    torch.manual_seed(0)
    module, other = make(), make()
    layout = layout_of(module)
    loaded = LoadedWeights.load(module, layout, vector_of(module, layout))
    trained(module)
    vector = loaded.after(module)
    assert np.isfinite(vector).all()
    load_vector(other.eval(), layout, vector)
    inputs = torch.randn(5, 4).to(next(module.parameters()).dtype)
    assert torch.allclose(module(inputs).float(), other(inputs).float(), atol=1e-2, rtol=1e-2)


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.code, self.out = nn.Linear(4, 6), nn.Linear(4, 6)
        self.out.weight = self.code.weight

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.code(x) + self.out(x)


class Transposed(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.code = nn.Linear(4, 6)
        self.decode = nn.Parameter(self.code.weight.detach().t())
        self.register_buffer("view", self.code.weight.detach()[1])

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.code(x) @ self.decode.t() + self.view.sum()
        return out


class OwnNorm(nn.Module):
    """Statistics of one's own, under the usual names."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 3)
        self.register_buffer("running_mean", torch.zeros(3))
        self.register_buffer("running_var", torch.ones(3))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        hidden: torch.Tensor = self.layer(x)
        if self.training:
            self.running_mean.lerp_(hidden.detach().mean(0), 0.1)
            self.running_var.lerp_(hidden.detach().var(0), 0.1)
        return (hidden - self.running_mean) / (self.running_var + 1e-5).sqrt()


class Scalar(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer, self.gain = nn.Linear(4, 2), nn.Parameter(torch.tensor(2.0))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.layer(x) * self.gain
        return out


def old_style(wrap: Callable[[nn.Module], nn.Module]) -> nn.Module:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch calls them deprecated; people have them
        return nn.Sequential(wrap(nn.Linear(4, 6)), nn.ReLU(), nn.Linear(6, 2))


NETWORKS: dict[str, Callable[[], nn.Module]] = {
    "tied": Tied,
    "transposed views": Transposed,
    "scalar": Scalar,
    "own statistics": OwnNorm,
    "batchnorm": lambda: nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6), nn.ReLU(), nn.Linear(6, 2)),
    "batchnorm without affine weights": lambda: nn.Sequential(nn.BatchNorm1d(4, affine=False), nn.Linear(4, 2)),
    "instancenorm": lambda: nn.Sequential(
        nn.Unflatten(1, (2, 2)), nn.InstanceNorm1d(2, track_running_stats=True), nn.Flatten(), nn.Linear(4, 2)
    ),
    "spectral norm": lambda: nn.Sequential(parametrizations.spectral_norm(nn.Linear(4, 6)), nn.Linear(6, 2)),
    "spectral norm of old": lambda: old_style(nn.utils.spectral_norm),
    "weight norm": lambda: nn.Sequential(parametrizations.weight_norm(nn.Linear(4, 6)), nn.Linear(6, 2)),
    "weight norm of old": lambda: old_style(nn.utils.weight_norm),
    "bfloat16": lambda: nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6), nn.Linear(6, 2)).bfloat16(),
    "float64": lambda: nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6), nn.Linear(6, 2)).double(),
}


@pytest.mark.parametrize("name", sorted(NETWORKS))
def test_networks_of_every_kind_survive_a_round(name: str) -> None:
    round_trip(NETWORKS[name])


@pytest.mark.parametrize("name", sorted(NETWORKS))
def test_what_training_did_not_move_makes_a_difference_of_exactly_zero(name: str) -> None:
    torch.manual_seed(0)
    module = NETWORKS[name]()
    layout = layout_of(module)
    vector = vector_of(module, layout)
    vector[: layout.weights_size] += np.float32(1e-4)  # what bfloat16 cannot hold
    loaded = LoadedWeights.load(module, layout, vector)
    assert loaded.after(module).tobytes() == vector.tobytes()


def test_half_precision_sends_what_it_learned_and_not_how_it_rounds() -> None:
    module = nn.Linear(4, 2, bias=False).bfloat16()
    layout = layout_of(module)
    start = np.full(8, 1.001, dtype=np.float32)
    loaded = LoadedWeights.load(module, layout, start)
    with torch.no_grad():
        module.weight[0] += 0.125
    difference = loaded.after(module) - start
    np.testing.assert_allclose(difference[:4], 0.125, rtol=1e-5)
    assert not difference[4:].any()


def test_tied_tensors_are_in_the_layout_once_and_set_together() -> None:
    module = Tied()
    assert names(module) == ["code.weight", "code.bias", "out.bias"]
    layout = layout_of(module)
    load_vector(module, layout, np.full(layout.size, 3.0, dtype=np.float32))
    assert module.out.weight is module.code.weight
    assert bool((module.out.weight == 3.0).all())
    assert names(Transposed()) == ["decode", "code.bias"]


def test_a_layout_of_an_older_program_with_tied_tensors_twice_is_read() -> None:
    module = Tied()
    older = Layout(tuple(TensorSpec(name, tuple(t.shape)) for name, t in module.state_dict().items()))
    load_vector(module, older, np.full(older.size, 2.0, dtype=np.float32))
    assert bool((module.code.weight == 2.0).all())


def test_a_layout_of_an_older_program_with_variances_is_read() -> None:
    module = nn.BatchNorm1d(2)
    older = layout_of(module, "exact")
    assert [spec.kind for spec in older.tensors] == ["weight"] * 4
    load_vector(module, older, np.array([1, 1, 0, 0, 5, 5, 9, 9], dtype=np.float32))
    assert module.running_var is not None
    assert module.running_var.tolist() == [9, 9]


def test_tensors_that_share_a_part_of_their_memory_are_refused_by_name() -> None:
    module, memory = nn.Module(), torch.zeros(6)
    module.register_buffer("one", memory[:4])
    module.register_buffer("other", memory[2:])
    with pytest.raises(LayoutError, match="'other' shares a part of its memory"):
        layout_of(module)
    apart = nn.Module()
    apart.register_buffer("one", memory[:3])
    apart.register_buffer("other", memory[3:])
    assert names(apart) == ["one", "other"]


def test_a_state_dict_that_copies_or_renames_is_refused_with_what_to_do() -> None:
    copying = nn.Linear(2, 2)
    copying.register_state_dict_post_hook(
        lambda _module, state, prefix, _meta: state.update({prefix + "bias": state[prefix + "bias"].clone()})
    )
    with pytest.raises(LayoutError, match=r"returns a copy of 'bias'.*remove the override or hook"):
        layout_of(copying)
    renaming, calls = nn.Linear(2, 2), itertools.count()
    renaming.register_state_dict_post_hook(
        lambda _module, state, prefix, _meta: state.update({f"{next(calls)}": state.pop(prefix + "bias")})
    )
    with pytest.raises(LayoutError, match="names tensors differently each time"):
        layout_of(renaming)


def test_statistics_follow_the_weights_as_means_and_second_moments() -> None:
    module = nn.Sequential(nn.BatchNorm1d(2), nn.Linear(2, 2), nn.BatchNorm1d(2))
    for part in (module[0], module[2]):
        part.running_mean.fill_(3.0)
        part.running_var.fill_(4.0)
    layout = layout_of(module)
    assert [(spec.name, spec.kind) for spec in layout.tensors[-4:]] == [
        ("0.running_mean", "mean"),
        ("2.running_mean", "mean"),
        ("0.running_var", "second_moment"),
        ("2.running_var", "second_moment"),
    ]
    vector = vector_of(module, layout)
    assert vector[-8:].tolist() == [3.0] * 4 + [13.0] * 4
    load_vector(module, layout, vector)
    assert module[2].running_var.tolist() == [4.0, 4.0]


def test_a_second_moment_below_the_square_of_the_mean_gives_no_negative_variance() -> None:
    module = nn.BatchNorm1d(2, affine=False)
    layout = layout_of(module)
    load_vector(module, layout, np.array([3.0, 0.0, 2.0, -5.0], dtype=np.float32))
    assert module.running_var is not None
    assert (module.running_var >= 0).all()
    assert bool(torch.isfinite(module.eval()(torch.randn(4, 2))).all())


def test_a_round_does_not_depend_on_the_rounds_before_it() -> None:
    """With momentum None, torch averages over all batches ever seen."""
    module = nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3, momentum=None))
    layout = layout_of(module)
    start = vector_of(module, layout)
    results = []
    for _ in range(2):
        loaded = LoadedWeights.load(module, layout, start)
        trained(module)
        results.append(loaded.after(module))
    np.testing.assert_array_equal(results[0], results[1])


def test_statistics_can_stay_at_home() -> None:
    module = nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3))
    layout = layout_of(module, "home")
    assert [spec.name for spec in layout.tensors] == ["0.weight", "0.bias", "1.weight", "1.bias"]
    module[1].running_mean.fill_(7.0)
    load_vector(module, layout, np.zeros(layout.size, dtype=np.float32))
    assert module[1].running_mean.tolist() == [7.0] * 3
    assert vector_of(module, layout).size == layout.size


def test_frozen_layers_stay_in_the_vector_and_do_not_change() -> None:
    module = nn.Sequential(nn.Linear(4, 6), nn.Linear(6, 2))
    module[0].requires_grad_(False)
    layout = layout_of(module)
    start = vector_of(module, layout)
    loaded = LoadedWeights.load(module, layout, start)
    trained(module)
    difference = loaded.after(module) - start
    assert not difference[:30].any()
    assert difference[30:].all()
