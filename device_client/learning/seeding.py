"""Random seeds: of local training, the same on every machine and in every process, and of what constructors draw."""

import hashlib
import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar

import numpy as np
import torch
from torch import nn

from wire_contract.errors import LayoutError
from wire_contract.layout import different_tensors

_NUMPY_SEEDS = 2**32
_is_seeded: ContextVar[bool] = ContextVar("_is_seeded", default=False)
"""Whether the caller has chosen the seed of initial weights."""


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Seeds the global random generators of torch, numpy and random inside the block (initial weights, dropout), and
    restores them afterwards.
    """
    of_python, of_numpy, token = random.getstate(), np.random.get_state(), _is_seeded.set(True)  # noqa: NPY002
    try:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            np.random.seed(seed % _NUMPY_SEEDS)  # noqa: NPY002 - what the user's constructor may draw from
            random.seed(seed)
            yield
    finally:
        random.setstate(of_python)
        np.random.set_state(of_numpy)  # noqa: NPY002
        _is_seeded.reset(token)


def constructed(make: Callable[[], nn.Module], *, name: str) -> nn.Module:
    """A network from its constructor. What it draws at random and does not send, such as a permutation, is drawn under
    one seed in every program; inside a `seeded` block, only its initial weights are drawn from there.

    Args:
        make: the constructor.
        name: of the network, from which that seed is derived.

    Raises:
        LayoutError: the shapes of its weights depend on random numbers.
    """
    drawn = make() if _is_seeded.get() else None
    with seeded(int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big") >> 1):
        network = make()
    if drawn is not None:
        _copy_weights(drawn, network)
    return network


def _copy_weights(source: nn.Module, target: nn.Module) -> None:
    """Copies all that is sent: floating-point parameters and persistent floating-point buffers."""
    one, other = (
        {
            name: tensor
            for name, tensor in network.state_dict().items()
            if isinstance(tensor, torch.Tensor) and tensor.is_floating_point()
        }
        for network in (source, target)
    )
    here, there = ({name: tuple(tensor.shape) for name, tensor in all_.items()} for all_ in (one, other))
    if here != there:
        raise LayoutError(f"two calls make different networks: {different_tensors(here, there, place='the second')}")
    with torch.no_grad():
        for name, tensor in other.items():
            tensor.copy_(one[name])


def seed_of(*parts: int) -> int:
    """One seed derived from several numbers; (seed 1, version 2) and (seed 2, version 1) give different ones."""
    return int(np.random.SeedSequence(parts).generate_state(1, np.uint64)[0] >> np.uint64(1))


def round_seed(device: str, *, version: int, round_number: int, seed: int = 0) -> int:
    """The seed of one round of one device: reproducible anywhere, and different for every round and device."""
    named = f"{seed}/{device}/{version}/{round_number}".encode()
    return int.from_bytes(hashlib.sha256(named).digest()[:8], "big") >> 1
