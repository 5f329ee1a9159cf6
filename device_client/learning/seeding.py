"""Random seeds of local training: the same on every machine and in every process."""

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Seeds torch's global random generator (initial weights, dropout) inside the block, and restores it afterwards."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        yield


def seed_of(*parts: int) -> int:
    """One seed derived from several numbers; (seed 1, version 2) and (seed 2, version 1) give different ones."""
    return int(np.random.SeedSequence(parts).generate_state(1, np.uint64)[0] >> np.uint64(1))


def round_seed(device: str, *, version: int, round_number: int, seed: int = 0) -> int:
    """The seed of one round of one device: reproducible anywhere, and different for every round and device."""
    named = f"{seed}/{device}/{version}/{round_number}".encode()
    return int.from_bytes(hashlib.sha256(named).digest()[:8], "big") >> 1
