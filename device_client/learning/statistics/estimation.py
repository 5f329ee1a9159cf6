"""Running statistics estimated from data, for a model whose statistics stayed at home.

One pass over inputs without labels, as in AdaBN (Li et al. 2016, arXiv:1603.04779): each layer gets the mean and the
variance of its activations on these inputs. So the figures of an evaluator are those of a model adapted to its data.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn
from torch.nn.modules.batchnorm import _NormBase

from device_client.learning.parameters import load_vector, running_statistics
from device_client.task import Data, Objective
from device_client.task.batches import placement, size_of
from device_client.task.batching import evaluation_batches
from wire_contract.layout import Layout, Vector

_BATCH_SIZE = 64
"""Examples. Chosen: statistics of a batch are means over many examples, and the memory is that of training."""


def load_model(module: nn.Module, layout: Layout, vector: Vector, data: Data, objective: Objective) -> bool:
    """Loads `vector` (layout.size,) into `module`; returns whether its statistics are estimated from `data`, because
    the layout has none.

    Raises:
        LayoutError: as `load_vector`.
    """
    load_vector(module, layout, vector)
    missing = set(running_statistics(module)) - {spec.name for spec in layout.tensors}
    if missing:
        estimate(module, data, objective)
    return bool(missing)


def estimate(module: nn.Module, data: Data, objective: Objective) -> None:
    """Sets the running statistics of `module` to those of its activations on the inputs of `data`."""
    place = placement(module)
    with torch.no_grad(), _measuring(module):
        for number, batch in enumerate(evaluation_batches(data, _BATCH_SIZE)):
            if size_of(batch) > 1 or number == 0:  # a single example has no variance
                objective.forward(module, place(batch))


@contextmanager
def _measuring(module: nn.Module) -> Iterator[None]:
    """In evaluation mode, except for layers with statistics, which average over all batches from now on."""
    was_training = module.training
    module.eval()
    layers = [part for part in module.modules() if {"running_mean", "running_var"} <= set(part._buffers)]  # noqa: SLF001
    momenta = {layer: layer.momentum for layer in layers if isinstance(layer, _NormBase)}
    for layer in layers:
        layer.training = True
        if isinstance(layer, _NormBase):
            layer.reset_running_stats()
            layer.momentum = None
    try:
        yield
    finally:
        for layer, momentum in momenta.items():
            layer.momentum = momentum
        module.train(was_training)
