"""What a batch and a network's outputs may be, and how inputs, targets and logits are found in them.

A batch is whatever the user's data yields:

    tensor            inputs that are their own targets (an autoencoder)
    tuple or list     (inputs, targets, …); further items are left to the user's loss
    dict              targets under "labels", "label", "targets" or "target"; inputs under "inputs", or all other items

Inputs may be a tensor, a tuple or list of tensors (`network(*inputs)`) or a dict of tensors (`network(**inputs)`). The
first dimension of every tensor is the example.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import is_dataclass
from typing import Any

import torch
from torch import Tensor, nn

Batch = Any
Forward = Callable[[nn.Module, Batch], Any]
"""Maps a network and a batch to the network's outputs."""

INPUTS = "inputs"
TARGETS = ("labels", "label", "targets", "target")
"""The keys of a dict batch under which targets are looked for, in this order."""


def inputs_of(batch: Batch) -> Any:
    """The inputs in a batch."""
    if isinstance(batch, Mapping):
        return batch[INPUTS] if INPUTS in batch else {key: item for key, item in batch.items() if key not in TARGETS}
    return batch[0] if isinstance(batch, (tuple, list)) else batch


def targets_of(batch: Batch) -> Any:
    """The targets in a batch; a batch without targets has its inputs as targets."""
    if isinstance(batch, Mapping):
        return next((batch[key] for key in TARGETS if key in batch), inputs_of(batch))
    if isinstance(batch, (tuple, list)):
        return batch[1] if len(batch) > 1 else batch[0]
    return batch


def with_inputs(batch: Batch, inputs: Any) -> Batch:
    """The batch with other inputs, for example augmented ones."""
    if isinstance(batch, Mapping):
        return {**batch, INPUTS: inputs} if INPUTS in batch else {**batch, **inputs}
    return (inputs, *batch[1:]) if isinstance(batch, (tuple, list)) else inputs


def outputs_of(network: nn.Module, batch: Batch) -> Any:
    """The network's outputs for a batch."""
    inputs = inputs_of(batch)
    if isinstance(inputs, Mapping):
        return network(**inputs)
    return network(*inputs) if isinstance(inputs, (tuple, list)) else network(inputs)


def logits_in(outputs: Any) -> Any:
    """The main output: the attribute or key `logits`, the first item of a tuple, or the outputs themselves."""
    if isinstance(outputs, Tensor):
        return outputs
    if isinstance(outputs, Mapping) and "logits" in outputs:
        return outputs["logits"]
    if hasattr(outputs, "logits"):
        return outputs.logits
    return outputs[0] if isinstance(outputs, (tuple, list)) else outputs


# Structures of tensors


def leaves(tree: Any) -> Iterator[Tensor]:
    """The tensors of a structure of tuples, lists, dicts and dataclasses, in order."""
    if isinstance(tree, Tensor):
        yield tree
    else:
        for item in _items(tree):
            yield from leaves(item)


def _items(tree: Any) -> Sequence[Any]:
    if isinstance(tree, Mapping):
        return list(tree.values())
    if isinstance(tree, (tuple, list)):
        return tree
    return list(vars(tree).values()) if is_dataclass(tree) else ()


def mapped(tree: Any, change: Callable[[Tensor], Tensor]) -> Any:
    """The structure with every tensor changed; what is not a tensor stays as it is."""
    if isinstance(tree, Tensor):
        return change(tree)
    if isinstance(tree, Mapping):
        items = {key: mapped(item, change) for key, item in tree.items()}
        if type(tree) is dict:
            return items
        # A `ModelOutput` is a dataclass and a mapping at once.
        return type(tree)(**items) if is_dataclass(tree) else type(tree)(items)  # type: ignore[call-arg]
    if isinstance(tree, (tuple, list)):
        changed = [mapped(item, change) for item in tree]
        return type(tree)(*changed) if hasattr(tree, "_fields") else type(tree)(changed)
    if is_dataclass(tree) and not isinstance(tree, type):
        return type(tree)(**{name: mapped(item, change) for name, item in vars(tree).items()})
    return tree


def joined(parts: Sequence[Any]) -> Any:
    """Structures of the same form, such as two batches, as one: their tensors concatenated along the first dimension.

    What is not a tensor is taken from the first part.
    """
    rows = [list(leaves(part)) for part in parts]
    whole = iter([torch.cat(tensors) for tensors in zip(*rows, strict=True)])
    return mapped(parts[0], lambda _tensor: next(whole))


def size_of(batch: Batch) -> int:
    """The number of examples in a batch: the first dimension of its first tensor; 1 if there is none."""
    first = next(leaves(batch), None)
    return 1 if first is None or first.ndim == 0 else len(first)


def detached(tree: Any) -> Any:
    """The structure without gradients."""
    return mapped(tree, Tensor.detach)


def device_of(network: nn.Module) -> torch.device:
    """Where the network's parameters are."""
    return next((tensor.device for tensor in network.parameters()), torch.device("cpu"))


def placement(network: nn.Module) -> Callable[[Batch], Batch]:
    """How a batch gets to a network: on its device, with floating-point inputs in its dtype.

    float64, the dtype of numpy's arrays, becomes float32 unless the network computes in it. A network of several dtypes
    gets float32 inputs.
    """
    floating = [tensor for tensor in network.parameters() if tensor.is_floating_point()]
    dtypes = {tensor.dtype for tensor in floating}
    dtype = dtypes.pop() if len(dtypes) == 1 else None
    device = device_of(network)

    def move(tensor: Tensor) -> Tensor:
        here = tensor.to(device)
        return here.float() if here.dtype == torch.float64 != dtype else here

    def cast(tensor: Tensor) -> Tensor:
        return tensor if dtype is None or not tensor.is_floating_point() else tensor.to(dtype)

    def place(batch: Batch) -> Batch:
        here = mapped(batch, move)
        return with_inputs(here, mapped(inputs_of(here), cast))

    return place
