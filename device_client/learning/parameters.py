"""Conversion between a module's weights and the one float32 vector that the wire format uses.

The vector holds the floating-point parameters and persistent floating-point buffers, each memory once: tensors that
are tied, or are views of another one, follow from it, and tensors without elements are left out. First come the weights
in the order of `state_dict`, then the running statistics of BatchNorm and its kind: all means, then all second moments
(`wire_contract/encoding/statistics.py`). Integer buffers (counters) and non-persistent buffers are not part of it.

A statistic is every pair of buffers `running_mean` and `running_var` of one module, of torch or of one's own.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor, nn

from device_client.learning.shared_memory import without_aliases
from wire_contract.encoding.statistics import second_moment_of, variance_of
from wire_contract.errors import LayoutError
from wire_contract.layout import Layout, TensorKind, TensorSpec, Vector, different_tensors

Statistics = Literal["merged", "home", "exact"]
"""Running statistics in the vector: as means and second moments, or not at all, or as the module has them, for networks
that are never merged."""

_MEAN, _VARIANCE = "running_mean", "running_var"

Arrays = Mapping[str, np.ndarray]
"""Values by name of the tensor: float64 if the tensor is, else float32, which is exact for every smaller type."""


def layout_of(module: nn.Module, statistics: Statistics = "merged") -> Layout:
    """The layout of `module`'s weights.

    Raises:
        LayoutError: tensors share part of their memory, or `state_dict` does not return the module's own tensors under
            the same names each time, or leaves out one that is trained.
    """
    own = without_aliases(_floating(module))
    _check_complete(module, own)
    changed = sorted(set(own) - set(_floating(module)))
    if changed:
        raise LayoutError(
            f"weights: state_dict() of {type(module).__name__} names tensors differently each time ({changed[0]!r}); "
            "remove the override or hook that renames them"
        )
    if statistics == "exact":
        return Layout(tuple(_spec(name, tensor) for name, tensor in own.items()))
    pairs = [pair for pair in _pairs(module) if set(pair) <= set(own)]
    of_statistics = {name for pair in pairs for name in pair}
    specs = [_spec(name, tensor) for name, tensor in own.items() if name not in of_statistics]
    if statistics == "merged":
        specs += [_spec(mean, own[mean], "mean") for mean, _ in pairs]
        specs += [_spec(variance, own[variance], "second_moment") for _, variance in pairs]
    return Layout(tuple(specs))


def running_statistics(module: nn.Module) -> dict[str, Tensor]:
    """The module's own running means and variances by name, each memory once."""
    own = without_aliases(_floating(module))
    return {name: own[name] for pair in _pairs(module) if set(pair) <= set(own) for name in pair}


def vector_of(module: nn.Module, layout: Layout) -> Vector:
    """A copy of `module`'s weights, (layout.size,).

    Raises:
        LayoutError: the module's tensors do not match `layout`.
    """
    own = _matching(module, layout)
    arrays = {spec.name: _array(own[spec.name]) for spec in layout.tensors}
    moments = {square: second_moment_of(arrays[mean], arrays[square]) for mean, square in layout.pairs}
    return layout.flatten({**arrays, **moments})


def load_vector(module: nn.Module, layout: Layout, vector: Vector) -> None:
    """Copies `vector` (layout.size,) into `module`. Counters of batches start again, so that a round does not depend
    on the rounds before it.

    Running statistics that the layout does not have stay as they are.

    Raises:
        LayoutError: the vector does not fit `layout`, or the module has another layout.
    """
    views = layout.views(vector)
    own = _matching(module, layout)
    variances = {square: variance_of(views[mean], views[square]) for mean, square in layout.pairs}
    with torch.no_grad():
        for name, tensor in own.items():
            if name in views:
                tensor.copy_(torch.from_numpy(np.array(variances.get(name, views[name]))))
        for part in module.modules():
            for name, buffer in part.named_buffers(recurse=False):
                if name == "num_batches_tracked":
                    buffer.zero_()


