"""Tensors of a module that share memory: tied weights, and views registered beside the tensor that they look into."""

from collections import defaultdict
from collections.abc import Mapping

import torch
from torch import Tensor

from wire_contract.errors import LayoutError


def without_aliases(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors, in their order, without those whose memory lies within that of others.

    Of tensors with the same memory, the first one stays. Setting those that stay sets all.

    Raises:
        LayoutError: a tensor shares only a part of its memory with others.
    """
    by_storage: dict[int, list[str]] = defaultdict(list)
    for name, tensor in tensors.items():
        by_storage[tensor.untyped_storage().data_ptr()].append(name)
    aliases: set[str] = set()
    for names in by_storage.values():
        if len(names) > 1:
            aliases |= _aliases({name: tensors[name] for name in names})
    return {name: tensor for name, tensor in tensors.items() if name not in aliases}


def _aliases(tensors: Mapping[str, Tensor]) -> set[str]:
    """Names of those tensors, all in one storage, that others contain."""
    offsets = {name: _offsets(tensor) for name, tensor in tensors.items()}
    used: Tensor = torch.empty(0, dtype=torch.int64)
    found = set()
    for name in sorted(tensors, key=lambda name: -len(offsets[name])):  # stable: of equal sizes the first one first
        shared = int(torch.isin(offsets[name], used).sum())
        if shared == 0:
            used = torch.cat((used, offsets[name]))
        elif shared == len(offsets[name]):
            found.add(name)
        else:
            raise LayoutError(
                f"weights: {name!r} shares a part of its memory with other tensors; register a tensor of its own, or "
                "one that contains it"
            )
    return found


def _offsets(tensor: Tensor) -> Tensor:
    """The distinct positions of the elements in the storage, in bytes."""
    positions: Tensor = torch.tensor([tensor.storage_offset()])
    for size, stride in zip(tensor.shape, tensor.stride(), strict=True):
        positions = (positions[:, None] + torch.arange(size) * stride).flatten()
    distinct: Tensor = positions.unique()  # type: ignore[no-untyped-call]
    return distinct * tensor.element_size()
