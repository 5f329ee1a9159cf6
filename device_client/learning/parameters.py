"""Conversion between a module's weights and the one float32 vector that the wire format uses.

The vector holds the floating-point parameters and persistent floating-point buffers, in the order of `state_dict`.
Integer buffers (counters) and non-persistent buffers are not part of it.
"""

import numpy as np
import torch
from torch import Tensor, nn

from wire_contract.errors import LayoutError
from wire_contract.layout import Layout, TensorSpec, Vector, different_tensors


def _floating(module: nn.Module) -> dict[str, Tensor]:
    return {name: tensor for name, tensor in module.state_dict().items() if tensor.is_floating_point()}


def layout_of(module: nn.Module) -> Layout:
    """The layout of `module`'s weights."""
    return Layout(tuple(TensorSpec(name, tuple(tensor.shape)) for name, tensor in _floating(module).items()))


def vector_of(module: nn.Module, layout: Layout) -> Vector:
    """A copy of `module`'s weights, (layout.size,).

    Raises:
        LayoutError: the module's tensors do not match `layout`.
    """
    return layout.flatten({name: tensor.detach().cpu().numpy() for name, tensor in _floating(module).items()})


def load_vector(module: nn.Module, layout: Layout, vector: Vector) -> None:
    """Copies `vector` (layout.size,) into `module`.

    Raises:
        LayoutError: the vector does not fit `layout`, or the module has another layout.
    """
    own = _floating(module)
    views = layout.views(vector)
    here, there = ({name: tuple(one.shape) for name, one in all_.items()} for all_ in (own, views))
    if here != there:
        raise LayoutError(
            f"the model is of another network than {type(module).__name__} of this task: "
            f"{different_tensors(here, there, place='the model')}"
        )
    with torch.no_grad():
        for name, tensor in own.items():
            tensor.copy_(torch.from_numpy(np.array(views[name])))