@dataclass(frozen=True)
class LoadedWeights:
    """The weights that a module really holds after loading a vector, from which training starts.

    They are not those of the vector where the module rounds (bfloat16, float16), or where a variance was at its lower
    bound. An update must not contain that difference: the device did not learn it.
    """

    start: Vector
    """As loaded, (layout.size,)."""
    _held: Arrays
    """Values of the tensors that may differ from `start`, and of all statistics."""
    _layout: Layout

    @classmethod
    def load(cls, module: nn.Module, layout: Layout, vector: Vector) -> "LoadedWeights":
        """Loads `vector` (layout.size,) into `module`; raises LayoutError as `load_vector` does."""
        load_vector(module, layout, vector)
        own, views = _floating(module), layout.views(vector)
        of_statistics = {name for pair in layout.pairs for name in pair}
        arrays = {name: _array(own[name]) for name in views}
        rounded = {name for name, array in arrays.items() if not np.array_equal(array, views[name])}
        return cls(vector, {name: arrays[name].copy() for name in rounded | of_statistics}, layout)

    def after(self, module: nn.Module) -> Vector:
        """The vector after training, (layout.size,): `start` plus what training has changed; statistics as they are.

        Where training changed nothing, the result has the bits of `start`.
        """
        layout = self._layout
        own, start = _matching(module, layout), layout.views(self.start)
        result = {spec.name: _array(own[spec.name]) for spec in layout.tensors}
        with np.errstate(over="ignore", invalid="ignore"):  # training diverged, which the caller finds
            for mean, square in layout.pairs:
                stayed = (result[mean] == self._held[mean]) & (result[square] == self._held[square])
                moment = second_moment_of(result[mean], result[square])
                result[mean] = np.where(stayed, start[mean], result[mean])
                result[square] = np.where(stayed, start[square], moment)
            for name in set(self._held) - {name for pair in layout.pairs for name in pair}:
                change = result[name].astype(np.float64) - self._held[name]
                result[name] = np.where(change == 0.0, start[name], start[name] + change)
        return layout.flatten(result)


def _spec(name: str, tensor: Tensor, kind: TensorKind = "weight") -> TensorSpec:
    return TensorSpec(name, tuple(tensor.shape), kind=kind)


def _array(tensor: Tensor) -> np.ndarray:
    exact = tensor if tensor.dtype == torch.float64 else tensor.float()
    array: np.ndarray = exact.detach().cpu().numpy()
    return array


def _floating(module: nn.Module) -> dict[str, Tensor]:
    """The module's own floating-point tensors by name.

    Raises:
        LayoutError: `state_dict` returns something else, so loading into it would have no effect.
    """
    memory = {tensor.untyped_storage().data_ptr() for tensor in (*module.parameters(), *module.buffers())}
    found: dict[str, Tensor] = {}
    for name, tensor in module.state_dict().items():
        if not isinstance(tensor, Tensor) or not tensor.is_floating_point() or tensor.numel() == 0:
            continue
        if tensor.untyped_storage().data_ptr() not in memory:
            raise LayoutError(
                f"weights: state_dict() of {type(module).__name__} returns a copy of {name!r}, not the tensor itself; "
                "remove the override or hook that copies it"
            )
        found[name] = tensor
    return found


def _check_complete(module: nn.Module, own: Mapping[str, Tensor]) -> None:
    """Checks that every trained parameter is in `state_dict`: another one would be trained and never sent.

    Raises:
        LayoutError: one is not.
    """
    memory = {tensor.untyped_storage().data_ptr() for tensor in own.values()}
    for name, parameter in module.named_parameters():
        if parameter.requires_grad and parameter.numel() and parameter.untyped_storage().data_ptr() not in memory:
            raise LayoutError(
                f"weights: state_dict() of {type(module).__name__} leaves out {name!r}, which is trained and would "
                "never be sent; remove the override or hook that leaves it out, or freeze it"
            )


def _pairs(module: nn.Module) -> Iterator[tuple[str, str]]:
    """Names of each running mean and its variance."""
    own = module.state_dict()
    buffers = {buffer.data_ptr() for buffer in module.buffers()}
    for name, mean in own.items():
        prefix, _, last = name.rpartition(".")
        variance_name = f"{prefix}.{_VARIANCE}" if prefix else _VARIANCE
        variance = own.get(variance_name) if last == _MEAN else None
        if isinstance(variance, Tensor) and mean.shape == variance.shape and mean.data_ptr() in buffers:
            yield name, variance_name


def _matching(module: nn.Module, layout: Layout) -> dict[str, Tensor]:
    """The module's floating-point tensors, if `layout` is of this module.

    A layout of an older program also names tied tensors; they must not be missing from it, or be of other modules.

    Raises:
        LayoutError: it is not.
    """
    own = _floating(module)
    shapes = {name: tuple(tensor.shape) for name, tensor in own.items()}
    wanted = {spec.name: spec.shape for spec in layout.tensors}
    kept = set(without_aliases(own))
    at_home = set() if layout.has_statistics else {name for pair in _pairs(module) for name in pair}
    is_missing = kept - set(wanted) - (set() if at_home & set(wanted) else at_home)
    if is_missing or any(shapes.get(name) != shape for name, shape in wanted.items()):
        raise LayoutError(
            f"the model is of another network than {type(module).__name__} of this task: "
            f"{different_tensors(shapes, wanted, place='the model')}"
        )
    return own
