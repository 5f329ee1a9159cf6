"""Fixed buffers: what a network's constructor makes, the network uses, and no model contains.

These are integer, boolean and complex buffers, and buffers that are not persistent. They are not sent, so every program
must make the same values. Counters such as BatchNorm's `num_batches_tracked` are not among them: they change in
training, and nothing is computed from them as long as the momentum is a number.
"""

from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from device_client.task import Task
from wire_contract.line_description import LineDescription, describe

COUNTERS = frozenset({"num_batches_tracked"})
"""Last parts of the names of buffers that only count."""


def description_of(task: Task, network: nn.Module) -> LineDescription:
    """Labels and fixed buffers of a student or teacher of the task that was just made."""
    return describe(task.labels, fixed_buffers(network))


def fixed_buffers(network: nn.Module) -> dict[str, npt.NDArray[Any]]:
    """The fixed buffers by name, as int64 or float64; a complex one has real and imaginary part as its last dimension.

    To be called on a network that was just made: some networks change such buffers when they are trained.
    """
    sent = {
        name
        for name, tensor in network.state_dict().items()
        if isinstance(tensor, Tensor) and tensor.is_floating_point()
    }
    return {
        name: _numbers(buffer)
        for name, buffer in network.named_buffers()
        if name not in sent and name.rpartition(".")[2] not in COUNTERS
    }


def _numbers(buffer: Tensor) -> npt.NDArray[Any]:
    values = buffer.detach().cpu()
    if values.is_complex():
        values = torch.view_as_real(values)
    array: npt.NDArray[Any] = values.to(torch.float64 if values.is_floating_point() else torch.int64).numpy()
    return np.ascontiguousarray(array)
